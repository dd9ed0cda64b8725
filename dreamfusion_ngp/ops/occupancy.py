"""The occupancy grid: which cells of the scene's cube hold density, learnt from the field as it changes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .call import backend, launch
from .checks import check_positive, check_tensor
from .march import check_resolution
from .register import Op


def occupancy_update(
    grid: Tensor, bitfield: Tensor, cells: Tensor, sigma: Tensor, *, decay: float, threshold: float
) -> None:
    """Decay the grid, raise the listed cells to their new values, write the bits. Changes `grid` and `bitfield`.

    Every value is multiplied by `decay`; then grid[cells] = max(grid[cells], sigma), in any order, so cells may be
    listed many times. A cell is occupied if its value is above min(threshold, mean of the grid). If fewer than 1/4096
    of the cells would be occupied, all are: a field that is empty for a while can still recover.

    A sigma that is NaN or infinite never enters the grid: its cell keeps its value and is occupied until the next
    update. Values of the grid that are not finite, or negative, are replaced by 0. Cells outside the grid are ignored.

    Args:
        grid: (resolution^3,) float32, contiguous; in the units of sigma and threshold.
        bitfield: (resolution^3 / 8,) uint8, contiguous; layout as in `march`.
        cells: (M,) int64.   sigma: (M,) float32.
        decay: in [0, 1].   threshold: at least 0.

    Source: Müller et al. 2022 (instant-NGP), appendix E.2; the treatment of non-finite values and the floor are ours.
    """
    op = "occupancy_update"
    check_tensor(op, "grid", grid, (None,), dtype=torch.float32, text="(resolution^3,)")
    check_resolution(op, round(grid.shape[0] ** (1 / 3)))
    if grid.shape[0] != round(grid.shape[0] ** (1 / 3)) ** 3:
        raise ValueError(f"{op}: grid must be (resolution^3,), got {tuple(grid.shape)}")
    check_tensor(op, "bitfield", bitfield, (grid.shape[0] // 8,), dtype=torch.uint8, like=grid)
    check_tensor(op, "cells", cells, (None,), dtype=torch.int64, like=grid, text="(M,)")
    check_tensor(op, "sigma", sigma, tuple(cells.shape), dtype=torch.float32, like=grid)
    for name, tensor in (("grid", grid), ("bitfield", bitfield)):
        if not tensor.is_contiguous():
            raise ValueError(f"{op}: {name} is changed in place and must be contiguous")
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"{op}: decay must be in [0, 1], got {decay}")
    if not 0.0 <= threshold < float("inf"):
        raise ValueError(f"{op}: threshold must be a finite number, at least 0, got {threshold}")
    _occupancy_update(grid, bitfield, cells, sigma.detach(), decay, threshold)


def cell_points(cells: Tensor, resolution: int, bound: float, seed: int, stream: int) -> Tensor:
    """(M, 3) float32 world positions, one in each of the listed cells (M,) int64 of the grid over [-bound, bound]^3.

    The position is uniform in the cell, drawn for (seed, stream, row), the same on every device. For seed < 0 it is the
    cell's centre.
    """
    check_tensor("cell_points", "cells", cells, (None,), dtype=torch.int64, text="(M,)")
    check_resolution("cell_points", resolution)
    check_positive("cell_points", bound=bound)
    return _cell_points(cells, resolution, bound, seed, stream)


class Update(NamedTuple):
    grid: Tensor
    bitfield: Tensor
    cells: Tensor
    sigma: Tensor
    decay: float
    threshold: float


class Points(NamedTuple):
    cells: Tensor
    resolution: int
    bound: float
    seed: int
    stream: int


_occupancy_update = Op("occupancy_update", Update, returns="", changes="grid bitfield")
_cell_points = Op("cell_points", Points, returns="x")


@_occupancy_update.shapes
def _no_outputs(update):
    return None


@_occupancy_update.kernel
def _update(update):
    grid, bitfield, cells, sigma, decay, threshold = update
    launch(
        "occupancy_update",
        grid,
        grid=grid,
        bitfield=bitfield,
        index=cells,
        sigma=sigma,
        sums=grid.new_empty(backend(grid).occupancy_scratch, dtype=torch.float64),
        occupied=grid.new_zeros(1, dtype=torch.int64),
        cells=grid.shape[0],
        listed=cells.shape[0],
        decay=decay,
        threshold=threshold,
    )


@_cell_points.shapes
def _positions(points):
    return points.cells.new_empty(points.cells.shape[0], 3, dtype=torch.float32)


@_cell_points.kernel
def _points(points):
    cells, resolution, bound, seed, stream = points
    x, drawn = _positions(points), dict(seed=max(0, seed), stream=stream, jittered=seed >= 0)
    launch("cell_points", cells, index=cells, x=x, n=cells.shape[0], resolution=resolution, bound=bound, **drawn)
    return x
