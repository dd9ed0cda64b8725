"""Classifier score distillation (Yu et al. 2023, arXiv 2310.19415): only the difference that the text makes to a
prediction, without the noise,

    gradient on x = w(t) s (eps_hat(z_t; y) - (1 - p) eps_hat(z_t; empty) - p eps_hat(z_t; negative)),

where p rises from 0 to 1 over the first half of the run (the paper's 5000 of 10000 steps). Without a negative prompt it
is s (eps_hat(z_t; y) - eps_hat(z_t; empty)) throughout. The paper's s is 1.

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

UNTIL = 0.5  # of the run


def csd(
    denoiser: Denoiser, x: Tensor, noise: Tensor, t: np.ndarray, views: Views, config: GuidanceConfig, moment: Moment
) -> Tensor:
    """The rule as `protocol.Distill` has it."""
    share, scale = min(1.0, moment.progress / UNTIL), settled_scale(config)
    weights = {"text": scale, "empty": scale * (share - 1.0), "negative": -scale * share}
    return combined(denoiser, x, noise, t, views, config, weights)
