"""A diffusion model in closed form: the exact posterior mean over a finite bank of pictures of one toy.

For x drawn from a bank {x_k} and z = alpha x + sigma eps,
    E[x | z] = sum_k softmax_k(-|z - alpha x_k|^2 / (2 sigma^2)) x_k,      eps_hat = (z - alpha E[x | z]) / sigma.
Conditioning restricts the bank: to pictures with the same view words (those of the config), to pictures from nearby
cameras, or not at all.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from ..base.rng import Stream, generator
from ..config.prompts import VIEW_WORDS
from ..config.schema import RunConfig
from ..guidance.protocol import GuidanceOutput, Predictions
from ..guidance.schedule import Schedule
from ..guidance.score_distillation import ScoreDistillation
from ..scene.cameras import spherical
from ..scene.lights import sample_light_positions, shading_rows
from ..scene.views import Views, sample_views
from .world.shapes import COLORS, PARAMETERS
from .world.tracer import part_colors, shade, trace

NEAREST = 6  # pictures that "camera" conditioning chooses from


def cosine_schedule() -> np.ndarray:
    """(1000,) abar of Nichol & Dhariwal 2021."""
    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.cumprod(np.maximum(f[1:] / f[:-1], 0.001))


class Oracle:
    """The guidance protocol over a bank of `size` views of `toy`, each in the three shading modes. With `camera`, a
    view conditions on its camera, else on the view words of `config.guidance.view_words` ("none": on nothing).

    The background of a rendering is read from its corners, where no toy is, and the bank is composited over it.
    """

    def __init__(self, config: RunConfig, toy: str, color: str, camera: bool = False, size: int = 300):
        plain = replace(config.guidance, scale=None, rescale=0.0, clip_clean=False, clip_gradient=None)
        self.config, self.camera, self.schedule = replace(config, guidance=plain), camera, Schedule(cosine_schedule())
        self.describe = VIEW_WORDS[config.guidance.view_words]
        random = generator(1, 0, Stream.TEST)
        views = sample_views(config.camera, config.light, size, 1.0, random)
        self.azimuth, self.elevation = views.cameras.azimuth, views.cameras.elevation
        self.words = np.array(
            [self.describe(a, e) for a, e in zip(self.azimuth.tolist(), self.elevation.tolist(), strict=True)]
        )
        buffer = trace(toy, torch.zeros(size, PARAMETERS), views.cameras, config.render.resolution)
        colors = part_colors(torch.tensor(COLORS[color])[None].expand(size, 3))
        light = sample_light_positions(config.light, views.cameras.position, random)
        black = torch.zeros(1, 1, 1, 3)
        self.bank = torch.stack(
            [shade(buffer, colors, shading_rows(config.light, light, np.full(size, mode)), black) for mode in range(3)]
        ).permute(0, 1, 4, 2, 3)
        self.clear = 1 - buffer.alpha.float()[:, None] / 255

    def choice(self, azimuth: float, elevation: float) -> torch.Tensor:
        """Indices of the pictures that a view conditions on."""
        same = torch.from_numpy(np.flatnonzero(self.words == self.describe(azimuth, elevation)))
        if len(same) and not self.camera:
            return same
        one = torch.ones(1)
        here = spherical(one, one * azimuth, one * elevation)
        return (spherical(torch.ones_like(self.azimuth), self.azimuth, self.elevation) @ here[0]).topk(NEAREST).indices

    def tensors(self) -> dict[str, torch.Tensor]:
        return {}

    def __call__(self, image: torch.Tensor, views: Views, part: int, progress: float) -> GuidanceOutput:
        background = image[:, [0, 0, -1, -1], [0, -1, 0, -1]].mean(1)
        banks = []
        for color, mode, a, e in zip(
            background, views.modes, views.cameras.azimuth.tolist(), views.cameras.elevation.tolist(), strict=True
        ):
            k = self.choice(a, e)
            banks.append((self.bank[mode, k] + self.clear[k] * color[:, None, None]) * 2 - 1)
        return ScoreDistillation(self.config, Posterior(banks, self.schedule))(image, views, part, progress)


class Posterior:
    """The denoiser protocol over one bank (K, 3, H, H) for each view, in [-1, 1]; its prediction is the same with and
    without a text."""

    scale, views_together = 1.0, True

    def __init__(self, banks: list[torch.Tensor], schedule: Schedule):
        self.banks, self.schedule = banks, schedule
        channels, height, width = banks[0].shape[1:]
        self.shape, self.device = (channels, height, width), banks[0].device

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        return image.permute(0, 3, 1, 2) * 2 - 1

    def predict(self, z: torch.Tensor, t: np.ndarray, views: Views) -> Predictions:
        (noise_hat,) = self.answers(z, t, views, ("text",))
        return Predictions(noise_hat, noise_hat)

    def answers(self, z: torch.Tensor, t: np.ndarray, views: Views, texts: Sequence[str]) -> tuple[torch.Tensor, ...]:
        alpha, sigma = self.schedule.coefficients(t, z)
        rows = zip(z, self.banks, alpha, sigma, strict=True)
        noise_hat = torch.stack([(zi - a * posterior_mean(zi, bank, a, s)) / s for zi, bank, a, s in rows])
        return (noise_hat,) * len(texts)


def posterior_mean(z, bank, alpha, sigma):
    """E[x | z] for one noisy picture z (3, H, W) and a bank (K, 3, H, W)."""
    residual = (z - alpha * bank).flatten(1)
    weights = torch.softmax(-residual.square().sum(1) / (2 * sigma.flatten() ** 2), 0)
    return (weights @ bank.flatten(1)).view_as(z)
