"""The iso-level of a density for surface extraction, and sampling on a grid. Arrays are numpy on the host, indexed [x,
y, z]."""

from __future__ import annotations

import math

import numpy as np
import torch

from ..base.errors import ExportError, UsageError

CHUNK = 1 << 18  # points per call of the field
MAX_RESOLUTION = 512  # samples per axis: 0.5 GB of grid and about twice that in marching cubes

# The iso-level rule: the lower of two densities. At the first, half of the light passes HALF_OPAQUE world units (a part
# of medium thickness; toys are about 1 across). The other is CREST times the highest density that an opaque ray
# typically meets, so that a thin field gets a low enough level instead of a mesh with holes. On SDS results for known
# toys the best level was 0.4 to 0.6 of that, on synthetic dense fields 3 to 7; levels from the histogram, from rendered
# silhouettes or from rendered depth were worse on both.
HALF_OPAQUE = 0.15
LEVEL = math.log(2) / HALF_OPAQUE
CREST = 0.45
FAINTEST = 0.1  # opacity of the densest ray below which a field is empty


def query(function, points: np.ndarray, device: str | torch.device = "cpu") -> np.ndarray:
    """`function` (torch points (N, 3) float32 on `device` -> (N, ...)) at numpy points, in chunks, as float32.

    Raises ExportError if it returns a number that is not finite.
    """
    out = []
    for start in range(0, len(points), CHUNK):
        part = torch.as_tensor(np.ascontiguousarray(points[start : start + CHUNK], dtype=np.float32), device=device)
        with torch.no_grad():
            values = function(part).detach().to("cpu", torch.float32).numpy()
        if not np.isfinite(values).all():
            bad = len(values) - int(np.isfinite(values).reshape(len(values), -1).all(1).sum())
            raise ExportError(
                f"the field is not finite at {bad} of {len(values)} points; the run has diverged and cannot be exported"
            )
        out.append(values)
    return np.concatenate(out)


def cell_centres(half: float, resolution: int) -> np.ndarray:
    """(resolution,) coordinates of the cell centres of [-half, half]."""
    return ((np.arange(resolution) + 0.5) / resolution * 2 - 1) * half


def sample_grid(density, bound: float, resolution: int, device: str | torch.device = "cpu") -> np.ndarray:
    """(R, R, R) float32 density at the centres of the cells of [-bound, bound]^3, in slabs along x.

    Raises UsageError for a resolution outside 8..512, ExportError for a density that is not finite.
    """
    if not 8 <= resolution <= MAX_RESOLUTION:
        raise UsageError(f"mesh resolution must be between 8 and {MAX_RESOLUTION}, got {resolution}")
    axis = cell_centres(bound, resolution).astype(np.float32)
    grid = np.empty((resolution,) * 3, dtype=np.float32)
    slab = max(1, CHUNK // resolution**2)
    for x in range(0, resolution, slab):
        points = np.stack(np.meshgrid(axis[x : x + slab], axis, axis, indexing="ij"), -1).reshape(-1, 3)
        grid[x : x + slab] = query(density, points, device).reshape(-1, resolution, resolution)
    return grid


def iso_level(grid: np.ndarray, voxel: float) -> float:
    """The density at which the surface lies, for sampled density (R, R, R) with cells of `voxel` world units.

    min(LEVEL, CREST m), where m is the median, over the opaque rays along the three axes, of the highest density on a
    ray. Opaque rays are those above half of the greatest opacity. Raises ExportError for an empty field: one whose
    densest ray has an opacity below FAINTEST.
    """
    opacity = [1 - np.exp(-voxel * grid.sum(axis, dtype=np.float64)) for axis in range(3)]
    densest = max(float(o.max()) for o in opacity)
    if densest < FAINTEST:
        raise ExportError(
            f"the scene is empty: its densest ray has an opacity of {densest:.3f}. The run may have "
            "collapsed; look at its previews, and try more steps or another seed"
        )
    crests = [grid.max(axis)[o > 0.5 * densest] for axis, o in enumerate(opacity)]
    return min(LEVEL, CREST * float(np.median(np.concatenate(crests))))
