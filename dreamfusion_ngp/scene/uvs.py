"""Whether the UVs of an imported mesh can take a new texture: missing, outside, overlapping, degenerate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .imported import ImportedMesh
from .topology import counted

SIZE = 1024  # texels a side of the map that overlaps are counted on
SUBTEXELS = 256  # corners are rounded to this part of a texel, so that edges are exact
MAX_ROWS = 1 << 25  # rows of triangles to count: the map is made smaller until there are fewer
ROWS_PER_CALL = 1 << 20
TILES = 3  # how far a triangle can reach, in images, when its lowest corner is in the first


@dataclass(frozen=True)
class UvReport:
    """The UVs of the triangles of one texture. faces: their number, without copies of parts.

    missing: triangles without UVs. outside: with a corner outside [0, 1]^2, by more than half a texel of the map.
    degenerate: without area in the texture. mirrored: clockwise there. tiled: larger than the image; these overlap
    themselves. coverage: the share of the image that triangles cover. overlap: the share of that which more than one
    triangle covers, with the image repeated. size: texels a side of the map on which the last two are counted.
    """

    faces: int
    missing: int
    outside: int
    degenerate: int
    mirrored: int
    tiled: int
    coverage: float
    overlap: float
    size: int

    def complaints(self) -> list[str]:
        """What keeps the UVs from taking a new texture or may look wrong, a line each."""
        lines = {
            f"{counted(self.missing, 'triangle')} without UVs": self.missing,
            f"{self.overlap:.1%} of the texture is used more than once": self.overlap > 5e-4,
            f"{counted(self.tiled, 'triangle')} larger than the texture": self.tiled,
            f"{counted(self.outside, 'triangle')} outside of the texture": self.outside,
            f"{counted(self.degenerate, 'triangle')} without area in the texture": self.degenerate,
        }
        return [line for line, count in lines.items() if count]


def examine_uvs(mesh: ImportedMesh, texture: int, size: int = SIZE) -> UvReport:
    """Examine the UVs of the triangles of one of the mesh's textures. Counts are exact for corners rounded to 1/256
    texel: the texel centres in each triangle, by the top-left rule, so that neighbours share none. Takes seconds for a
    million triangles."""
    rows = mesh.triangles_of(texture)
    index = mesh.uv_faces[rows]
    has = (index >= 0).all(1)
    corner = mesh.uv[index[has]].astype(np.float64)  # (N, 3, 2)
    area = cross(corner)
    extent = np.ptp(corner, axis=1).max(1) if len(corner) else np.zeros(0)
    tiled = extent > 1 + 0.5 / size
    slack = 0.5 / size
    outside = ((corner < -slack) | (corner > 1 + slack)).any((1, 2))
    counts = texel_counts(corner[~tiled], size)
    covered = int((counts > 0).sum())
    return UvReport(
        faces=int(rows.sum()),
        missing=int((~has).sum()),
        outside=int(outside.sum()),
        degenerate=int((np.abs(area) < 1e-14).sum()),
        mirrored=int((area < -1e-14).sum()),
        tiled=int(tiled.sum()),
        coverage=covered / counts.size,
        overlap=int((counts > 1).sum()) / covered if covered else 0.0,
        size=len(counts),
    )


def cross(corner: np.ndarray) -> np.ndarray:
    """(N,) twice the signed area of triangles (N, 3, 2)."""
    ab, ac = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
    return ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]


def texel_counts(corner: np.ndarray, size: int) -> np.ndarray:
    """(S, S) int32: how many of the triangles (N, 3, 2), none larger than the image, contain each texel's centre, with
    the image repeated. S is `size`, or less if there were too many rows."""
    heights = np.ptp(corner[..., 1], axis=1) if len(corner) else np.zeros(0)
    while size > 16 and (heights * size).sum() > MAX_ROWS:
        size //= 2
    unit = size * SUBTEXELS
    shift = np.floor(corner.min(1)).astype(np.int64)
    fixed = np.rint((corner - shift[:, None]) * unit).astype(np.int64)
    swapped = cross(fixed) < 0
    fixed[swapped] = fixed[swapped][:, [0, 2, 1]]
    fixed = fixed[cross(fixed) != 0]
    half = SUBTEXELS // 2
    low = -((half - fixed[..., 1].min(1)) // SUBTEXELS)  # the first row whose centre is not below the triangle
    high = (fixed[..., 1].max(1) - half) // SUBTEXELS
    ends = np.cumsum((high - low + 1).clip(0))
    change = np.zeros(size * (TILES * size + 1), np.int32)
    start, done = 0, 0
    while start < len(fixed):
        stop = max(start + 1, int(np.searchsorted(ends, done + ROWS_PER_CALL, side="right")))
        add_spans(change, fixed[start:stop], low[start:stop], high[start:stop], size)
        start, done = stop, int(ends[stop - 1])
    counts = np.cumsum(change.reshape(size, -1), axis=1, dtype=np.int32)[:, : TILES * size]
    return counts.reshape(size, TILES, size).sum(1, dtype=np.int32)


def add_spans(change: np.ndarray, fixed: np.ndarray, low: np.ndarray, high: np.ndarray, size: int) -> None:
    """Rasterise triangles (N, 3, 2), counter-clockwise in units of 1 / SUBTEXELS texels, over their rows `low` to
    `high`: add 1 to `change`, whose running sums along rows are the counts, where a triangle begins, and -1 where it
    ends."""
    rows = (high - low + 1).clip(0)
    which = np.repeat(np.arange(len(fixed)), rows)
    row = np.arange(len(which)) - (np.cumsum(rows) - rows)[which] + low[which]
    y = row * SUBTEXELS + SUBTEXELS // 2
    first, last = np.zeros_like(row), np.full_like(row, TILES * size - 1)
    for k in range(3):
        (ax, ay), (bx, by) = fixed[which, k].T, fixed[which, (k + 1) % 3].T
        dx, dy = bx - ax, by - ay
        # Inside is left of a -> b: dx (y - ay) - dy (x - ax) > 0, or = 0 on edges that include their points: those that
        # run downwards and, of the level ones, those that run to the left. Of two triangles at an edge one includes it.
        inclusive = (dy < 0) | ((dy == 0) & (dx < 0))
        free = dx * (y - ay) + dy * ax - ~inclusive  # dy x <= free, x in the same units
        center = free - dy * (SUBTEXELS // 2)  # dy (SUBTEXELS i) <= center for the texel i
        step = dy * SUBTEXELS
        up, down = step > 0, step < 0
        last[up] = np.minimum(last[up], center[up] // step[up])
        first[down] = np.maximum(first[down], -(center[down] // -step[down]))
        last[(dy == 0) & (center < 0)] = -1
    some = first <= last
    base = (row[some] % size) * (TILES * size + 1)
    change += np.bincount(base + first[some], minlength=len(change)).astype(np.int32)
    change -= np.bincount(base + last[some] + 1, minlength=len(change)).astype(np.int32)
