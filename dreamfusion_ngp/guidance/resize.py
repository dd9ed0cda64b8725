"""Resizing as two matrix products."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from torch import Tensor

from ..base.slots import sent


def resize(x: Tensor, size: int) -> Tensor:
    """(B, C, H, H) -> (B, C, size, size): bilinear (pixel centres, edges held) when enlarging, area average when
    shrinking. Two matrix products, so that the backward is deterministic on every device."""
    if x.shape[-1] == size:
        return x
    matrix = sent(resize_matrix(x.shape[-1], size), x.device, x.dtype)
    return matrix @ x @ matrix.T


@lru_cache
def resize_matrix(n: int, m: int) -> np.ndarray:
    """(m, n) float64 weights of one axis; rows sum to 1."""
    matrix = np.zeros((m, n))
    if m > n:
        centre = np.clip((np.arange(m) + 0.5) * n / m - 0.5, 0, n - 1)
        low = np.minimum(centre.astype(int), max(n - 2, 0))
        matrix[np.arange(m), low] += 1 - (centre - low)
        matrix[np.arange(m), np.minimum(low + 1, n - 1)] += centre - low
        return matrix
    edge = np.arange(m + 1)[:, None] * n / m
    covered = np.clip(np.minimum(edge[1:], np.arange(n) + 1) - np.maximum(edge[:-1], np.arange(n)), 0, 1)
    return covered * m / n
