"""Pictures from a guidance model, by DDIM (Song et al. 2021): what it knows of a prompt, before a run asks it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config.schema import GuidanceConfig
from ..scene.views import Views
from .classifier_free import guided_noise
from .denoisers.diffusion import DiffusionDenoiser
from .pipeline_folder import load_vae
from .protocol import Denoiser

FIRST = 0.99  # of the schedule: some end where nothing is left of a picture


@torch.no_grad()
def ddim(denoiser: Denoiser, noise: Tensor, views: Views, config: GuidanceConfig, steps: int) -> Tensor:
    """What the denoiser sees behind noise (b, C, h, w) of the b views in `steps` steps without new noise, guided by the
    config's scale: x (b, C, h, w) in the model's range."""
    schedule, z, n = denoiser.schedule, noise, len(noise)
    x = z
    for now, then in pairwise(np.linspace(FIRST * (len(schedule) - 1), 0, steps + 1).round().astype(np.int64)):
        t, after = np.full(n, now), np.full(n, then)
        alpha, sigma = schedule.coefficients(t, z)
        eps = guided_noise(denoiser.predict(z, t, views), z, alpha, sigma, schedule, config)
        x = (z - sigma * eps) / alpha
        alpha, sigma = schedule.coefficients(after, z)
        z = alpha * x + sigma * eps
    return x


def decoder(denoiser: DiffusionDenoiser, folder: Path) -> Callable[[Tensor], Tensor]:
    """A function of x (b, C, h, w) that gives pictures (b, H, H, 3) float32 in [0, 1] on the CPU. The decoder of a
    latent model is loaded anew: guidance does not keep it. Raises PriorError where that cannot be done."""
    if denoiser.ends.vae is None:
        return shown
    vae = load_vae(denoiser.config.vae or str(folder)).to(denoiser.device)
    scale, shift = vae.config.scaling_factor, vae.config.get("shift_factor") or 0.0

    @torch.no_grad()
    def decode(x: Tensor) -> Tensor:
        return torch.cat([shown(vae.decode(one / scale + shift).sample) for one in x.float().split(1)])

    return decode


def shown(x: Tensor) -> Tensor:
    """Pictures (b, 3, H, H) in [-1, 1] as (b, H, H, 3) float32 in [0, 1], on the CPU."""
    return ((x.float().clamp(-1, 1) + 1) / 2).permute(0, 2, 3, 1).cpu()
