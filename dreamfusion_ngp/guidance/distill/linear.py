"""The linear family of rules:

    gradient on x = w(t) (a eps_hat(z_t; y) + b eps_hat(z_t; empty) + c eps_hat(z_t; negative) + d eps)

with the text y, the empty text, and the negative prompt (the empty text where there is none). `guidance.weights` is
(a, b, c, d). (s, 1 - s, 0, -1) is sds at scale s; csd and nfsd are weights that change with the run or with t.

Cost: one UNet evaluation for every text whose weight is not 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from ...base.slots import sent
from ...config.schema import GuidanceConfig
from ...scene.views import Views
from ..moment import Moment
from ..protocol import Denoiser
from ..schedule import add_noise, weight


def linear(
    denoiser: Denoiser, x: Tensor, noise: Tensor, t: np.ndarray, views: Views, config: GuidanceConfig, moment: Moment
) -> Tensor:
    """The rule as `protocol.Distill` has it."""
    text, empty, negative, of_noise = config.weights
    weights = {"text": text, "empty": empty, "negative": negative}
    return combined(denoiser, x, noise, t, views, config, weights, of_noise)


def combined(
    denoiser: Denoiser,
    x: Tensor,
    noise: Tensor,
    t: np.ndarray,
    views: Views,
    config: GuidanceConfig,
    weights: Mapping[str, float | np.ndarray],
    of_noise: float = 0.0,
) -> Tensor:
    """The gradient with a weight for each text of `protocol.TEXTS`, one for all views or (b,) per view."""
    weights = dict(weights)
    if not config.negative and "negative" in weights:
        weights["empty"] = weights.get("empty", 0.0) + weights.pop("negative")
    weights = {text: np.broadcast_to(w, t.shape) for text, w in weights.items() if np.any(w)}
    alpha, sigma = denoiser.schedule.coefficients(t, x)
    predictions = denoiser.answers(add_noise(x, noise, alpha, sigma), t, views, list(weights))
    total = of_noise * noise
    for w, noise_hat in zip(weights.values(), predictions, strict=True):
        total = total + sent(w.reshape(-1, 1, 1, 1).copy(), x.device, x.dtype) * noise_hat
    return weight(alpha, sigma, config.weighting) * total
