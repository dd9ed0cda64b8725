"""Interval score matching (Liang et al., "LucidDreamer", CVPR 2024), from its equation: no noise is drawn; x is
inverted to z_s by unconditional DDIM, in strides of 200 of 1000 timesteps and the rest, then to z_t by one of 50, and

    gradient on x = w(t) (eps_hat(z_t; y, t) - eps_hat(z_s; empty, s)),    s = t - 50,

with the guided prediction at t. The paper's w(t) is sigma_t / alpha_t (`guidance.weighting` "clean").

Cost: 3 UNet evaluations, and one for every stride up to s, at most 5. Views are inverted together: if t is not shared,
views with low t idle, at their s, while others finish.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ...config.schema import GuidanceConfig
from ...scene.views import Views
from ..classifier_free import guided_noise
from ..moment import Moment
from ..protocol import Denoiser
from ..schedule import weight
from ..trajectory import FIRST, ddim_invert, ddim_step

STRIDE, INTERVAL = 0.2, 0.05  # of the schedule


def ism(
    denoiser: Denoiser, x: Tensor, noise: Tensor, t: np.ndarray, views: Views, config: GuidanceConfig, moment: Moment
) -> Tensor:
    """The rule as `protocol.Distill` has it. The noise is not used."""

    def unguided(z: Tensor, at: np.ndarray) -> Tensor:
        return denoiser.answers(z, at, views, ["empty"])[0]

    schedule = denoiser.schedule
    first, stride, interval = (max(1, round(part * len(schedule))) for part in (FIRST, STRIDE, INTERVAL))
    t = np.maximum(t, first)
    before = np.maximum(t - interval, first)
    strides = max(1, -(-int(before.max() - first) // stride))
    times = [np.minimum(first + k * stride, before) for k in range(strides + 1)]
    z_before = ddim_invert(schedule, x, times, unguided)
    noise_before = unguided(z_before, before)
    z = ddim_step(schedule, z_before, noise_before, before, t)
    alpha, sigma = schedule.coefficients(t, x)
    noise_hat = guided_noise(denoiser.predict(z, t, views), z, alpha, sigma, schedule, config)
    return weight(alpha, sigma, config.weighting) * (noise_hat - noise_before)
