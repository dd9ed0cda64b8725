"""Score distillation as a bridge between image distributions (McAllister et al. 2024, arXiv 2406.09417): sds for the
first four fifths of the run, then a gradient from the look of its results towards the text,

    gradient on x = w(t) s (eps_hat(z_t; y) - eps_hat(z_t; y with words for its flaws)).

The words are `guidance.flaws`: the paper's describe the look of SDS (oversaturated, smooth, blurry, ...).

Cost: 2 UNet evaluations.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ...config.schema import GuidanceConfig
from ...scene.views import Views
from ..moment import Moment
from ..protocol import Denoiser, settled_scale
from .linear import combined
from .sds import sds

FROM = 0.8  # of the run


def bridge(
    denoiser: Denoiser, x: Tensor, noise: Tensor, t: np.ndarray, views: Views, config: GuidanceConfig, moment: Moment
) -> Tensor:
    """The rule as `protocol.Distill` has it."""
    if moment.progress < FROM:
        return sds(denoiser, x, noise, t, views, config, moment)
    scale = settled_scale(config)
    weights = {"text": scale, "flawed": -scale}
    return combined(denoiser, x, noise, t, views, config, weights)
