"""The pictures by which results are judged: eight azimuths at 30 degrees of elevation (DreamFusion section 4), of a
run's field or of a true toy, rendered alike."""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields

import numpy as np
import torch

from ..config.schema import FieldConfig
from ..runs.display import DISPLAY_BACKGROUND, DISPLAY_DISTANCE, DISPLAY_FOCAL, display_shading
from ..scene.cameras import Cameras, orbit
from ..toybox.world.shapes import COLORS, PARAMETERS
from ..toybox.world.tracer import GBuffer, part_colors, shade, trace

AZIMUTHS = tuple(range(0, 360, 45))  # degrees
ELEVATION = 30.0  # degrees
RESOLUTION = 128  # pixels a side
FLAT = (0.0, 0.0, 0.0, 1.0, 0.0, 0.0)  # row of the shade op: unlit albedo


@dataclass(frozen=True)
class Pictures:
    """B views, float32 in [0, 1], over DISPLAY_BACKGROUND. albedo, lit, clay: (B, H, W, 3); clay is lit without
    colours, the paper's textureless rendering. opacity: (B, H, W)."""

    albedo: torch.Tensor
    lit: torch.Tensor
    clay: torch.Tensor
    opacity: torch.Tensor

    def __len__(self) -> int:
        return len(self.opacity)

    def __getitem__(self, index) -> Pictures:
        return Pictures(*(getattr(self, f.name)[index] for f in fields(self)))


def judging_cameras(azimuths=AZIMUTHS, scale: float = 1.0) -> Cameras:
    """scale: of the object, whose picture stays the same (the camera's distance shrinks with 1 / scale)."""
    return orbit(azimuths, ELEVATION, DISPLAY_DISTANCE / scale, DISPLAY_FOCAL)


def shading_rows(cameras: Cameras) -> dict[str, torch.Tensor]:
    """(B, 6) rows of the shade op for each kind of picture."""
    return {
        "albedo": torch.tensor(FLAT).expand(len(cameras), 6),
        "lit": display_shading(cameras.position, False),
        "clay": display_shading(cameras.position, True),
    }


def lit_pictures(state, resolution: int) -> torch.Tensor:
    """(B, H, H, 3) lit pictures of a run's scene, from the `judging_cameras` of a true toy, whatever its cube."""
    cameras = judging_cameras()
    colors = torch.tensor(DISPLAY_BACKGROUND).expand(len(cameras), 3)
    views = state.show(cameras, shading_rows(cameras)["lit"], colors, resolution)
    return torch.cat([r.rgb for r in views]).float().cpu().clamp(0, 1)


def field_pictures(state) -> Pictures:
    """Pictures of a run's field from the `judging_cameras`, further off where its cube is wider than the default."""
    cameras = judging_cameras(scale=FieldConfig.bound / state.config.field.bound)
    colors, images = torch.tensor(DISPLAY_BACKGROUND).expand(len(cameras), 3), {}
    for kind, rows in shading_rows(cameras).items():
        views = list(state.show(cameras, rows, colors, RESOLUTION))
        images[kind] = torch.cat([r.rgb for r in views]).float().cpu().clamp(0, 1)
        images["opacity"] = torch.cat([r.opacity for r in views]).float().cpu().clamp(0, 1)
    return Pictures(**images)


def toy_pictures(
    toy, color, *, cameras: Cameras | None = None, u: torch.Tensor | None = None, resolution: int = RESOLUTION
) -> Pictures:
    """Pictures of a true toy (a class or a function, see `shapes.parts`) with the main colour `color` (3 values), from
    the `judging_cameras` unless others are given. u: (B, PARAMETERS) proportions, canonical by default."""
    cameras = judging_cameras() if cameras is None else cameras
    u = torch.zeros(len(cameras), PARAMETERS) if u is None else u
    return shaded(trace(toy, u, cameras, resolution), color, cameras)


@functools.lru_cache(maxsize=8)  # a picture of 256 pixels is 2.6 MB, and there are eight
def true_pictures(name: str, color: str, resolution: int = RESOLUTION) -> Pictures:
    """`toy_pictures` of a class in a named colour, made once."""
    return toy_pictures(name, COLORS[color], resolution=resolution)


def shaded(buffer: GBuffer, color, cameras: Cameras) -> Pictures:
    """Pictures of traced views in the main colour `color` (3 values)."""
    colors = part_colors(torch.as_tensor(np.asarray(color), dtype=torch.float32).expand(len(cameras), 3))
    background = torch.tensor(DISPLAY_BACKGROUND)
    kinds = {kind: shade(buffer, colors, rows, background).clamp(0, 1) for kind, rows in shading_rows(cameras).items()}
    return Pictures(**kinds, opacity=buffer.alpha.float() / 255)
