"""Guidance by score distillation: images are encoded, a rule distils a denoiser, and the gradient goes back through the
encoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..base.slots import sent
from ..config.schema import RunConfig
from ..scene.views import Views
from .distill.sds import sds
from .moment import Moment
from .protocol import Denoiser, Distill, GuidanceOutput, Predictions
from .schedule import sample_noise, weight
from .shared_noise import shared_noise

D = TypeVar("D", bound=Denoiser)


class ScoreDistillation(Generic[D]):
    """See `protocol.Guidance` for the call.

    rule: computes the gradient on the encoded images. resident: a context in which the denoiser's network is on its
    device. The guidance scale is the config's, else the denoiser's.
    """

    def __init__(
        self,
        config: RunConfig,
        denoiser: D,
        rule: Distill = sds,
        resident: Callable[[], AbstractContextManager] = nullcontext,
    ):
        scale = denoiser.scale if config.guidance.scale is None else config.guidance.scale
        self.config, self.seed = replace(config.guidance, scale=float(scale)), config.seed
        self.denoiser, self.rule, self.resident = denoiser, rule, resident

    def tensors(self) -> dict[str, Tensor]:
        rule_tensors: Callable[[], dict[str, Tensor]] = getattr(self.rule, "tensors", dict)
        return rule_tensors()

    def __call__(self, image: Tensor, views: Views, part: int, progress: float) -> GuidanceOutput:
        if image.ndim != 4 or image.shape[3] != 3 or image.shape[1] != image.shape[2] or len(image) != len(views):
            raise ValueError(f"image: must be ({len(views)}, H, H, 3), got {tuple(image.shape)}")
        if image.device.type != self.denoiser.device.type:
            raise ValueError(f"image: must be on {self.denoiser.device}, got {image.device}")
        shape, length = (len(image), *self.denoiser.shape), len(self.denoiser.schedule)
        t, noise = sample_noise(self.config, shape, seed=self.seed, part=part, progress=progress, length=length)
        if self.config.noise == "shared":
            refresh = self.config.noise_refresh
            noise = shared_noise(self.denoiser.shape, views.cameras, seed=self.seed, part=part, refresh=refresh)
        moment = Moment(self.seed, part, progress, len(image))
        with self.resident():
            pulled, gradient = self._distill(image, t, noise, views, moment)
        pulled = clip_pixels(pulled, self.config.clip_gradient)
        return GuidanceOutput(pulled, value_of(gradient), self._describe(t, gradient))

    def _distill(
        self, image: Tensor, t: np.ndarray, noise: np.ndarray, views: Views, moment: Moment
    ) -> tuple[Tensor, Tensor]:
        """Gradients on the image (B, H, H, 3), of the mean, and on the encoded image (B, C, h, w), before the mean.
        `guidance.slice` views at a time, so that the encoder's activations are freed early."""
        n, size = len(image), self.config.slice or len(image)
        cuts = [slice(i, i + size) for i in range(0, n, size)]
        together = self._needs_all() and len(cuts) > 1
        whole = self._rule_on_all(image, t, noise, views, moment, cuts) if together else None
        pulled, gradients = [], []
        for p in cuts:
            leaf = image[p].detach().requires_grad_()
            with torch.enable_grad():
                x = self.denoiser.encode(leaf)
            if whole is not None:
                gradient = whole[p]
            else:
                gradient = self._rule(self.denoiser, x.detach(), t[p], noise[p], views[p], moment.of(p))
            pulled.append(pull_back(x, leaf, gradient, n))
            gradients.append(gradient)
        return torch.cat(pulled), torch.cat(gradients)

    def _needs_all(self) -> bool:
        """Whether the gradient on a view depends on other views."""
        rescaled = self.config.rescale > 0 and self.config.rescale_of == "clean"
        return self.denoiser.views_together or rescaled or getattr(self.rule, "views_together", False)

    @torch.no_grad()
    def _rule_on_all(
        self, image: Tensor, t: np.ndarray, noise: np.ndarray, views: Views, moment: Moment, cuts: list[slice]
    ) -> Tensor:
        """The rule's gradient if it depends on all views. The encoder runs twice: keeping its activations would cost
        the memory that slices save."""
        x = torch.cat([self.denoiser.encode(image[p]) for p in cuts])
        denoiser = self.denoiser if self.denoiser.views_together else Sliced(self.denoiser, cuts)
        return self._rule(denoiser, x, t, noise, views, moment)

    @torch.no_grad()
    def _rule(
        self, denoiser: Denoiser, x: Tensor, t: np.ndarray, noise: np.ndarray, views: Views, moment: Moment
    ) -> Tensor:
        return self.rule(denoiser, x, sent(noise, x.device, x.dtype), t, views, self.config, moment)

    def _describe(self, t: np.ndarray, gradient: Tensor) -> dict[str, float | Tensor]:
        """t: mean, as a fraction of the schedule. gradient_rms: of the gradient on the encoded images. residual_rms: of
        the same without the weight w(t), in units of the noise."""
        schedule = self.denoiser.schedule
        residual = gradient / weight(*schedule.coefficients(t, gradient), self.config.weighting)
        return {"t": float(t.mean()) / len(schedule), "gradient_rms": _rms(gradient), "residual_rms": _rms(residual)}


