"""The slow, obvious torch twin of every op: the specification, and the oracle of the tests.

Same arguments and results as the public functions, any float dtype, any device; gradients by torch's autograd. No checks.
"""

from __future__ import annotations

from typing import Sequence

import torch
from torch import Tensor

from ._common import zero_rows
from .hashgrid import GridLayout

# hashgrid.py ----------------------------------------------------------------------------------------------------------


def _corners(u: Tensor, layout: GridLayout, level: int):
    """For each of the 8 corners of the points' cells: table row (N,), weight (N,), derivative of the weight by u (N, 3)."""
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
    levels = [sum(w[:, None] * table[row] for row, w, _ in _corners(u, layout, level)) for level in range(layout.levels)]
    return zero_rows(torch.cat(levels, 1), count)


# field.py -------------------------------------------------------------------------------------------------------------


def _blob(x: Tensor, blob: tuple[str, float, float]) -> tuple[Tensor, Tensor]:
    kind, strength, radius = blob
    squared = (x * x).sum(1)
    if kind == "gaussian":
        value = strength * torch.exp(-squared / (2 * radius**2))
        return value, -value[:, None] * x / radius**2
    if kind == "cone":
        distance = torch.sqrt(squared + 1e-8)
        return strength * (1 - distance / radius), -strength * x / (radius * distance[:, None])
    return torch.zeros_like(squared), torch.zeros_like(x)


def field(
    x: Tensor, table: Tensor, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor, layout: GridLayout, *, bound: float,
    level_weight: Sequence[float], blob: tuple[str, float, float] = ("none", 0.0, 1.0), count: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `dreamfusion_ngp.ops.field.field`. grad_h is written out, so it is differentiable like the rest."""
    x = zero_rows(x.detach(), count)
    u = (x + bound) / (2 * bound)
    encoding, jacobian = [], []
    for level, weight in enumerate(level_weight):
        corners = list(_corners(u, layout, level))
        encoding.append(weight * sum(w[:, None] * table[row] for row, w, _ in corners))
        jacobian.append(weight * sum(table[row][:, :, None] * dw[:, None, :] for row, _, dw in corners))
    e, J = torch.cat(encoding, 1), torch.cat(jacobian, 1) / (2 * bound)
    z = e @ W1.T + b1
    o = torch.relu(z) @ W2.T + b2
    q = ((z > 0) * W2[0]) @ W1
    bump, bump_grad = _blob(x, blob)
    h, grad_h = o[:, 0] + bump, (J * q[:, :, None]).sum(1) + bump_grad
    return zero_rows(h, count), zero_rows(o[:, 1:], count), zero_rows(grad_h, count)


def field_density(*args, **kwargs) -> Tensor:
    """See `dreamfusion_ngp.ops.field.field_density`."""
    return field(*args, **kwargs)[0].detach()
