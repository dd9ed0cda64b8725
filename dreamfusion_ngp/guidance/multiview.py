"""Turns a UNet into a multi-view one (Shi et al., "MVDream", ICLR 2024): self-attention runs over the positions of all
views of an object, and a projection of each view's camera is added to the time embedding.

diffusers' UNet2DConditionModel with `class_embed_type="projection"` and 16 inputs is that network, parameter for
parameter: the projection is its `class_embedding`. Rows of a batch are (b f): the views of one object are consecutive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..scene.cameras import Cameras

VIEWS = 4  # of one object, by default
CAMERA = 16  # numbers of a camera
# Our axes (x, y, z) in MVDream's world, where z is up and an object's front faces +x: rows of x' = z, y' = x, z' = y.
TO_Z_UP = ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
TINY = 1e-8


def camera_numbers(cameras: Cameras) -> Tensor:
    """(B, 16) float32, the input of the projection: the 4 x 4 matrix from camera (x right, y up, looking down -z) to
    world, row by row, in a world whose z is up and where azimuth 0 is on +x, the position divided by its length."""
    c2w = torch.tensor(TO_Z_UP, device=cameras.c2w.device) @ cameras.c2w
    place = c2w[:, :, 3:]
    place = place / (place.norm(dim=1, keepdim=True) + TINY)
    last = c2w.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(c2w), 1, 4)
    return torch.cat([torch.cat([c2w[:, :, :3], place], 2), last], 1).flatten(1)


class JointAttention:
    """An attention processor: self-attention over the positions of `views` consecutive rows of the batch. inner: the
    processor that does it; it calls the layers, so that wrappers of these (LoRA) take effect."""

    def __init__(self, inner: Callable, views: int = VIEWS):
        self.inner, self.views = inner, views

    def __call__(self, attn: nn.Module, hidden_states: Tensor, *args, **named) -> Tensor:
        """hidden_states: (b f, positions, channels)."""
        rows, positions, channels = hidden_states.shape
        if rows % self.views:
            raise ValueError(f"{rows} rows are no multiple of {self.views} views")
        joined = hidden_states.reshape(rows // self.views, self.views * positions, channels)
        return self.inner(attn, joined, *args, **named).reshape(rows, positions, channels)


def attend_jointly(unet: Any, inner: Callable, views: int = VIEWS) -> None:
    """Make the self-attention of a UNet2DConditionModel run over all views of an object; cross-attention stays per
    view."""
    joint = JointAttention(inner, views)
    unet.set_attn_processor(
        {name: joint if name.endswith("attn1.processor") else inner for name in unet.attn_processors}
    )


@contextmanager
def each_alone(unet: Any) -> Iterator[None]:
    """Within the block a UNet2DConditionModel takes single pictures without cameras, like the text-to-image model that
    it comes from."""
    joint = {p for p in unet.attn_processors.values() if isinstance(p, JointAttention)}
    views, embedding = [(p, p.views) for p in joint], unet.class_embedding
    unet.class_embedding = None
    for p in joint:
        p.views = 1
    try:
        yield
    finally:
        unet.class_embedding = embedding
        for p, count in views:
            p.views = count
