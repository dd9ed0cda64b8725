"""The guidance protocol: what pulls a rendering towards its text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..scene.views import Views


@dataclass(frozen=True)
class GuidanceOutput:
    """What a guidance says of a batch of images.

    gradient: (B, H, W, 3) float32, of the guidance's loss on the images, mean-reduced over views.  value: the loss, a
    0-d tensor.  log: numbers or detached 0-d tensors to record.
    """

    gradient: Tensor
    value: Tensor
    log: dict[str, float | Tensor]


class Guidance(Protocol):
    """Judges renderings.

    image: (B, H, W, 3) float32 in [0, 1], without autograd.  views: the B views it shows.  part: how many parts of
    steps the run has made; all randomness is a function of the run's seed and of it.  progress: fraction of the run in
    [0, 1).
    """

    def __call__(self, image: Tensor, views: Views, part: int, progress: float) -> GuidanceOutput: ...

    def tensors(self) -> dict[str, Tensor]:
        """Named tensors that the guidance changes as it works, in place: they go into the checkpoint. {} if frozen."""
        ...
