"""Noise-free score distillation (Katzir et al., ICLR 2024): only the part of a prediction that is not noise,

    gradient on x = w(t) (d + s (eps_hat(z_t; y) - eps_hat(z_t; empty))),
    d = eps_hat(z_t; empty) below a fifth of the schedule, where little noise is left in z_t to predict,
        eps_hat(z_t; empty) - eps_hat(z_t; negative) above: away from what is no natural picture.

Without a negative prompt d is 0 above, and the rule there is csd.

Cost: 2 UNet evaluations, with a negative prompt 3.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ...config.schema import GuidanceConfig
from ...scene.views import Views
from ..moment import Moment
from ..protocol import Denoiser, settled_scale
from .linear import combined

LITTLE_NOISE = 0.2  # of the schedule


def nfsd(
    denoiser: Denoiser, x: Tensor, noise: Tensor, t: np.ndarray, views: Views, config: GuidanceConfig, moment: Moment
) -> Tensor:
    """The rule as `protocol.Distill` has it."""
    scale, out = settled_scale(config), (t >= LITTLE_NOISE * len(denoiser.schedule)).astype(np.float64)
    weights = {"text": scale, "empty": 1.0 - scale, "negative": -out}
    return combined(denoiser, x, noise, t, views, config, weights)
