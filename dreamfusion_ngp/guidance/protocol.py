"""Protocols of guidance, which pulls a rendering towards its text: the guidance, and the denoiser and rule that make
one up."""

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

# The texts for `Denoiser.answers`: the prompt with the words of its view; the prompt alone; nothing (with
# `guidance.keep_view` the words of the view); the negative prompt; the prompt with the words of `guidance.flaws`.
TEXTS = ("text", "plain", "empty", "negative", "flawed")


@dataclass(frozen=True)
class GuidanceOutput:
    """The result of a guidance for a batch of images.

    gradient: float32, of the images' shape, of the guidance's loss on the images, mean-reduced over views.  value: the
    loss, a 0-d tensor.  log: numbers or detached 0-d tensors to record.
    """

    gradient: Tensor
    value: Tensor
    log: dict[str, float | Tensor]


class Guidance(Protocol):
    """Loss and gradient on renderings.

    image: (B, H, W, 3) float32 in [0, 1], without autograd; with `GuidanceConfig.layers` (B, H, W, 4), colours over
    black and opacity, and so is the gradient.  views: of the B images. part: the number of batches before in the run;
    all randomness is a function of it and the run's seed. progress: fraction of the run in [0, 1).
    """

    def __call__(self, image: Tensor, views: Views, part: int, progress: float) -> GuidanceOutput: ...

    def tensors(self) -> dict[str, Tensor]:
        """Named tensors that the guidance changes in place as it learns, for the checkpoint. {} if frozen."""
        ...


@dataclass(frozen=True)
class Predictions:
    """Predictions of a network for B noisy views, in the terms of its schedule's `prediction`.

    uncond, cond: (B, C, h, w) float32. negatives: N more, for texts to steer away from, with weights (N, B). together:
    so many consecutive views are of one object, None: all of them.
    """

    uncond: Tensor
    cond: Tensor
    negatives: tuple[Tensor, ...] = ()
    weights: Tensor | None = None
    together: int | None = None

    @staticmethod
    def joined(slices: Sequence[Predictions]) -> Predictions:
        """The predictions for slices of the views, concatenated."""
        negatives = tuple(torch.cat(n) for n in zip(*(p.negatives for p in slices), strict=True))
        all_weights = [p.weights for p in slices if p.weights is not None]
        weights = torch.cat(all_weights, 1) if all_weights else None
        uncond, cond = torch.cat([p.uncond for p in slices]), torch.cat([p.cond for p in slices])
        return Predictions(uncond, cond, negatives, weights)


def settled_scale(config: GuidanceConfig) -> float:
    """The guidance scale of a config that must have one, such as a `Distill` gets."""
    assert config.scale is not None
    return config.scale


class Denoiser(Protocol):
    """A diffusion model on `device`, with its texts.

    shape: (C, h, w) of its input for one view. scale: guidance scale, uncond + scale (cond - uncond), if the config has
    none. views_together: whether it processes the views of a step jointly, so that they must come in one call.
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
        """Predictions for z (b, C, h, w) = alpha_t x + sigma_t eps at (b,) int64 timesteps, without autograd. views:
        the b views, with their cameras."""
        ...

    def answers(self, z: Tensor, t: np.ndarray, views: Views, texts: Sequence[str]) -> tuple[Tensor, ...]:
        """eps_hat (b, C, h, w) of z as in `predict`, for each of `texts`, of TEXTS: one evaluation each."""
        ...


class Distill(Protocol):
    """A distillation rule: a flat function, called without autograd.

    x: (b, C, h, w), encoded images.  noise: of its shape.  t: (b,) int64 timesteps.  config: with a `scale`. moment:
    the point in the run, and more random numbers. Returns the gradient (b, C, h, w) on x of one view, before the mean
    over views and numbers. A rule that learns is a class with this `__call__` and with `tensors()` like a guidance's;
    with `views_together` it gets all views of a batch at once, however they are sliced.
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
