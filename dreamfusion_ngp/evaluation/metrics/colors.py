"""Colours of a field's surface, compared with the colour that the prompt names."""

from __future__ import annotations

import numpy as np

from ...scene.isolevel import cell_centres, query, sample_grid
from ...toybox.world.shapes import COLORS
from .volume import fill_cavities

RESOLUTION = 64  # cells per axis of the grid whose surface is used


def surface_colors(density, albedo, bound: float, level: float, device="cpu") -> np.ndarray:
    """(N, 3) albedo of the field in the cells of its solid that can be seen from outside: those next to open space."""
    from scipy.ndimage import binary_erosion

    solid = fill_cavities(sample_grid(density, bound, RESOLUTION, device) > level)
    kernel: np.ndarray = np.asarray(binary_erosion(solid))
    visible = np.argwhere(solid & ~kernel)
    return query(albedo, cell_centres(bound, RESOLUTION)[visible], device)


def color_scores(colors: np.ndarray, color: str) -> tuple[float, float]:
    """(error, share) of surface colours (N, 3): the root mean square, over the channels, of the difference between
    their mean and the named colour; the share of them whose nearest named colour it is. Parts of a toy in other colours
    count too."""
    difference = colors.mean(0) - np.array(COLORS[color])
    nearest = np.linalg.norm(colors[:, None] - np.array(list(COLORS.values())), axis=-1).argmin(1)
    return float(np.sqrt((difference**2).mean())), float((nearest == list(COLORS).index(color)).mean())
