"""A body-centred cubic lattice of tetrahedra, and the band of its points and tetrahedra near a surface.

The points are those of a cubic grid and the centres of its cubes. Each pair of neighbouring centres forms four
tetrahedra with the edges of the square between them. All have one shape, the most regular that fills space (Labelle and
Shewchuk 2007), so that no diagonal direction is favoured.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Corners of the square between two centres that are neighbours along x, y, z, in order around it, as offsets from the
# corner of the first centre's cube; the square of axis k has coordinate 1 along k.
SQUARES = torch.tensor(
    [
        [[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 0, 1]],
        [[0, 1, 0], [0, 1, 1], [1, 1, 1], [1, 1, 0]],
        [[0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]],
    ]
)
PAIRS = torch.tensor([[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]])  # the edges of a tetrahedron


@dataclass(frozen=True)
class Band:
    """A subset of the points of a lattice, and the tetrahedra between them.

    points: (P,) int64 indices of lattice points, ascending. tetrahedra: (T, 4) int64 rows of `points`, each with a
    positive volume. edges: (E, 2) int64 rows of `points`, each edge once, the smaller row first. tetrahedron_edges: (T,
    6) rows of `edges`, in the order of PAIRS. border: (P,) bool, points some of whose neighbours are not in the band.
    """

    points: Tensor
    tetrahedra: Tensor
    edges: Tensor
    tetrahedron_edges: Tensor
    border: Tensor


class Lattice:
    """The lattice over [-bound, bound]^3, with `resolution` steps a side, an even number: resolution / 2 cubes."""

    def __init__(self, resolution: int, bound: float, device: str | torch.device = "cpu"):
        if resolution < 4 or resolution % 2:
            raise ValueError(f"lattice: resolution must be an even number, at least 4, got {resolution}")
        self.resolution, self.bound, self.device = resolution, bound, torch.device(device)
        self.cubes = resolution // 2
        self.grid_points = (self.cubes + 1) ** 3  # the indices of centres follow

    @property
    def size(self) -> int:
        """The number of points."""
        return self.grid_points + self.cubes**3

    @property
    def spacing(self) -> float:
        """Half a side of a cube, in world units."""
        return 2 * self.bound / self.resolution

    def place(self, points: Tensor) -> Tensor:
        """(P, 3) int64 coordinates of points (P,), in half sides of a cube: even on the grid, odd at centres."""
        centre = points >= self.grid_points
        number, side = torch.where(centre, points - self.grid_points, points), torch.where(centre, 0, 1) + self.cubes
        z, rest = number % side, number // side
        return 2 * torch.stack([rest // side, rest % side, z], -1) + centre[:, None].long()

    def positions(self, points: Tensor) -> Tensor:
        """(P, 3) float32 world positions of points (P,)."""
        return self.place(points).float() * self.spacing - self.bound

    def on_the_rim(self, points: Tensor) -> Tensor:
        """(P,) bool: points on a face of the cube, and centres next to it. If all of these are outside, the surface is
        closed."""
        place = self.place(points)
        return ((place <= 1) | (place >= self.resolution - 1)).any(-1)

    def dilate(self, points: Tensor, rings: int = 1) -> Tensor:
        """The indices of `points` and of their neighbours up to `rings` edges away, ascending."""
        grid, centre = self._masks(points)
        for _ in range(rings):
            from_grid, from_centre = _dilate(grid), _dilate(centre)
            n = self.cubes
            for i in range(8):
                x, y, z = i >> 2, i >> 1 & 1, i & 1
                from_centre |= grid[x : x + n, y : y + n, z : z + n]
                from_grid[x : x + n, y : y + n, z : z + n] |= centre
            grid, centre = from_grid, from_centre
        return torch.cat([grid.flatten().nonzero()[:, 0], centre.flatten().nonzero()[:, 0] + self.grid_points])

    def _masks(self, points: Tensor) -> tuple[Tensor, Tensor]:
        n, mask = self.cubes, torch.zeros(self.size, dtype=torch.bool, device=self.device)
        mask[points] = True
        return mask[: self.grid_points].view(n + 1, n + 1, n + 1), mask[self.grid_points :].view(n, n, n)

    def band(self, points: Tensor) -> Band:
        """The band of `points`, ascending indices: with the tetrahedra all of whose corners are among them."""
        n = self.cubes
        row = torch.full((self.size,), -1, dtype=torch.int64, device=self.device)
        row[points] = torch.arange(len(points), device=self.device)
        centre = points[points >= self.grid_points] - self.grid_points
        place = torch.stack([centre // (n * n), centre // n % n, centre % n], -1)
        squares, step = SQUARES.to(self.device), torch.tensor([n * n, n, 1], device=self.device)
        corners = []
        for axis in range(3):
            inner = place[:, axis] < n - 1
            first, at = centre[inner], place[inner]
            second = first + step[axis]
            corner = at[:, None] + squares[axis]  # (C, 4, 3)
            corner = (corner[..., 0] * (n + 1) + corner[..., 1]) * (n + 1) + corner[..., 2]
            a, b = (row[v + self.grid_points][:, None].expand(-1, 4) for v in (first, second))
            corners.append(torch.stack([a, b, row[corner], row[corner.roll(-1, 1)]], -1).reshape(-1, 4))
        tetrahedra = torch.cat(corners)
        tetrahedra = tetrahedra[(tetrahedra >= 0).all(1)]
        ends = tetrahedra[:, PAIRS.to(self.device)].sort(-1).values  # (T, 6, 2)
        key, inverse = (ends[..., 0] * len(points) + ends[..., 1]).flatten().unique(return_inverse=True)
        edges = torch.stack([key // max(1, len(points)), key % max(1, len(points))], -1)
        return Band(points, tetrahedra, edges, inverse.view(-1, 6), ~self._surrounded(points, row))

    def _surrounded(self, points: Tensor, row: Tensor) -> Tensor:
        """(P,) bool: points all of whose lattice neighbours are in the band."""
        grid, centre = (~m for m in self._masks(points))
        outside = torch.cat([grid.flatten(), centre.flatten()]).nonzero()[:, 0]
        near = torch.zeros(self.size, dtype=torch.bool, device=self.device)
        near[self.dilate(outside)] = True
        return ~near[points]


def _dilate(mask: Tensor) -> Tensor:
    """A mask (X, Y, Z) dilated by one step along each axis."""
    out = mask.clone()
    for axis in range(3):
        length = mask.shape[axis] - 1
        out.narrow(axis, 1, length).logical_or_(mask.narrow(axis, 0, length))
        out.narrow(axis, 0, length).logical_or_(mask.narrow(axis, 1, length))
    return out
