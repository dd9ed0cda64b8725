"""Rectified-flow distillation sampling (Yang et al., "Text-to-Image Rectified Flow as Plug-and-Play Priors", ICLR
2025), for models that predict the velocity of a flow x_s = (1 - s) x + s eps:

    gradient on x = v_hat(x_s; y, s) - (eps - x)

with the guided velocity. It is sds with the weighting "velocity", without a division by 1 - s; `guidance.weighting` is
not used.

Cost: 2 UNet evaluations (of a transformer, here).
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ...config.schema import GuidanceConfig
from ...scene.views import Views
from ..classifier_free import guided_prediction
from ..moment import Moment
from ..protocol import Denoiser
from ..schedule import add_noise


def rfds(
    denoiser: Denoiser, x: Tensor, noise: Tensor, t: np.ndarray, views: Views, config: GuidanceConfig, moment: Moment
) -> Tensor:
    """The rule as `protocol.Distill` has it."""
    z = add_noise(x, noise, *denoiser.schedule.coefficients(t, x))
    return guided_prediction(denoiser.predict(z, t, views), config) - (noise - x)
