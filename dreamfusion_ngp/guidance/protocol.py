"""Protocols of guidance, what pulls a rendering towards its text: a guidance, and the two that one is composed of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..config.schema import GuidanceConfig
from ..scene.views import Views
from .moment import Moment
from .schedule import Schedule

# What `Denoiser.answers` can be asked for: the prompt with the words of its view; the prompt alone; nothing (the words
# of the view, with `guidance.keep_view`); the negative prompt; the prompt with the words of `guidance.flaws`.
TEXTS = ("text", "plain", "empty", "negative", "flawed")


@dataclass(frozen=True)
class GuidanceOutput:
    """What a guidance says of a batch of images.

    gradient: float32, of the images' shape, of the guidance's loss on the images, mean-reduced over views.  value: the
    loss, a 0-d tensor.  log: numbers or detached 0-d tensors to record.
    """

    gradient: Tensor
    value: Tensor
    log: dict[str, float | Tensor]


class Guidance(Protocol):
    """Judges renderings.

    image: (B, H, W, 3) float32 in [0, 1], without autograd; with `GuidanceConfig.layers` (B, H, W, 4), colours over
    black and opacity, and so is the gradient.  views: the B views it shows.  part: how many parts of
    steps the run has made; all randomness is a function of the run's seed and of it.  progress: fraction of the run in
    [0, 1).
    """

    def __call__(self, image: Tensor, views: Views, part: int, progress: float) -> GuidanceOutput: ...

    def tensors(self) -> dict[str, Tensor]:
        """Named tensors that the guidance changes as it works, in place: they go into the checkpoint. {} if frozen."""
        ...


@dataclass(frozen=True)
class Predictions:
    """What a network predicts of B noisy views, in the terms of its schedule's `prediction`.

    uncond, cond: (B, C, h, w) float32.  negatives: N more of them, for texts to steer away from, with weights (N, B).
    """

    uncond: Tensor
    cond: Tensor
    negatives: tuple[Tensor, ...] = ()
    weights: Tensor | None = None

    @staticmethod
    def joined(parts: Sequence[Predictions]) -> Predictions:
        """Those of parts of the views as one."""
        negatives = tuple(torch.cat(n) for n in zip(*(p.negatives for p in parts), strict=True))
        said = [p.weights for p in parts if p.weights is not None]
        weights = torch.cat(said, 1) if said else None
        return Predictions(torch.cat([p.uncond for p in parts]), torch.cat([p.cond for p in parts]), negatives, weights)


def settled_scale(config: GuidanceConfig) -> float:
    """The guidance scale of a config in which there is one, as in that which a `Distill` is given."""
    assert config.scale is not None
    return config.scale


class Denoiser(Protocol):
    """A diffusion model on `device`, with its texts.

    shape: (C, h, w) of what it sees of one view.  scale: guidance scale, uncond + scale (cond - uncond), where the
    config names none.  views_together: whether the views of a step are one thing to it, and so must come in one call.
    """

    shape: tuple[int, int, int]
    schedule: Schedule
    scale: float
    views_together: bool
    device: torch.device

    def encode(self, image: Tensor, /) -> Tensor:
        """Images (b, H, H, 3) in [0, 1] -> x (b, C, h, w) in the model's range. Differentiable."""
        ...

    def predict(self, z: Tensor, t: np.ndarray, views: Views) -> Predictions:
        """Of z (b, C, h, w) = alpha_t x + sigma_t eps at (b,) int64 timesteps, without autograd. views: the b views,
        with their cameras."""
        ...

    def answers(self, z: Tensor, t: np.ndarray, views: Views, texts: Sequence[str]) -> tuple[Tensor, ...]:
        """eps_hat (b, C, h, w) of z as in `predict`, for each of `texts`, of TEXTS: one evaluation each."""
        ...


class Distill(Protocol):
    """A distillation rule: a flat function, called without autograd.

    x: (b, C, h, w), encoded images.  noise: of its shape.  t: (b,) int64 timesteps.  config: with its `scale` settled.
    moment: when in the run, and more random numbers. Returns the gradient (b, C, h, w) on x of one view, before the
    mean over views and numbers. A rule that learns is a class with such a `__call__` and `tensors()`, as a guidance has
    it; with `views_together` it is asked about all views of a part at once, however they are sliced.
    """

    def __call__(
        self,
        denoiser: Denoiser,
        x: Tensor,
        noise: Tensor,
        t: np.ndarray,
        views: Views,
        config: GuidanceConfig,
        moment: Moment,
    ) -> Tensor: ...
