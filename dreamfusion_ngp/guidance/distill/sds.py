"""Score distillation sampling (Poole et al., "DreamFusion", ICLR 2023), eq. 3:

    gradient on x = w(t) (eps_hat(z_t; y, t) - eps),    z_t = alpha_t x + sigma_t eps

eps_hat is the guided prediction; the model's Jacobian is left out. w(t) is `guidance.weighting`.

Cost: 2 UNet evaluations.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ...config.schema import GuidanceConfig
from ...scene.views import Views
from ..classifier_free import guided_noise
from ..moment import Moment
from ..protocol import Denoiser
from ..schedule import add_noise, weight


def sds(
    denoiser: Denoiser, x: Tensor, noise: Tensor, t: np.ndarray, views: Views, config: GuidanceConfig, moment: Moment
) -> Tensor:
    """The rule as `protocol.Distill` has it."""
    alpha, sigma = denoiser.schedule.coefficients(t, x)
    z = add_noise(x, noise, alpha, sigma)
    noise_hat = guided_noise(denoiser.predict(z, t, views), z, alpha, sigma, denoiser.schedule, config)
    return weight(alpha, sigma, config.weighting) * (noise_hat - noise)
