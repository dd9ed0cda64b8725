"""Compositing."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ..composite import Composited


def composite(
    sigma: Tensor,
    rgb: Tensor,
    normal: Tensor,
    t: Tensor,
    offsets: Tensor,
    rays_d: Tensor,
    step: float,
    count: Tensor | None = None,
) -> Composited:
    """Ray by ray, the weights spelled out."""
    last = sigma.shape[0] if count is None else min(int(count), sigma.shape[0])
    rays = []
    for r, (begin, end) in enumerate(pairwise(offsets.tolist())):
        rows = slice(begin, min(end, last))
        clear = torch.exp(-sigma[rows] * step)
        after = clear.cumprod(0)
        before = torch.cat([after.new_ones(1), after])[: len(after)]
        w = torch.where(before.detach() >= 1e-4, before * (1 - clear), 0.0)
        away = (normal[rows] * rays_d[r]).sum(1).relu().square()
        sums = (w[:, None] * rgb[rows]).sum(0), w.sum(), (w * t[rows]).sum(), (w[:, None] * normal[rows]).sum(0)
        rays.append((*sums, (w.detach() * away).sum()))
    if not rays:
        return Composited(rgb[:0], sigma[:0], sigma[:0], normal[:0], sigma[:0])
    return Composited(*(torch.stack(column) for column in zip(*rays, strict=True)))
