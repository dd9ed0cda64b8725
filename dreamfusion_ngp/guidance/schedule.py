"""Noise schedules of diffusion models and of rectified flows, and the sampling of timesteps and noise.

z_t = alpha_t x + sigma_t eps with alpha_t^2 = abar_t and sigma_t^2 = 1 - abar_t.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..base.rng import Stream, generator
from ..base.slots import sent
from ..config.guidance import NoiseConfig


@dataclass(frozen=True)
class Schedule:
    """abar: (T,) float64 cumulative products, on the host.  prediction: what the model predicts, see `predicted_noise`.
    times: (T,) the model's time input for each timestep, by default 0 to T - 1."""

    abar: np.ndarray
    prediction: str = "epsilon"
    times: np.ndarray | None = None

    def __post_init__(self):
        if self.times is None:
            object.__setattr__(self, "times", np.arange(len(self.abar)))

    def __len__(self) -> int:
        return len(self.abar)

    def coefficients(self, t: np.ndarray, like: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t, each (b, 1, 1, 1), in the dtype and on the device of `like`."""
        return signal_and_noise(self.abar, t, like)

    def model_times(self, t: np.ndarray) -> np.ndarray:
        """(b,) the model's time input for timesteps t (b,) int64."""
        assert self.times is not None
        return self.times[t]

    def noise(self, output: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """eps_hat from the model's output for z."""
        return predicted_noise(output, z, alpha, sigma, self.prediction)


def t_max(config: NoiseConfig, progress: float) -> float:
    """Upper end of t at `progress` in [0, 1] of the run: from t_range[1] to t_max_end, linearly."""
    return config.t_range[1] + (config.t_max_end - config.t_range[1]) * annealed(config, progress)


def t_min(config: NoiseConfig, progress: float) -> float:
    """Lower end of t at `progress`, without the window: from t_min_start to t_range[0], linearly (MVDream)."""
    start = max(config.t_min_start, config.t_range[0])
    return start + (config.t_range[0] - start) * annealed(config, progress)


def annealed(config: NoiseConfig, progress: float) -> float:
    return min(1.0, max(0.0, progress) / config.t_anneal)


def sample_timesteps(config: NoiseConfig, draws: np.ndarray, progress: float, length: int) -> np.ndarray:
    """(n,) int64 timesteps of a schedule of `length` steps, for the n views of a step.

    t ~ U(t_min, t_max) for each view (paper: U(0.02, 0.98)), its lower end raised to t_max - t_window: with a narrow
    window and an annealed upper end, the noise falls steadily over the run (Huang et al., "DreamTime", ICLR 2024).
    Stratified: the interval is cut into n equal strata, and each view gets one of them at random. With t_shared all
    views get the t of the first, from the whole interval. draws: (2, n) uniform numbers in [0, 1); the first row orders
    the strata, the second places t in its stratum.
    """
    n, high = draws.shape[1], t_max(config, progress)
    strata = 1 if config.t_shared else n
    low = min(high, max(t_min(config, progress), high - config.t_window))
    t = low + (high - low) * (np.argsort(draws[0, :strata], kind="stable") + draws[1, :strata]) / strata
    return np.clip((t * length).astype(np.int64), 0, length - 1).repeat(n // strata)


def sample_noise(
    config: NoiseConfig, shape: tuple[int, ...], *, seed: int, part: int, progress: float, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """(B,) int64 timesteps of a schedule of `length` steps and float32 noise of `shape` (B, C, H, W): functions of
    (seed, part) alone, the same on every device and however the views of a step are sliced."""
    random = generator(seed, part, Stream.GUIDANCE)
    t = sample_timesteps(config, random.random((2, shape[0])), progress, length)
    return t, random.standard_normal(shape, dtype=np.float32)


def signal_and_noise(abar: np.ndarray, t: np.ndarray, like: Tensor) -> tuple[Tensor, Tensor]:
    """alpha_t = sqrt(abar_t) and sigma_t = sqrt(1 - abar_t), each (B, 1, 1, 1), in the dtype and on the device of
    `like`."""
    a = abar[t].astype(np.float64).reshape(-1, 1, 1, 1)
    alpha, sigma = sent(np.stack([np.sqrt(a), np.sqrt(1.0 - a)]), like.device, like.dtype)
    return alpha, sigma


def add_noise(x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """z_t = alpha_t x + sigma_t eps (Ho et al. 2020, eq. 4)."""
    return alpha * x + sigma * noise


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


def target_of(x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor, prediction: str) -> Tensor:
    """The training target of a network that predicts "epsilon", "v_prediction", "sample" or "flow", for z_t = alpha x +
    sigma eps: the inverse of `predicted_noise`."""
    targets = {"epsilon": noise, "v_prediction": alpha * noise - sigma * x, "sample": x, "flow": noise - x}
    return targets[prediction]


def flow_abar(length: int) -> np.ndarray:
    """abar (T,) of a rectified flow (Liu et al. 2023; Esser et al. 2024), z = (1 - s) x + s eps with s = (t + 1) / T.

    Divided by sqrt((1 - s)^2 + s^2), z is a variance-preserving z_t with alpha_t : sigma_t = 1 - s : s, so everything
    else here applies; the model's input is z_t / (alpha_t + sigma_t), which is the flow's own z again.
    """
    return abar_of_flow(np.arange(1, length + 1) / length)


def abar_of_flow(s: np.ndarray) -> np.ndarray:
    """abar (T,) of the noise levels s (T,) of a rectified flow; see `flow_abar`."""
    return (1 - s) ** 2 / ((1 - s) ** 2 + s**2)


def weight(alpha: Tensor, sigma: Tensor, weighting: str) -> Tensor:
    """w(t): sigma_t^2 for "sigma2" (the paper's choice), 1 for "uniform" (which the paper found to perform similarly),
    sigma_t / alpha_t for "clean", 1 + sigma_t / alpha_t for "velocity".

    eps_hat - eps = alpha / sigma (x - x_hat), with x_hat the predicted clean image. With "clean" the gradient is x -
    x_hat for any t; with "sigma2" and "uniform" it vanishes with alpha at high noise, although only there the text
    decides what x_hat shows. With "velocity" it is v_hat - (eps - x) of a flow, the same for every noise level (Yang et
    al., "RFDS", ICLR 2025): eps_hat - eps is 1 - s = alpha / (alpha + sigma) times that.
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
