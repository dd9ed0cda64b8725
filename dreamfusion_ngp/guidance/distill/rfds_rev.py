"""RFDS with reversed noise (Yang et al., "Text-to-Image Rectified Flow as Plug-and-Play Priors", ICLR 2025): before
rfds the noise is moved towards the one from which the flow would arrive at x,

    eps <- eps + (1 - s) (v_hat_y(x_s; y, s) - (eps - x)),

with the unguided conditional velocity. That is the predicted noise, eps_hat = x_s + (1 - s) v_hat.

Cost: 3 UNet evaluations (of a transformer, here).
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ...config.schema import GuidanceConfig
from ...scene.views import Views
from ..moment import Moment
from ..protocol import Denoiser
from ..schedule import add_noise
from .rfds import rfds


def rfds_rev(
    denoiser: Denoiser, x: Tensor, noise: Tensor, t: np.ndarray, views: Views, config: GuidanceConfig, moment: Moment
) -> Tensor:
    """The rule as `protocol.Distill` has it."""
    z = add_noise(x, noise, *denoiser.schedule.coefficients(t, x))
    (reversed_noise,) = denoiser.answers(z, t, views, ["text"])
    return rfds(denoiser, x, reversed_noise, t, views, config, moment)
