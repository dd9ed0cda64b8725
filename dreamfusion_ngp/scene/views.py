"""The views of an optimisation step: cameras, lights and shading modes, drawn together from one seeded generator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..config.schema import CameraConfig, LightConfig
from .cameras import Cameras, around, sample_cameras
from .lights import sample_light_positions, sample_modes, shading_rows


@dataclass(frozen=True)
class Views:
    """B views. shading: (B, 6) float32 rows of the shade op. modes: (B,) int, `lights.ALBEDO`, `LAMBERTIAN` or
    `TEXTURELESS`."""

    cameras: Cameras
    shading: torch.Tensor
    modes: np.ndarray

    def __len__(self) -> int:
        return len(self.cameras)

    def __getitem__(self, part: slice | np.ndarray) -> Views:
        """A subset: part is a slice, or an array of indices or bools."""
        return Views(self.cameras[part], self.shading[part], self.modes[part])


def sample_views(
    camera: CameraConfig, light: LightConfig, n: int, progress: float, random: np.random.Generator
) -> Views:
    """n views for a run at `progress` in [0, 1]. Every draw comes from `random`, in a fixed order. The views of a ring
    (`camera.ring`) share one shading mode, and the light rotates with the camera."""
    cameras, ring = sample_cameras(camera, n, random), camera.ring or 1
    modes = sample_modes(light, -(-n // ring), progress, random).repeat(ring)[:n]
    position = around(sample_light_positions(light, cameras.position[::ring], random), ring)[:n]
    return Views(cameras, shading_rows(light, position, modes), modes)
