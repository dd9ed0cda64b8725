"""Reconstruction of the clean image (Shi et al., "MVDream", ICLR 2024), its loss:

    gradient on x = x - x_hat,    x_hat = (z_t - sigma_t eps_hat) / alpha_t,

the guided clean image, which `guidance.rescale` with `guidance.rescale_of` "clean" rescales to the standard deviation
of the unguided conditional one, all views together. Without that it is sds with the weighting "clean", as x - x_hat =
sigma_t / alpha_t (eps_hat - eps).

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


def x0(
    denoiser: Denoiser, x: Tensor, noise: Tensor, t: np.ndarray, views: Views, config: GuidanceConfig, moment: Moment
) -> Tensor:
    """The rule as `protocol.Distill` has it; `guidance.weighting` "clean" is the paper's, others are relative to it."""
    alpha, sigma = denoiser.schedule.coefficients(t, x)
    z = add_noise(x, noise, alpha, sigma)
    noise_hat = guided_noise(denoiser.predict(z, t, views), z, alpha, sigma, denoiser.schedule, config)
    clean = (z - sigma * noise_hat) / alpha
    return weight(alpha, sigma, config.weighting) * alpha / sigma * (x - clean)
