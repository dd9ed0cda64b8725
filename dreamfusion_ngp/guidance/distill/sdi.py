"""Score distillation via reparametrized DDIM (Lukoianov et al., NeurIPS 2024), as in threestudio: the noise in z_t is
the one from which DDIM would arrive at x. x is inverted, with ten steps for the whole schedule, guidance scale -s and
.3 of DDPM's noise at every step, up to .1 beyond t; eps is the noise in the resulting z, put back at t (threestudio
shows the model the z from beyond t itself, as if it were at t), and

    gradient on x = w(t) (eps_hat - eps) = x - x_hat for `guidance.weighting` "clean", the paper's.

x_hat is the guided clean image of z_t in one step, or with `guidance.denoise_steps` n > 1 after n steps of DDIM (the
target of arXiv 2605.09071, by its abstract).

Cost: 2 (10 t + n) UNet evaluations, t in [0, 1] and rounded up to tenths.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from ...config.schema import GuidanceConfig
from ...scene.views import Views
from ..classifier_free import guided_noise
from ..moment import Moment
from ..protocol import Denoiser, settled_scale
from ..schedule import add_noise, weight
from ..trajectory import FIRST, ddim_denoise, ddim_invert

STEP, ETA = 0.1, 0.3  # of the schedule; of the deviation of DDPM's step


def sdi(
    denoiser: Denoiser, x: Tensor, noise: Tensor, t: np.ndarray, views: Views, config: GuidanceConfig, moment: Moment
) -> Tensor:
    """The rule as `protocol.Distill` has it. The noise is not used."""

    def guided(z: Tensor, at: np.ndarray, config: GuidanceConfig = config) -> Tensor:
        alpha, sigma = schedule.coefficients(at, z)
        return guided_noise(denoiser.predict(z, at, views), z, alpha, sigma, schedule, config)

    def away(z: Tensor, at: np.ndarray) -> Tensor:
        return guided(z, at, replace(config, scale=-settled_scale(config), rescale=0.0))

    schedule = denoiser.schedule
    first, step = (max(1, round(part * len(schedule))) for part in (FIRST, STEP))
    beyond = np.floor(moment.uniform(1, config.t_shared)[0] * step).astype(np.int64)
    last = np.minimum(t + beyond, len(schedule) - 1)
    between = [np.where(k < t, k, last) for k in range(step, int(t.max()), step)]
    times = [np.full_like(t, first), *between, last]
    z = ddim_invert(schedule, x, times, away, ETA, lambda k: moment.normal(k, x))
    alpha, sigma = schedule.coefficients(last, x)
    noise = (z - alpha * x) / sigma
    alpha, sigma = schedule.coefficients(t, x)
    z = add_noise(x, noise, alpha, sigma)
    clean = ddim_denoise(schedule, z, t, config.denoise_steps, guided)
    return weight(alpha, sigma, config.weighting) * ((z - alpha * clean) / sigma - noise)
