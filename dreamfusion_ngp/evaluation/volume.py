"""Solids: overlap with the toy that the prompt names, loose pieces."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from ..mesh import cell_centres, iso_level, sample_grid
from ..toybox.shapes import PARAMETERS, distance
from ..toybox.world import EXTENT

RESOLUTION = 64                      # cells per axis of the compared solids
SCALES = (0.7, 1.4)                  # of the toy
COARSE_YAWS, COARSE_SCALES = 36, 8   # first search, on every second cell per axis
CANDIDATES = 3                       # of the first search, refined on all cells
FINEST_YAW = 1.0                     # degrees; the last step of the refinement


@dataclass(frozen=True)
class Volume:
    """iou: in [0, 1]. yaw: degrees about +Y and scale: of the toy where it fits best. unaligned: IoU at yaw 0 and
    scale 1. level: density of the surface."""

    iou: float
    yaw: float
    scale: float
    unaligned: float
    level: float


def fill_cavities(solid: np.ndarray) -> np.ndarray:
    """`solid` (bool, 3D) with every empty region that has no way out of the grid through cell faces filled."""
    from scipy.ndimage import label

    regions, _ = label(np.pad(~solid, 1, constant_values=True))
    return (regions != regions[0, 0, 0])[1:-1, 1:-1, 1:-1]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two bool arrays; 1 for two empty ones."""
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 1.0


def pieces(solid: np.ndarray, smallest: int = 1) -> tuple[int, float]:
    """(number, share) of a bool grid (3D): how many pieces that hang together through cell faces have at least
    `smallest` cells, and the part of all cells that lies outside the largest piece, in [0, 1). (0, 0) for an empty
    grid."""
    from scipy.ndimage import label

    cells = np.bincount(label(solid)[0].ravel())[1:]
    if not len(cells):
        return 0, 0.0
    return int((cells >= smallest).sum()), float(1 - cells.max() / cells.sum())


class _Fit:
    """IoU of a fixed solid and the toy, turned and scaled, on the cells of one grid."""

    def __init__(self, solid: np.ndarray, axis: np.ndarray, name: str):
        self.solid, self.name = solid, name
        points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
        radius = np.linalg.norm(points, axis=1)
        self.order = np.argsort(radius)  # from the centre outwards: a small toy needs few of the points
        self.radius = radius[self.order]
        self.points = torch.tensor(points[self.order].T[:, None], dtype=torch.float32)

    def toy(self, yaw: float, scale: float) -> np.ndarray:
        """The toy turned by `yaw` degrees about +Y (from +Z towards +X) and scaled about the origin, cavities
        filled."""
        near = int(np.searchsorted(self.radius, EXTENT * scale))
        x, y, z = self.points[..., :near] / scale
        c, s = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
        inside = np.zeros(self.solid.size, dtype=bool)
        found = distance(self.name, (c * x - s * z, y, s * x + c * z), torch.zeros(1, PARAMETERS))[0] < 0
        inside[self.order[:near]] = found.numpy()
        return fill_cavities(inside.reshape(self.solid.shape))

    def __call__(self, yaw: float, scale: float) -> float:
        return iou(self.solid, self.toy(yaw, scale))


def volumetric_iou(density, name: str, bound: float, *, resolution: int = RESOLUTION, device="cpu") -> Volume:
    """Intersection over union of the solids of a field and of the toy `name` in its canonical proportions.

    density: callable, points (N, 3) -> (N,) density per world unit, defined on [-bound, bound]^3. The field's solid
    is where the density exceeds `mesh.iso_level`, the rule of the mesh export. All pieces count; closed cavities are
    filled on both sides. The toy is turned about the vertical and scaled uniformly about the origin (SCALES) for the
    best IoU: a grid of 36 yaws x 8 scales, then a pattern search from the best three down to 1 degree. Nothing else
    is optimised: no shift, no tilt, no mirror image, no iso-level.
    Raises ExportError for an empty or not finite field.
    """
    half = max(bound, 0.5 * SCALES[1])  # a large toy may leave the scene: what is out there counts against the field

    def inside(x):
        return density(x.clamp(-bound, bound)) * (x.abs() <= bound).all(1).to(x.device)

    grid = sample_grid(inside, half, resolution, device)
    level = iso_level(grid, 2 * half / resolution)
    solid, axis = fill_cavities(grid > level), cell_centres(half, resolution)
    coarse, fine = _Fit(solid[::2, ::2, ::2], axis[::2], name), _Fit(solid, axis, name)
    starts = sorted(((coarse(yaw, scale), yaw, scale) for yaw in np.arange(COARSE_YAWS) * 360 / COARSE_YAWS
                     for scale in np.geomspace(*SCALES, COARSE_SCALES)), reverse=True)[:CANDIDATES]
    unaligned = fine(0.0, 1.0)
    best = max([(unaligned, 0.0, 1.0), *(refine(fine, yaw, scale) for _, yaw, scale in starts)])
    return Volume(best[0], float((best[1] + 180) % 360 - 180), float(best[2]), unaligned, level)


def refine(fit, yaw: float, scale: float) -> tuple[float, float, float]:
    """(value, yaw, scale) of a nearby maximum of fit(yaw, scale). Pattern search: try both neighbours in yaw and in
    scale, move to a better one, else halve the steps."""
    value, turn, ratio = fit(yaw, scale), 5.0, 1.05
    while turn >= FINEST_YAW:
        options = [(yaw + turn, scale), (yaw - turn, scale),
                   (yaw, min(scale * ratio, SCALES[1])), (yaw, max(scale / ratio, SCALES[0]))]
        found = max((fit(y, s), y, s) for y, s in options)
        if found[0] > value:
            value, yaw, scale = found
        else:
            turn, ratio = turn / 2, ratio ** 0.5
    return value, yaw, scale
