"""Score Distillation Sampling (Poole et al., "DreamFusion", ICLR 2023) as free functions.

    grad_theta L_SDS = E_{t, eps} [ w(t) (eps_hat(z_t; y, t) - eps) dx/dtheta ]    (eq. 3)
    z_t = alpha_t x + sigma_t eps

alpha_t^2 = abar_t and sigma_t^2 = 1 - abar_t of the model's own schedule. x is the image in the model's range, [-1, 1].
The predicted clean image is clipped only where the config says so. A guidance is a denoiser plus `distill`, which does
the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ...base.rng import Stream, generator
from ...base.slots import sent
from ...config.schema import GuidanceConfig
from ..protocol import GuidanceOutput


def t_max(config: GuidanceConfig, progress: float) -> float:
    """Upper end of t at `progress` in [0, 1] of the run: from t_range[1] to t_max_end, linearly."""
    return config.t_range[1] + (config.t_max_end - config.t_range[1]) * min(1.0, max(0.0, progress))


def sample_timesteps(config: GuidanceConfig, draws: np.ndarray, progress: float, length: int) -> np.ndarray:
    """(n,) int64 timesteps of a schedule of `length` steps, for the n views of a step.

    t ~ U(t_range[0], t_max) for each view (paper: U(0.02, 0.98)), its lower end raised to t_max - t_window: with a
    narrow window and an annealed upper end, noise only falls in the course of the run (Huang et al., "DreamTime", ICLR
    2024). Stratified: the interval is cut into n equal parts, and each view gets one of them at random. With t_shared
    all views get the t of the first, from the whole interval. draws: (2, n) uniform numbers in [0, 1); the first row
    orders the parts, the second places t in its part.
    """
    n, high = draws.shape[1], t_max(config, progress)
    parts = 1 if config.t_shared else n
    low = max(config.t_range[0], high - config.t_window)
    t = low + (high - low) * (np.argsort(draws[0, :parts], kind="stable") + draws[1, :parts]) / parts
    return np.clip((t * length).astype(np.int64), 0, length - 1).repeat(n // parts)


def signal_and_noise(abar: np.ndarray, t: np.ndarray, like: Tensor) -> tuple[Tensor, Tensor]:
    """alpha_t = sqrt(abar_t) and sigma_t = sqrt(1 - abar_t), each (B, 1, 1, 1), in the dtype and on the device of
    `like`."""
    a = abar[t].astype(np.float64).reshape(-1, 1, 1, 1)
    return tuple(sent(np.stack([np.sqrt(a), np.sqrt(1.0 - a)]), like.device, like.dtype))


def add_noise(x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """z_t = alpha_t x + sigma_t eps (Ho et al. 2020, eq. 4)."""
    return alpha * x + sigma * noise


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


def predicted_noise(output: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor, prediction: str) -> Tensor:
    """eps_hat from what the model predicts: "epsilon", "v_prediction" (v = alpha eps - sigma x, so eps = alpha v +
    sigma z; Salimans & Ho 2022, appendix D), "sample" (x, so eps = (z - alpha x) / sigma) or "flow" (the velocity
    eps - x of a rectified flow, so eps = (z + alpha v) / (alpha + sigma); see `flow_abar`)."""
    if prediction == "epsilon":
        return output
    if prediction == "v_prediction":
        return alpha * output + sigma * z
    if prediction == "sample":
        return (z - alpha * output) / sigma
    if prediction == "flow":
        return (z + alpha * output) / (alpha + sigma)
    raise ValueError(f'prediction: must be "epsilon", "v_prediction", "sample" or "flow", got {prediction!r}')


def flow_abar(length: int) -> np.ndarray:
    """abar (T,) of a rectified flow (Liu et al. 2023; Esser et al. 2024), z = (1 - s) x + s eps with s = (t + 1) / T.

    Divided by the root of (1 - s)^2 + s^2 it is a variance-preserving z_t with alpha_t and sigma_t as 1 - s is to s, so
    everything else here holds for it; the model is shown z_t / (alpha_t + sigma_t), which is the flow's own z again.
    """
    return abar_of_flow(np.arange(1, length + 1) / length)


def abar_of_flow(s: np.ndarray) -> np.ndarray:
    """abar (T,) of the noise levels s (T,) of a rectified flow; see `flow_abar`."""
    return (1 - s) ** 2 / ((1 - s) ** 2 + s**2)


def clip_clean(noise_hat: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """eps_hat after its clean image x_hat = (z - sigma eps_hat) / alpha was clipped to [-1, 1]: static thresholding
    (Saharia et al., "Imagen", 2022, section 2.3), without which guidance asks for colours beyond black and white."""
    clean = ((z - sigma * noise_hat) / alpha).clamp(-1.0, 1.0)
    return (z - alpha * clean) / sigma


def weight(alpha: Tensor, sigma: Tensor, weighting: str) -> Tensor:
    """w(t): sigma_t^2 for "sigma2" (the paper's choice), 1 for "uniform" (which the paper found to perform similarly),
    sigma_t / alpha_t for "clean", 1 + sigma_t / alpha_t for "velocity".

    eps_hat - eps = alpha / sigma (x - x_hat), with x_hat the predicted clean image. With "clean" the gradient is
    x - x_hat, whatever t is; with "sigma2" and "uniform" it vanishes with alpha where noise is high, though there alone
    the text decides what x_hat shows. With "velocity" it is v_hat - (eps - x) of a flow, every noise level alike (Yang
    et al., "RFDS", ICLR 2025): eps_hat - eps is 1 - s = alpha / (alpha + sigma) times that.
    """
    if weighting == "sigma2":
        return sigma * sigma
    if weighting == "uniform":
        return torch.ones_like(sigma)
    if weighting == "clean":
        return sigma / alpha
    if weighting == "velocity":
        return 1 + sigma / alpha
    raise ValueError(f'weighting: must be "sigma2", "uniform", "clean" or "velocity", got {weighting!r}')


def sds_gradient(noise_hat: Tensor, noise: Tensor, w: Tensor) -> Tensor:
    """w(t) (eps_hat - eps), (B, C, H, W): the model's Jacobian is left out, as in eq. 3."""
    return w * (noise_hat - noise)


def mean_share(gradient: Tensor, views: int) -> Tensor:
    """What a mean over `views` views and the C H W numbers of each leaves of a gradient (b, C, H, W) on them. Weights
    of other losses are relative to that."""
    return gradient * (torch.ones((), dtype=gradient.dtype, device=gradient.device) / (gradient[0].numel() * views))


def value_of(gradient: Tensor) -> Tensor:
    """mean(gradient^2) / 2, that of the loss 1/2 (x - stopgrad(x - gradient))^2."""
    return 0.5 * gradient.square().mean()


def draw(
    config: GuidanceConfig, shape: tuple[int, ...], *, seed: int, step: int, progress: float, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """(B,) int64 timesteps of a schedule of `length` steps and float32 noise of `shape` (B, C, H, W): functions of
    (seed, step) alone, the same on every device and however the views of a step are cut into parts."""
    random = generator(seed, step, Stream.GUIDANCE)
    t = sample_timesteps(config, random.random((2, shape[0])), progress, length)
    return t, random.standard_normal(shape, dtype=np.float32)


@torch.no_grad()
def score(
    x: Tensor,
    t: np.ndarray,
    noise: Tensor,
    denoise: Callable[[Tensor, np.ndarray, Tensor, Tensor], Tensor],
    abar: np.ndarray,
    weighting: str,
) -> tuple[Tensor, Tensor]:
    """w(t) (eps_hat - eps) and eps_hat - eps, each (B, C, H, W), of x (B, C, H, W) at (B,) timesteps t; see `distill`
    for denoise and abar."""
    alpha, sigma = signal_and_noise(abar, t, x)
    noise_hat = denoise(add_noise(x, noise, alpha, sigma), t, alpha, sigma)
    return sds_gradient(noise_hat, noise, weight(alpha, sigma, weighting)), noise_hat - noise


def describe(t: np.ndarray, length: int, gradient: Tensor, residual: Tensor) -> dict[str, float | Tensor]:
    """What a step of guidance logs."""
    return {"t": float(t.mean()) / length, "gradient_rms": _rms(gradient), "residual_rms": _rms(residual)}


def distill(
    x: Tensor,
    denoise: Callable[[Tensor, np.ndarray, Tensor, Tensor], Tensor],
    abar: np.ndarray,
    config: GuidanceConfig,
    *,
    seed: int,
    step: int,
    progress: float,
) -> GuidanceOutput:
    """One SDS step on x (B, C, H, W), in the model's range and at its resolution; the gradient is that on x.

    denoise(z, t, alpha, sigma) -> eps_hat: (B, C, H, W) noisy images, (B,) int64 host timesteps, (B, 1, 1, 1)
    coefficients. It runs without autograd. abar: (T,) cumulative products of the schedule, on the host. Timesteps and
    noise are functions of (seed, step) alone, the same on every device.
    """
    t, noise = draw(config, tuple(x.shape), seed=seed, step=step, progress=progress, length=len(abar))
    gradient, residual = score(x, t, sent(noise, x.device, x.dtype), denoise, abar, config.weighting)
    return GuidanceOutput(mean_share(gradient, len(x)), value_of(gradient), describe(t, len(abar), gradient, residual))


def pull_back(x: Tensor, image: Tensor, gradient: Tensor, views: int) -> Tensor:
    """The gradient on `image`, a leaf that x (b, C, H, W) was computed from, of which x has `mean_share(gradient,
    views)`: J^T gradient / (C H W) / views. At once, so that an encoder's activations live no longer than its part.

    On its way it is multiplied by the power of two next to C H W views, which an encoder in float16 needs (the mean's
    gradients are below its smallest numbers) and which float32 does not notice.
    """
    count = x[0].numel() * views
    each = torch.ones((), dtype=x.dtype, device=x.device) / count
    boost = 2.0 ** round(math.log2(count))
    return torch.autograd.grad(x, image, gradient * each * boost)[0] / boost


def clip_pixels(gradient: Tensor, limit: float) -> Tensor:
    """Gradient (B, H, W, C) on images, no pixel's norm over the channels above `limit` once the mean over the batch is
    taken out (times B H W C): pixel-wise gradient clipping (Pan et al., ICLR 2024), which keeps an encoder's few huge
    pixels from ruling the picture. limit 0: unchanged."""
    if limit <= 0:
        return gradient
    norm = gradient.norm(dim=-1, keepdim=True) * gradient.numel()
    return gradient * (limit / norm.clamp_min(1e-30)).clamp_max(1.0)


def _rms(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()
