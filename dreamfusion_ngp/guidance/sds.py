"""Score Distillation Sampling (Poole et al., "DreamFusion", ICLR 2023) as free functions.

    grad_theta L_SDS = E_{t, eps} [ w(t) (eps_hat(z_t; y, t) - eps) dx/dtheta ]    (eq. 3)
    z_t = alpha_t x + sigma_t eps

alpha_t^2 = abar_t and sigma_t^2 = 1 - abar_t of the model's own schedule. x is the image in the model's range, [-1, 1].
The predicted clean image is clipped only where the config says so. A guidance is a denoiser plus `distill`, which does
the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..config import GuidanceConfig
from ..rng import Stream, generator


@dataclass(frozen=True)
class SdsOutput:
    """loss: scalar tensor; its backward puts the SDS gradient on the image.  log: numbers or detached 0-d tensors to
    record."""

    loss: Tensor
    log: dict[str, float | Tensor]


def t_max(config: GuidanceConfig, progress: float) -> float:
    """Upper end of t at `progress` in [0, 1] of the run: from t_range[1] to t_max_end, linearly."""
    return config.t_range[1] + (config.t_max_end - config.t_range[1]) * min(1.0, max(0.0, progress))


def sample_timesteps(config: GuidanceConfig, draws: np.ndarray, progress: float, length: int) -> np.ndarray:
    """(n,) int64 timesteps of a schedule of `length` steps, for the n views of a step.

    t ~ U(t_range[0], t_max) for each view (paper: U(0.02, 0.98)), its lower end raised to t_max - t_window: with a
    narrow window and an annealed upper end, noise only falls in the course of the run (Huang et al., "DreamTime", ICLR
    2024). Stratified: the interval is cut into n equal parts, and each view gets one of them at random. draws: (2, n)
    uniform numbers in [0, 1); the first row orders the parts, the second places t in its part.
    """
    n, high = draws.shape[1], t_max(config, progress)
    low = max(config.t_range[0], high - config.t_window)
    t = low + (high - low) * (np.argsort(draws[0], kind="stable") + draws[1]) / n
    return np.clip((t * length).astype(np.int64), 0, length - 1)


def signal_and_noise(abar: np.ndarray, t: np.ndarray, like: Tensor) -> tuple[Tensor, Tensor]:
    """alpha_t = sqrt(abar_t) and sigma_t = sqrt(1 - abar_t), each (B, 1, 1, 1), in the dtype and on the device of
    `like`."""
    a = abar[t].astype(np.float64).reshape(-1, 1, 1, 1)
    return tuple(torch.tensor(v).to(like) for v in (np.sqrt(a), np.sqrt(1.0 - a)))


def add_noise(x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """z_t = alpha_t x + sigma_t eps (Ho et al. 2020, eq. 4)."""
    return alpha * x + sigma * noise


def classifier_free_guidance(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """uncond + s (cond - uncond) (Ho & Salimans 2022), s as in diffusers: 1 is no guidance. The paper writes (1 + w)
    cond - w uncond with w = s - 1: its 100 is 101 here. Guiding eps, v or x0 is the same, since each is affine in the
    others at a given z_t."""
    return unconditional + scale * (conditional - unconditional)


def predicted_noise(output: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor, prediction: str) -> Tensor:
    """eps_hat from what the model predicts: "epsilon", "v_prediction" (v = alpha eps - sigma x, so eps = alpha v +
    sigma z; Salimans & Ho 2022, appendix D) or "sample" (x, so eps = (z - alpha x) / sigma)."""
    if prediction == "epsilon":
        return output
    if prediction == "v_prediction":
        return alpha * output + sigma * z
    if prediction == "sample":
        return (z - alpha * output) / sigma
    raise ValueError(f'prediction: must be "epsilon", "v_prediction" or "sample", got {prediction!r}')


def clip_clean(noise_hat: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """eps_hat after its clean image x_hat = (z - sigma eps_hat) / alpha was clipped to [-1, 1]: static thresholding
    (Saharia et al., "Imagen", 2022, section 2.3), without which guidance asks for colours beyond black and white."""
    clean = ((z - sigma * noise_hat) / alpha).clamp(-1.0, 1.0)
    return (z - alpha * clean) / sigma


def weight(alpha: Tensor, sigma: Tensor, weighting: str) -> Tensor:
    """w(t): sigma_t^2 for "sigma2" (the paper's choice), 1 for "uniform" (which the paper found to perform similarly),
    sigma_t / alpha_t for "clean".

    eps_hat - eps = alpha / sigma (x - x_hat), with x_hat the predicted clean image. With "clean" the gradient is
    x - x_hat, whatever t is; with the others it vanishes with alpha where noise is high, though there alone the text
    decides what x_hat shows.
    """
    if weighting == "sigma2":
        return sigma * sigma
    if weighting == "uniform":
        return torch.ones_like(sigma)
    if weighting == "clean":
        return sigma / alpha
    raise ValueError(f'weighting: must be "sigma2", "uniform" or "clean", got {weighting!r}')


def sds_gradient(noise_hat: Tensor, noise: Tensor, w: Tensor) -> Tensor:
    """w(t) (eps_hat - eps), (B, C, H, W): the model's Jacobian is left out, as in eq. 3."""
    return w * (noise_hat - noise)


def sds_loss(x: Tensor, gradient: Tensor) -> Tensor:
    """A scalar whose backward puts gradient / (C H W) / B on x (B, C, H, W): per view the mean over pixels and
    channels, then the mean over views. Weights of other losses are relative to that.

    Its value is mean(gradient^2) / 2. That is what 1/2 (x - stopgrad(x - gradient))^2 would have, but the product used
    here does not round the gradient away where it is small beside x.
    """
    gradient = gradient.detach()
    product = (x * gradient).mean()
    return product - product.detach() + 0.5 * gradient.square().mean()


def distill(
    x: Tensor,
    denoise: Callable[[Tensor, np.ndarray, Tensor, Tensor], Tensor],
    abar: np.ndarray,
    config: GuidanceConfig,
    *,
    seed: int,
    step: int,
    progress: float,
) -> SdsOutput:
    """One SDS step on x (B, C, H, W), in the model's range and at its resolution.

    denoise(z, t, alpha, sigma) -> eps_hat: (B, C, H, W) noisy images, (B,) int64 host timesteps, (B, 1, 1, 1)
    coefficients. It runs without autograd. abar: (T,) cumulative products of the schedule, on the host. Timesteps and
    noise are functions of (seed, step) alone, the same on every device.
    """
    with torch.no_grad():
        random = generator(seed, step, Stream.GUIDANCE)
        t = sample_timesteps(config, random.random((2, len(x))), progress, len(abar))
        noise = torch.from_numpy(random.standard_normal(x.shape, dtype=np.float32)).to(x)
        alpha, sigma = signal_and_noise(abar, t, x)
        z = add_noise(x, noise, alpha, sigma)
        noise_hat = denoise(z, t, alpha, sigma)
        gradient = sds_gradient(noise_hat, noise, weight(alpha, sigma, config.weighting))
        log = {
            "t": float(t.mean()) / len(abar),
            "gradient_rms": _rms(gradient),
            "residual_rms": _rms(noise_hat - noise),
        }
    return SdsOutput(sds_loss(x, gradient), log)


def _rms(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()
