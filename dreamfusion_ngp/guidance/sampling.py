"""Pictures sampled from a guidance model by DDIM (Song et al. 2021), to see what it makes of a prompt before a run."""

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

FIRST = 0.99  # of the schedule: some schedules end at zero signal


def times_of(denoiser: Denoiser, steps: int) -> np.ndarray:
    """(steps + 1,) int64 timesteps from FIRST of the schedule to 0, evenly spaced."""
    return np.linspace(FIRST * (len(denoiser.schedule) - 1), 0, steps + 1).round().astype(np.int64)


def ddim(denoiser: Denoiser, noise: Tensor, views: Views, config: GuidanceConfig, steps: int) -> Tensor:
    """Samples x (b, C, h, w) in the model's range from noise (b, C, h, w), for the b views, in `steps` deterministic
    steps, guided by the config's scale."""
    return ddim_loop(denoiser, noise, times_of(denoiser, steps), views, config)


@torch.no_grad()
def image_to_image(
    denoiser: Denoiser,
    x: Tensor,
    noise: Tensor,
    views: Views,
    config: GuidanceConfig,
    steps: int,
    strength: float,
    keep: Tensor | None = None,
) -> Tensor:
    """Image-to-image on encoded pictures x (b, C, h, w) (Meng et al., "SDEdit", ICLR 2022): `noise` is added for the
    timestep at which `strength` of the steps of `ddim` are left, int(steps * strength) as in diffusers' pipelines, and
    these steps follow. keep: (b, 1, h, w) in [0, 1], the share of a latent that is kept: after every step it is
    replaced by x with that step's noise (Lugmayr et al., "RePaint", CVPR 2022, without its repeats)."""
    left = min(int(steps * strength), steps)
    if left < 1:
        return x
    times = times_of(denoiser, steps)[steps - left :]
    alpha, sigma = denoiser.schedule.coefficients(np.full(len(x), times[0]), x)

    def put_back(z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return z if keep is None else keep * (alpha * x + sigma * noise) + (1 - keep) * z

    result = ddim_loop(denoiser, alpha * x + sigma * noise, times, views, config, put_back)
    return result if keep is None else keep * x + (1 - keep) * result


@torch.no_grad()
def ddim_loop(
    denoiser: Denoiser,
    z: Tensor,
    times: np.ndarray,
    views: Views,
    config: GuidanceConfig,
    change: Callable[[Tensor, Tensor, Tensor], Tensor] = lambda z, alpha, sigma: z,
) -> Tensor:
    """The clean x (b, C, h, w) from z at the first of `times`, by DDIM over these. change: applied to (z, alpha, sigma)
    after each step."""
    schedule, n, x = denoiser.schedule, len(z), z
    for now, then in pairwise(times):
        t, after = np.full(n, now), np.full(n, then)
        alpha, sigma = schedule.coefficients(t, z)
        eps = guided_noise(denoiser.predict(z, t, views), z, alpha, sigma, schedule, config)
        x = (z - sigma * eps) / alpha
        alpha, sigma = schedule.coefficients(after, z)
        z = change(alpha * x + sigma * eps, alpha, sigma)
    return x


def decoder(denoiser: DiffusionDenoiser, folder: Path) -> Callable[[Tensor], Tensor]:
    """A function from x (b, C, h, w) to pictures (b, H, H, 3) float32 in [0, 1] on the CPU. The decoder of a latent
    model is loaded again, as guidance does not keep it. Raises PriorError if that fails."""
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
