"""Paths of DDIM (Song et al., ICLR 2021) along a model's schedule: an image to noise, and noise back to an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from .schedule import Schedule, add_noise

FIRST = 0.02  # of the schedule: the noise that a model is told an image has that has none
Ask = Callable[[Tensor, np.ndarray], Tensor]  # z (b, C, h, w) and its timesteps (b,) -> eps_hat


def moved(schedule: Schedule, z: Tensor, noise_hat: Tensor, start: np.ndarray, end: np.ndarray) -> Tensor:
    """z at timesteps `end` (b,) of z (b, C, h, w) at `start`, whose noise is `noise_hat`, in either direction; views
    whose two timesteps are one keep theirs."""
    (alpha, sigma), (alpha_end, sigma_end) = (schedule.coefficients(t, z) for t in (start, end))
    stays = torch.as_tensor(start == end, device=z.device).reshape(alpha.shape)
    return torch.where(stays, z, alpha_end * (z - sigma * noise_hat) / alpha + sigma_end * noise_hat)


def inverted(
    schedule: Schedule,
    x: Tensor,
    times: Sequence[np.ndarray],
    ask: Ask,
    eta: float = 0.0,
    normal: Callable[[int], Tensor] | None = None,
) -> Tensor:
    """z (b, C, h, w) at the last of `times`, a rising sequence of timesteps (b,), from x, of which `ask` is told that
    it is at the first. eta: share of the deviation of DDPM's step that is added as noise, `normal(k)` in step k."""
    z = x
    for k, (now, then) in enumerate(pairwise(times)):
        noise_hat = ask(z, now)
        if k == 0:
            z = add_noise(x, noise_hat, *schedule.coefficients(then, x))
            continue
        z = moved(schedule, z, noise_hat, now, then)
        if eta:
            assert normal is not None
            (alpha, sigma), (alpha_then, sigma_then) = (schedule.coefficients(time, x) for time in (now, then))
            variance = (sigma / sigma_then) ** 2 * (1 - (alpha_then / alpha) ** 2)
            z = z + eta * variance.clamp_min(0).sqrt() * normal(k)
    return z


def denoised(schedule: Schedule, z: Tensor, t: np.ndarray, steps: int, ask: Ask) -> Tensor:
    """The clean image (b, C, h, w) after `steps` steps from z at timesteps t (b,)."""
    times = [t * k // steps for k in range(steps, 0, -1)]
    for now, then in pairwise(times):
        z = moved(schedule, z, ask(z, now), now, then)
    alpha, sigma = schedule.coefficients(times[-1], z)
    return (z - sigma * ask(z, times[-1])) / alpha
