"""Asynchronous score distillation (Ma et al., "ScaleDreamer", ECCV 2024): instead of a model trained on the renderings,
as in vsd, the frozen model's own prediction at a later (noisier) timestep is subtracted,

    gradient on x = w(t) (eps_hat(z_t; y, t) - eps_hat_y(z_(t+D); y, t + D)),    D ~ U(0, .1 (t - t_min)),

with the guided prediction at t, the unguided conditional one at t + D, and the same noise in both. t_min is the lower
end of t at this point of the run; with `guidance.t_shared` the views share D too.

Cost: 3 UNet evaluations.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ...config.schema import GuidanceConfig
from ...scene.views import Views
from ..classifier_free import guided_noise
from ..moment import Moment
from ..protocol import Denoiser
from ..schedule import add_noise, t_min, weight

SHARE = 0.1  # of t - t_min: the largest D


def asd(
    denoiser: Denoiser, x: Tensor, noise: Tensor, t: np.ndarray, views: Views, config: GuidanceConfig, moment: Moment
) -> Tensor:
    """The rule as `protocol.Distill` has it."""
    schedule = denoiser.schedule
    above = np.maximum(t - t_min(config, moment.progress) * len(schedule), 0.0)
    steps = np.floor(moment.uniform(1, config.t_shared)[0] * SHARE * above).astype(np.int64)
    later = np.minimum(t + steps, len(schedule) - 1)
    alpha, sigma = schedule.coefficients(t, x)
    z = add_noise(x, noise, alpha, sigma)
    noise_hat = guided_noise(denoiser.predict(z, t, views), z, alpha, sigma, schedule, config)
    (later_noise,) = denoiser.answers(add_noise(x, noise, *schedule.coefficients(later, x)), later, views, ["text"])
    return weight(alpha, sigma, config.weighting) * (noise_hat - later_noise)
