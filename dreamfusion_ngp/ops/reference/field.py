"""The field; the density's gradient by autograd."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..hashgrid import GridLayout
from ..rows import zero_rows
from .hashgrid import corners_of


def blob_density(x: Tensor, blob: tuple[str, float, float]) -> tuple[Tensor, Tensor]:
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
    x: Tensor,
    table: Tensor,
    W1: Tensor,
    b1: Tensor,
    W2: Tensor,
    b2: Tensor,
    layout: GridLayout,
    *,
    bound: float,
    level_weight: Sequence[float] | Tensor,
    blob: tuple[str, float, float] = ("none", 0.0, 1.0),
    count: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `dreamfusion_ngp.ops.field.field`. grad_h is written out, so it is differentiable like the rest."""
    x = zero_rows(x.detach(), count)
    u = (x + bound) / (2 * bound)
    encoding, jacobian = [], []
    for level, weight in enumerate(level_weight):
        corners = list(corners_of(u, layout, level))
        encoding.append(weight * sum(w[:, None] * table[row] for row, w, _ in corners))
        jacobian.append(weight * sum(table[row][:, :, None] * dw[:, None, :] for row, _, dw in corners))
    e, J = torch.cat(encoding, 1), torch.cat(jacobian, 1) / (2 * bound)
    z = e @ W1.T + b1
    o = torch.relu(z) @ W2.T + b2
    q = ((z > 0) * W2[0]) @ W1
    bump, bump_grad = blob_density(x, blob)
    h, grad_h = o[:, 0] + bump, (J * q[:, :, None]).sum(1) + bump_grad
    return zero_rows(h, count), zero_rows(o[:, 1:], count), zero_rows(grad_h, count)


def field_density(*args, **kwargs) -> Tensor:
    """See `dreamfusion_ngp.ops.field.field_density`."""
    return field(*args, **kwargs)[0].detach()
