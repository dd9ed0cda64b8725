"""Combines a network's predictions for several texts into one guided eps_hat."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..config.schema import GuidanceConfig
from .protocol import Predictions, settled_scale
from .schedule import Schedule


def guided_noise(
    predictions: Predictions, z: Tensor, alpha: Tensor, sigma: Tensor, schedule: Schedule, config: GuidanceConfig
) -> Tensor:
    """Guided eps_hat (B, C, h, w) of z: with the config's scale, rescaling and clipping."""
    guided = schedule.noise(guided_prediction(predictions, config), z, alpha, sigma)
    if config.rescale_of == "clean" and config.rescale > 0:
        conditional = schedule.noise(predictions.cond, z, alpha, sigma)
        guided = rescale_clean(guided, conditional, z, alpha, sigma, config.rescale, predictions.together)
    return clip_clean(guided, z, alpha, sigma) if config.clip_clean else guided


def guided_prediction(predictions: Predictions, config: GuidanceConfig) -> Tensor:
    """The guided prediction (B, C, h, w), in the network's own terms, with the config's scale; rescaled if `rescale_of`
    is "prediction"."""
    scale = settled_scale(config)
    if predictions.negatives:
        assert predictions.weights is not None
        guided = perp_neg_guidance(
            predictions.uncond, predictions.cond, predictions.negatives, predictions.weights, scale
        )
    else:
        guided = classifier_free_guidance(predictions.uncond, predictions.cond, scale)
    return rescale_guidance(guided, predictions.cond, config.rescale) if config.rescale_of == "prediction" else guided


def classifier_free_guidance(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """uncond + s (cond - uncond) (Ho & Salimans 2022), s as in diffusers: 1 is no guidance. The paper writes (1 + w)
    cond - w uncond with w = s - 1: its 100 is 101 here. Guiding eps, v or x0 is the same, since each is affine in the
    others at a given z_t."""
    return unconditional + scale * (conditional - unconditional)


def perpendicular(x: Tensor, y: Tensor) -> Tensor:
    """The component of x (B, ...) orthogonal to y (B, ...), each sample as a vector."""
    each = (-1, *[1] * (x.ndim - 1))
    dot, square = ((x * y).flatten(1).sum(1).reshape(each), (y * y).flatten(1).sum(1).reshape(each))
    return x - dot / square.clamp_min(1e-12) * y


def perp_neg_guidance(
    unconditional: Tensor, conditional: Tensor, negatives: Sequence[Tensor], weights: Tensor, scale: float
) -> Tensor:
    """uncond + s (d + sum_i w_i perp(d_i, d)) with d = cond - uncond, d_i = negative_i - uncond (Armandpour et al.
    2023, "Re-imagine the negative prompt algorithm", eq. 4): only the part of a negative text's direction that is
    orthogonal to the text's own is subtracted. weights: (N, B), negative. Predictions of any kind: eps, v and x0
    differences are multiples of each other at a given z_t."""
    direction = conditional - unconditional
    total = direction
    for negative, w in zip(negatives, weights, strict=True):
        total = total + w.reshape(-1, *[1] * (direction.ndim - 1)) * perpendicular(negative - unconditional, direction)
    return unconditional + scale * total


def rescale_guidance(guided: Tensor, conditional: Tensor, share: float) -> Tensor:
    """`guided` (B, C, H, W) rescaled towards the standard deviation of the conditional prediction, per view, by `share`
    in [0, 1] (Lin et al., "Common diffusion noise schedules and sample steps are flawed", WACV 2024, eq. 14 to 16, on
    what the model predicts; diffusers' `rescale_noise_cfg`): large scales over-expose samples. share 0: unchanged. In
    distillation this is little more than a factor on the gradient, which Adam undoes; `rescale_clean` is more."""
    if share <= 0:
        return guided
    ratio = conditional.std((1, 2, 3), keepdim=True) / guided.std((1, 2, 3), keepdim=True)
    return share * (guided * ratio) + (1 - share) * guided


def rescale_clean(
    guided: Tensor,
    conditional: Tensor,
    z: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    share: float,
    together: int | None = None,
) -> Tensor:
    """Guided eps_hat (B, C, H, W) whose clean image x_hat = (z - sigma eps_hat) / alpha is rescaled, by `share` in [0,
    1], towards the standard deviation of the conditional prediction's clean image. One factor for the views of an
    object, from all their numbers (Shi et al., "MVDream", ICLR 2024; its views share t): for each `together`
    consecutive views, or for all. share 0: unchanged."""
    if share <= 0:
        return guided
    clean, clean_cond = ((z - sigma * noise_hat) / alpha for noise_hat in (guided, conditional))
    factor = (deviation(clean_cond, together) + 1e-8) / (deviation(clean, together) + 1e-8)
    return (z - alpha * (share * factor + 1 - share) * clean) / sigma


def deviation(x: Tensor, together: int | None) -> Tensor:
    """The standard deviation of all numbers of x (B, ...), or that of each `together` consecutive rows, (B, 1, ...)."""
    if together is None:
        return x.std()
    return x.reshape(-1, together * x[0].numel()).std(1).repeat_interleave(together).reshape(-1, *[1] * (x.ndim - 1))


def clip_clean(noise_hat: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """eps_hat after clipping its clean image x_hat = (z - sigma eps_hat) / alpha to [-1, 1]: static thresholding
    (Saharia et al., "Imagen", 2022, section 2.3), without which guidance asks for colours beyond black and white."""
    clean = ((z - sigma * noise_hat) / alpha).clamp(-1.0, 1.0)
    return (z - alpha * clean) / sigma
