"""The hash grid, corner by corner."""

from __future__ import annotations

import torch
from torch import Tensor

from ..hashgrid import GridLayout
from ..rows import zero_rows


def corners_of(u: Tensor, layout: GridLayout, level: int):
    """For each of the 8 corners of the points' cells: table row (N,), weight (N,), the weight's gradient (N, 3)."""
    scale, resolution = layout.scale[level], layout.resolution[level]
    first, rows = layout.offset[level], layout.offset[level + 1] - layout.offset[level]
    position = u.clamp(0, 1) * scale + 0.5
    cell = position.detach().floor()
    f = position - cell
    weight = f * f * (3 - 2 * f) if layout.smoothstep else f
    slope = scale * (6 * f * (1 - f) if layout.smoothstep else torch.ones_like(f)) * ((u >= 0) & (u <= 1))
    for corner in range(8):
        bit = torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2], device=u.device)
        i, j, k = (cell.long() + bit).unbind(1)
        if resolution**3 <= rows:
            row = (i + j * resolution + k * resolution**2) % rows
        else:
            row = (i ^ (j * 2654435761) ^ (k * 805459861)) % rows
        factor = torch.where(bit.bool(), weight, 1 - weight)
        x, y, z = factor.unbind(1)
        sign = torch.where(bit.bool(), 1.0, -1.0).to(u.dtype)
        yield first + row, x * y * z, sign * slope * torch.stack([y * z, x * z, x * y], 1)


def hashgrid_encode(x: Tensor, table: Tensor, layout: GridLayout, count: Tensor | None = None) -> Tensor:
    """See `dreamfusion_ngp.ops.hashgrid.hashgrid_encode`."""
    u = zero_rows(x, count)
    corners = [corners_of(u, layout, level) for level in range(layout.levels)]
    levels = []
    for corners_of_level in corners:
        first, *others = (w[:, None] * table[row] for row, w, _ in corners_of_level)
        levels.append(sum(others, first))
    return zero_rows(torch.cat(levels, 1), count)
