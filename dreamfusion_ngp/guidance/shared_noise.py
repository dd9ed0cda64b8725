"""Noise that turns with the object, instead of new noise for every view (Yan et al., "Flow Score Distillation", arXiv
2405.10988: a world map of noise; Consistent Flow Distillation, ICLR 2025: a map that is renewed slowly).

One map of Gaussian noise lies around the object; each view gets the window for its direction, in whole pixels, so that
its noise stays white. Over `refresh` batches of views the map turns into a new one, and so on: in between it is the
mixture cos(phi) a + sin(phi) b of both, which is standard normal, too.
"""

from __future__ import annotations

import math

import numpy as np

from ..base.rng import Stream, normal
from ..scene.cameras import Cameras

RADIUS = 0.4  # of the object, in picture widths: how fast its near side moves across the picture as it turns


def window(cameras: Cameras, side: int) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """First row and first column (B,) of every view's window of `side` pixels, and the map's size."""
    around, over = round(2 * math.pi * RADIUS * side), round(math.pi * RADIUS * side)
    azimuth, elevation = (angle.double().cpu().numpy() for angle in (cameras.azimuth, cameras.elevation))
    row = np.rint((0.5 - elevation / math.pi).clip(0, 1) * over).astype(int)
    column = np.rint(azimuth / (2 * math.pi) * around).astype(int) % around
    return row, column, (side + over, around)


def noise_map(channels: int, size: tuple[int, int], seed: int, part: int, refresh: int) -> np.ndarray:
    """(channels, *size) float32 standard normal numbers: the map at batch `part` of a run."""
    number, phi = part // refresh, math.pi / 2 * (part % refresh) / refresh
    a, b = (normal((channels, *size), seed, number + i, Stream.SHARED_NOISE) for i in (0, 1))
    return (math.cos(phi) * a + math.sin(phi) * b).astype(np.float32)


def shared_noise(shape: tuple[int, int, int], cameras: Cameras, *, seed: int, part: int, refresh: int) -> np.ndarray:
    """(B, *shape) float32 noise for the views of B cameras, shape (C, h, h), at batch `part` of a run. refresh: batches
    until the map is replaced."""
    channels, side, _ = shape
    rows, columns, size = window(cameras, side)
    whole = noise_map(channels, size, seed, part, refresh)
    steps = np.arange(side)
    return np.stack([whole[:, y + steps[:, None], (x + steps) % size[1]] for y, x in zip(rows, columns, strict=True)])
