"""Rows in use: `count` for functions written in torch."""

from __future__ import annotations

import torch
from torch import Tensor


def zero_rows(rows: Tensor, count: Tensor | None) -> Tensor:
    """`rows` with zeros from row `count` on."""
    if count is None:
        return rows
    live = torch.arange(rows.shape[0], device=rows.device) < count
    return torch.where(live.view(-1, *[1] * (rows.dim() - 1)), rows, torch.zeros_like(rows))
