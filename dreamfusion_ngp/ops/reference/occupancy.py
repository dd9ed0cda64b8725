"""The occupancy grid."""

from __future__ import annotations

import torch
from torch import Tensor

from .random import kernel_uniform


def pack_bits(occupied: Tensor) -> Tensor:
    """Inverse of `unpack_bits`."""
    return (occupied.view(-1, 8) * 2 ** torch.arange(8, device=occupied.device)).sum(1).to(torch.uint8)


def occupancy_update(
    grid: Tensor, bitfield: Tensor, cells: Tensor, sigma: Tensor, *, decay: float, threshold: float
) -> None:
    """Scatter-max, mean in float64, threshold, floor."""
    grid.mul_(decay)
    grid[~(grid.isfinite() & (grid > 0))] = 0
    inside = (cells >= 0) & (cells < grid.shape[0])
    cells, sigma = cells[inside], sigma[inside]
    finite = sigma.isfinite()
    grid.scatter_reduce_(0, cells[finite], sigma[finite], "amax")
    occupied = grid.double() > min(float(grid.double().mean()), float(grid.new_tensor(threshold)))
    occupied[cells[~finite]] = True
    if int(occupied.sum()) * 4096 < grid.shape[0]:
        occupied[:] = True
    bitfield.copy_(pack_bits(occupied))


def cell_points(cells: Tensor, resolution: int, bound: float, seed: int, stream: int) -> Tensor:
    corner = torch.stack([cells // resolution**2, cells // resolution % resolution, cells % resolution], 1).float()
    size = torch.tensor(2 * bound, dtype=torch.float32) / resolution
    return size * (corner + kernel_uniform(len(cells), seed, stream, torch.float32, 3).to(cells.device)) - bound
