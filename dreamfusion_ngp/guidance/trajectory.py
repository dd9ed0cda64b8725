"""DDIM (Song et al., ICLR 2021) along a model's schedule: inversion from image to noise, and sampling back to an
image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from .schedule import Schedule, add_noise

FIRST = 0.02  # of the schedule: the noise level that a model is given for a clean image
Ask = Callable[[Tensor, np.ndarray], Tensor]  # z (b, C, h, w) and its timesteps (b,) -> eps_hat


def ddim_step(schedule: Schedule, z: Tensor, noise_hat: Tensor, start: np.ndarray, end: np.ndarray) -> Tensor:
    """One DDIM step, in either direction: z (b, C, h, w) with noise `noise_hat` from timesteps `start` (b,) to `end`;
    views whose timesteps are equal stay."""
    (alpha, sigma), (alpha_end, sigma_end) = (schedule.coefficients(t, z) for t in (start, end))
    stays = torch.as_tensor(start == end, device=z.device).reshape(alpha.shape)
    return torch.where(stays, z, alpha_end * (z - sigma * noise_hat) / alpha + sigma_end * noise_hat)


def ddim_invert(
    schedule: Schedule,
    x: Tensor,
    times: Sequence[np.ndarray],
    ask: Ask,
    eta: float = 0.0,
    normal: Callable[[int], Tensor] | None = None,
) -> Tensor:
    """DDIM inversion of x to z (b, C, h, w) at the last of `times`, an ascending sequence of timesteps (b,); `ask`
    takes x to be at the first of them. eta: share of the deviation of DDPM's step that is added as noise, `normal(k)`
    in step k."""
    z = x
    for k, (now, then) in enumerate(pairwise(times)):
        noise_hat = ask(z, now)
        if k == 0:
            z = add_noise(x, noise_hat, *schedule.coefficients(then, x))
            continue
        z = ddim_step(schedule, z, noise_hat, now, then)
        if eta:
            assert normal is not None
            (alpha, sigma), (alpha_then, sigma_then) = (schedule.coefficients(time, x) for time in (now, then))
            variance = (sigma / sigma_then) ** 2 * (1 - (alpha_then / alpha) ** 2)
            z = z + eta * variance.clamp_min(0).sqrt() * normal(k)
    return z


def ddim_denoise(schedule: Schedule, z: Tensor, t: np.ndarray, steps: int, ask: Ask) -> Tensor:
    """The clean image (b, C, h, w) after `steps` steps from z at timesteps t (b,)."""
    times = [t * k // steps for k in range(steps, 0, -1)]
    for now, then in pairwise(times):
        z = ddim_step(schedule, z, ask(z, now), now, then)
    alpha, sigma = schedule.coefficients(times[-1], z)
    return (z - sigma * ask(z, times[-1])) / alpha
