"""Pictures of a run for people: previews and turntable frames, with a light and a background of their own."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch

from ..base.errors import writing
from ..base.files import write_atomically
from ..config.schema import FieldConfig
from ..optimise.stage import Stage
from ..scene.cameras import orbit

# World units, image widths: shows the whole object with a margin, in the default cube; further off in a wider one.
DISPLAY_DISTANCE, DISPLAY_FOCAL = 1.55, 1.25
DISPLAY_BACKGROUND = (0.92, 0.92, 0.92)


def display_shading(position: torch.Tensor, plain: bool) -> torch.Tensor:
    """(B, 6) rows of a soft light above the viewer's shoulder; plain: white clay instead of the object's colours."""
    light = position * 1.2 + torch.tensor([0.0, 0.8, 0.0])
    row = torch.tensor([0.45, 0.55, 1.0]) if plain else torch.tensor([0.60, 0.40, 0.0])
    return torch.cat([light, row.expand(len(position), 3)], -1)


def display(state: Stage, azimuths, elevation, resolution: int, plain: bool = False):
    """Pictures around the object: a list of (rgb, normal, opacity) arrays per azimuth (degrees), float32 in [0, 1]."""
    wide = state.config.field.bound / FieldConfig.bound
    cameras = orbit(azimuths, elevation, DISPLAY_DISTANCE * wide, DISPLAY_FOCAL)
    colors = torch.tensor(DISPLAY_BACKGROUND).expand(len(cameras), 3)
    frames = []
    for r in state.show(cameras, display_shading(cameras.position, plain), colors, resolution):
        normal = 0.5 + 0.5 * r.normal + 0.5 * (1 - r.opacity)[..., None]  # white where there is nothing
        frames += [
            tuple(v.clamp(0, 1).cpu().numpy() for v in triple) for triple in zip(r.rgb, normal, r.opacity, strict=True)
        ]
    return frames


def render_opacity(state: Stage):
    """Callable (cameras, resolution) -> (B, H, W) opacity of the state's scene, for silhouettes."""

    def opacity(cameras, resolution):
        rows = torch.tensor([[0.0, 0.0, 0.0, 1.0, 0.0, 0.0]]).expand(len(cameras), 6)
        black = torch.zeros(len(cameras), 3)
        return torch.cat([r.opacity for r in state.show(cameras, rows, black, resolution)])

    return opacity


def write_preview(folder: Path, state: Stage) -> str:
    """Write a picture of `state` into `folder`/previews. Returns its path in `folder`. Raises OutputError."""
    from PIL import Image

    name, buffer = f"previews/{state.before + state.step:06d}.png", io.BytesIO()
    Image.fromarray(preview_picture(state)).save(buffer, "PNG")
    with writing(folder / name):
        (folder / name).parent.mkdir(exist_ok=True)
        write_atomically(folder / name, buffer.getvalue())
    return name


def preview_picture(state: Stage, resolution: int = 128) -> np.ndarray:
    """(2 H, 4 W, 3) uint8: front, right, back, left; colours above, untextured below."""
    azimuths = (0, 90, 180, 270)
    rows = [
        np.concatenate([rgb for rgb, _, _ in display(state, azimuths, 20.0, resolution, plain)], 1)
        for plain in (False, True)
    ]
    return (np.concatenate(rows) * 255).round().astype(np.uint8)


def turntable_frames(state: Stage, count: int = 48, resolution: int = 192):
    """Yield (H, 3 W, 3) uint8 frames of one turn: colours, normals, untextured, side by side."""
    for i in range(0, count, 4):
        azimuths = [360.0 * k / count for k in range(i, min(i + 4, count))]
        color = display(state, azimuths, 20.0, resolution)
        clay = display(state, azimuths, 20.0, resolution, plain=True)
        for (rgb, normal, _), (white, _, _) in zip(color, clay, strict=True):
            yield (np.concatenate([rgb, normal, white], 1) * 255).round().astype(np.uint8)
