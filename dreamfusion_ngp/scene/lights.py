"""Random point lights and the schedule of shading modes (DreamFusion appendix A.2)."""

from __future__ import annotations

import numpy as np
import torch

from ..config.schema import LightConfig

ALBEDO, LAMBERTIAN, TEXTURELESS = 0, 1, 2


def sample_modes(config: LightConfig, n: int, progress: float, random: np.random.Generator) -> np.ndarray:
    """(n,) int: one shading mode per view.

    Before `config.albedo_only_until` (a fraction of the run) every view is albedo. Afterwards a view is lit with
    probability `lit_probability`, and a lit view is textureless with probability `textureless_probability`, until
    `textureless_until`.
    """
    lit, plain = random.random(n) < config.lit_probability, random.random(n) < config.textureless_probability
    plain &= progress <= config.textureless_until
    modes = np.where(lit, np.where(plain, TEXTURELESS, LAMBERTIAN), ALBEDO)
    return np.where(progress < config.albedo_only_until, ALBEDO, modes)


def sample_light_positions(
    config: LightConfig, camera_position: torch.Tensor, random: np.random.Generator
) -> torch.Tensor:
    """(B, 3) float32 positions of point lights: the direction is that of a sample of N(camera position, std^2 I), the
    distance is uniform. The order of draws is fixed."""
    n = camera_position.shape[0]
    noise = torch.tensor(random.normal(0.0, 1.0, (n, 3)) * config.direction_std, dtype=torch.float32)
    low, high = config.distance
    distance = torch.tensor(low + (high - low) * random.random(n), dtype=torch.float32)
    return torch.nn.functional.normalize(camera_position.cpu() + noise, dim=-1) * distance[:, None]


def shading_rows(config: LightConfig, light: torch.Tensor, modes: np.ndarray) -> torch.Tensor:
    """(B, 6) float32, the per-view input of the shade op: light x, y, z, ambient, diffuse, textureless (0 or 1)."""
    mode = torch.as_tensor(np.asarray(modes))
    lit = (mode != ALBEDO).float()
    ambient = lit * config.ambient + (1 - lit)
    diffuse = lit * config.diffuse
    plain = (mode == TEXTURELESS).float()
    return torch.cat([light.float().cpu(), torch.stack([ambient, diffuse, plain], -1)], -1)
