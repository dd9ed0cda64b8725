"""Inside and outside of a mesh that need not be closed: winding numbers on a grid, and signed distances.

The winding number of an oriented surface (Jacobson et al. 2013) is 1 inside and 0 outside where the surface is closed,
and changes smoothly across a hole. Its gradient is minus the normal on the surface and zero elsewhere, so it solves a
Poisson equation (Kazhdan et al. 2006), here by a Fourier transform: the cost does not grow with the number of
triangles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..base.rng import Stream, generator

SAMPLES = 1 << 18  # points on the surface
GRID = 96  # cells a side of the cube
NEAR = 1.5  # cells: this near to the surface its normal decides which side a point is on
INSIDE = 0.55  # winding numbers above it; next to an open sheet they reach one half


@dataclass(frozen=True)
class Samples:
    """Points on triangles, uniform by area. position, normal: (N, 3) float64, unit normals. face: (N,) int64.
    barycentric: (N, 3). area: of one sample, world units squared."""

    position: np.ndarray
    normal: np.ndarray
    face: np.ndarray
    barycentric: np.ndarray
    area: float


def points_on_faces(vertices: np.ndarray, faces: np.ndarray, n: int, random: np.random.Generator):
    """n points on triangles (F, 3) of vertices (V, 3), uniform by area and stratified, one in each n-th of the total
    area: the triangle (n,) and the barycentrics (n, 3) of each point. Triangles without area get none."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    area = np.cumsum(np.linalg.norm(np.cross(b - a, c - a), axis=1))
    face = np.searchsorted(area, (np.arange(n) + random.random(n)) / n * area[-1]).clip(max=len(area) - 1)
    u, v = np.sqrt(random.random((n, 1))), random.random((n, 1))
    return face, np.concatenate([1 - u, u * (1 - v), u * v], 1)


def sample_triangles(vertices: np.ndarray, faces: np.ndarray, count: int, seed: int) -> Samples:
    """`count` points of triangles (F, 3) of vertices (V, 3)."""
    corner = vertices.astype(np.float64)[faces]
    cross = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    double = np.linalg.norm(cross, axis=1)
    face, barycentric = points_on_faces(vertices.astype(np.float64), faces, count, generator(seed, 0, Stream.INIT))
    position = (corner[face] * barycentric[..., None]).sum(1)
    normal = cross[face] / double[face, None].clip(min=1e-300)
    return Samples(position, normal, face, barycentric, float(double.sum()) / 2 / count)


def winding_grid(samples: Samples, bound: float, resolution: int = GRID) -> np.ndarray:
    """(R, R, R) float32: winding numbers at the centres of the cells of [-bound, bound]^3, blurred by about a cell.
    Solved in a periodic cube of twice the side, so that its copies have little effect."""
    cell, size = 2 * bound / resolution, 2 * resolution
    flow = np.zeros((3, size**3), np.float64)
    at = samples.position / cell + resolution / 2 - 0.5 + resolution // 2
    low = np.floor(at).astype(np.int64)
    share = at - low
    for corner in np.ndindex(2, 2, 2):
        weight = np.where(corner, share, 1 - share).prod(1) * samples.area / cell**3
        place = np.ravel_multi_index(tuple(((low + corner) % size).T), (size,) * 3)
        for axis in range(3):
            flow[axis] += np.bincount(place, weight * samples.normal[:, axis], size**3)
    field = torch.from_numpy(flow).float().view(3, size, size, size)
    k = [2 * np.pi * torch.fft.fftfreq(size, cell)] * 2 + [2 * np.pi * torch.fft.rfftfreq(size, cell)]
    mesh = torch.meshgrid(*k, indexing="ij")
    square = mesh[0].square() + mesh[1].square() + mesh[2].square()
    square[0, 0, 0] = 1.0
    total = sum(1j * v * torch.fft.rfftn(part) for v, part in zip(mesh, field, strict=True))
    winding = torch.fft.irfftn(total / square, s=(size,) * 3)
    winding = winding - winding[0].mean()  # far from everything it is 0
    inner = slice(resolution // 2, resolution // 2 + resolution)
    return winding[inner, inner, inner].numpy()


class Solid:
    """Signed distances to triangles (F, 3) of vertices (V, 3) in the cube [-bound, bound]^3, world units.

    Holes are closed smoothly; a mesh that is inside out is flipped. At open sheets, where the winding number is no
    help, only points within NEAR cells of the back count as inside.
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, bound: float, seed: int = 0, samples: int = SAMPLES):
        from scipy.spatial import KDTree

        self.samples, self.bound = sample_triangles(vertices, faces, samples, seed), bound
        self.grid = winding_grid(self.samples, bound)
        self.sign = -1.0 if self.grid.sum() < 0 else 1.0  # inside out
        self.tree: Any = KDTree(self.samples.position)  # by scipy's annotations a query may return one number

    def winding(self, x: np.ndarray) -> np.ndarray:
        """(N,) winding numbers at points (N, 3), interpolated between cell centres; 0 outside the cube."""
        grid = torch.from_numpy(self.grid * self.sign).permute(2, 1, 0)[None, None]
        at = torch.from_numpy(x / self.bound).float().view(1, -1, 1, 1, 3)
        winding = torch.nn.functional.grid_sample(grid, at, align_corners=False, padding_mode="zeros")
        return winding.view(-1).numpy()

    def nearest(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For points (N, 3): signed distances (N,), positive inside, and rows (N,) of `samples` that are nearest."""
        away, row = self.tree.query(x)
        offset = x - self.samples.position[row]
        plane = -self.sign * (offset * self.samples.normal[row]).sum(1)
        inside = np.where(self.winding(x) > INSIDE, 1.0, -1.0)
        cell = 2 * self.bound / len(self.grid)
        # The nearest sample is not the nearest surface point: close to a sample the distance is that to its plane.
        beside = away < 3 * np.sqrt(self.samples.area)
        by_normal = np.where(beside, plane, np.copysign(away, plane))
        return np.where(away < NEAR * cell, by_normal, inside * away), row

    def points(self, count: int, spread: float, random: np.random.Generator) -> np.ndarray:
        """(count, 3) random points around the surface, normal with a deviation of `spread` in each axis."""
        rows = random.integers(len(self.samples.position), size=count)
        return self.samples.position[rows] + spread * random.standard_normal((count, 3))