class Sliced:
    """A denoiser that processes slices (`cuts`) of the views one after the other."""

    def __init__(self, denoiser: Denoiser, cuts: list[slice]):
        self.denoiser, self.cuts = denoiser, cuts
        self.shape, self.schedule, self.scale = denoiser.shape, denoiser.schedule, denoiser.scale
        self.device, self.views_together = denoiser.device, False

    def encode(self, image: Tensor) -> Tensor:
        return self.denoiser.encode(image)

    def predict(self, z: Tensor, t: np.ndarray, views: Views) -> Predictions:
        return Predictions.joined([self.denoiser.predict(z[p], t[p], views[p]) for p in self.cuts])

    def answers(self, z: Tensor, t: np.ndarray, views: Views, texts: Sequence[str]) -> tuple[Tensor, ...]:
        slices = [self.denoiser.answers(z[p], t[p], views[p], texts) for p in self.cuts]
        return tuple(torch.cat(part) for part in zip(*slices, strict=True))


def value_of(gradient: Tensor) -> Tensor:
    """mean(gradient^2) / 2, the value of the loss 1/2 (x - stopgrad(x - gradient))^2."""
    return 0.5 * gradient.square().mean()


def pull_back(x: Tensor, image: Tensor, gradient: Tensor, views: int) -> Tensor:
    """The gradient on `image`, a leaf that x (b, C, H, W) was computed from, of the mean over `views` views and the C H
    W numbers of each: J^T gradient / (C H W) / views. Weights of other losses are relative to that. Computed at once,
    so that the encoder's activations of this slice are freed.

    In the backward it is scaled by the power of two nearest to C H W views: in a float16 encoder the gradients of the
    mean would underflow; in float32 this changes nothing.
    """
    count = x[0].numel() * views
    each = torch.ones((), dtype=x.dtype, device=x.device) / count
    boost = 2.0 ** round(math.log2(count))
    return torch.autograd.grad(x, image, gradient * each * boost)[0] / boost


def clip_pixels(gradient: Tensor, limit: float | None) -> Tensor:
    """Gradient (B, H, W, C) on images with the norm of each pixel over the channels, times B H W C to undo the mean,
    limited to `limit`: pixel-wise gradient clipping (Pan et al., ICLR 2024), so that a few huge pixels from an encoder
    do not dominate. limit None: unchanged."""
    if limit is None:
        return gradient
    norm = gradient.norm(dim=-1, keepdim=True) * gradient.numel()
    return gradient * (limit / norm.clamp_min(1e-30)).clamp_max(1.0)


def _rms(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()
