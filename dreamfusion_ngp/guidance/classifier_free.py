"""What is done with a network's predictions for several texts, until one guided eps_hat is left."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..config.schema import GuidanceConfig
from .protocol import Predictions, settled_scale
from .schedule import Schedule


def guided_noise(
    said: Predictions, z: Tensor, alpha: Tensor, sigma: Tensor, schedule: Schedule, config: GuidanceConfig
) -> Tensor:
    """Guided eps_hat (B, C, h, w) of z: by the config's scale, rescaled and clipped as it says."""
    guided = schedule.noise(guided_prediction(said, config), z, alpha, sigma)
    if config.rescale_of == "clean" and config.rescale > 0:
        guided = rescale_clean(guided, schedule.noise(said.cond, z, alpha, sigma), z, alpha, sigma, config.rescale)
    return clip_clean(guided, z, alpha, sigma) if config.clip_clean else guided


def guided_prediction(said: Predictions, config: GuidanceConfig) -> Tensor:
    """What the network predicts (B, C, h, w), in its own terms, guided by the config's scale and rescaled, where it is
    the prediction that is."""
    scale = settled_scale(config)
    if said.negatives:
        assert said.weights is not None
        guided = perp_neg_guidance(said.uncond, said.cond, said.negatives, said.weights, scale)
    else:
        guided = classifier_free_guidance(said.uncond, said.cond, scale)
    return rescale_guidance(guided, said.cond, config.rescale) if config.rescale_of == "prediction" else guided


def classifier_free_guidance(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """uncond + s (cond - uncond) (Ho & Salimans 2022), s as in diffusers: 1 is no guidance. The paper writes (1 + w)
    cond - w uncond with w = s - 1: its 100 is 101 here. Guiding eps, v or x0 is the same, since each is affine in the
    others at a given z_t."""
    return unconditional + scale * (conditional - unconditional)


def perpendicular(x: Tensor, y: Tensor) -> Tensor:
    """What of x (B, ...) is orthogonal to y (B, ...), each sample a vector."""
    each = (-1, *[1] * (x.ndim - 1))
    dot, square = ((x * y).flatten(1).sum(1).reshape(each), (y * y).flatten(1).sum(1).reshape(each))
    return x - dot / square.clamp_min(1e-12) * y


def perp_neg_guidance(
    unconditional: Tensor, conditional: Tensor, negatives: Sequence[Tensor], weights: Tensor, scale: float
) -> Tensor:
    """uncond + s (d + sum_i w_i perp(d_i, d)) with d = cond - uncond, d_i = negative_i - uncond (Armandpour et al.
    2023, "Re-imagine the negative prompt algorithm", eq. 4): what a negative text wants is taken away only where it
    does not speak against the text itself. weights: (N, B), negative. Predictions of any kind: eps, v and x0
    differences are multiples of each other at a given z_t."""
    wanted = conditional - unconditional
    total = wanted
    for negative, w in zip(negatives, weights, strict=True):
        total = total + w.reshape(-1, *[1] * (wanted.ndim - 1)) * perpendicular(negative - unconditional, wanted)
    return unconditional + scale * total


def rescale_guidance(guided: Tensor, conditional: Tensor, share: float) -> Tensor:
    """`guided` (B, C, H, W) brought towards the standard deviation of the conditional prediction, per view, by
    `share` in [0, 1] (Lin et al., "Common diffusion noise schedules and sample steps are flawed", WACV 2024, eq. 14 to
    16, on what the model predicts; diffusers' `rescale_noise_cfg`): large scales over-expose samples. share 0:
    unchanged. In distillation it is little but a factor on the gradient, which Adam undoes; `rescale_clean` is not."""
    if share <= 0:
        return guided
    ratio = conditional.std((1, 2, 3), keepdim=True) / guided.std((1, 2, 3), keepdim=True)
    return share * (guided * ratio) + (1 - share) * guided


def rescale_clean(guided: Tensor, conditional: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor, share: float) -> Tensor:
    """Guided eps_hat (B, C, H, W) whose clean image x_hat = (z - sigma eps_hat) / alpha was brought, by `share` in [0,
    1], towards the standard deviation of the one that the conditional eps_hat implies. One factor for all views, from
    their numbers together (Shi et al., "MVDream", ICLR 2024; its views share t). share 0: unchanged."""
    if share <= 0:
        return guided
    clean, wanted = ((z - sigma * noise_hat) / alpha for noise_hat in (guided, conditional))
    factor = (wanted.std() + 1e-8) / (clean.std() + 1e-8)
    return (z - alpha * (share * factor + 1 - share) * clean) / sigma


def clip_clean(noise_hat: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """eps_hat after its clean image x_hat = (z - sigma eps_hat) / alpha was clipped to [-1, 1]: static thresholding
    (Saharia et al., "Imagen", 2022, section 2.3), without which guidance asks for colours beyond black and white."""
    clean = ((z - sigma * noise_hat) / alpha).clamp(-1.0, 1.0)
    return (z - alpha * clean) / sigma
