"""Counter-based random numbers on the host: each is a pure function of (seed, step, stream) and its place in the array.

The generator is Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") as numpy has it.
Nothing here has a state, so a resumed run draws what the uninterrupted run would have drawn, and every device is given
the same numbers. Kernels that draw for themselves (jitter of rays and of cells) use Philox4x32-10 with `kernel_stream`.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from math import prod

import numpy as np

SEED_LIMIT = 1 << 63
STEP_LIMIT = 1 << 48
STREAM_BITS = 4


class Stream(IntEnum):
    """What a number is drawn for. Ids are part of the meaning of a seed: they may be added, never changed."""

    VIEWS = 0  # cameras, lights, shading modes
    BACKGROUND = 1
    GUIDANCE = 2  # times and noise of the diffusion model
    MARCH = 3  # jitter of the samples along rays
    OCCUPANCY = 4  # jitter of the points in cells
    INIT = 5  # initial parameters
    PRIOR = 6  # training of an embedded prior
    EVALUATION = 7
    RULE = 8  # what a distillation rule draws beyond times and noise
    RULE_NOISE = 9
    SHARED_NOISE = 10
    PAINT = 11  # noise of a picture of several sides, and the points whose colours are compared with it
    EIKONAL = 12  # points of the scene where the eikonal loss is taken
    TEST = 15


def _check(**values: tuple[int, int]) -> None:
    for name, (value, limit) in values.items():
        if not 0 <= value < limit:
            raise ValueError(f"rng: {name} must be in [0, {limit}), got {value}")


def _bits(seed: int, step: int, stream: int) -> np.random.Philox:
    _check(seed=(seed, SEED_LIMIT), step=(step, STEP_LIMIT), stream=(stream, 1 << STREAM_BITS))
    return np.random.Philox(key=np.array([seed, stream], np.uint64), counter=np.array([0, 0, 0, step], np.uint64))


def generator(seed: int, step: int, stream: int) -> np.random.Generator:
    """A numpy Generator for code that draws many kinds of numbers in a fixed order."""
    return np.random.Generator(_bits(seed, step, stream))


def later_seed(seed: int, count: int) -> int:
    """The seed `count` after `seed`; after the largest comes 0."""
    return (seed + count) % SEED_LIMIT


def kernel_stream(step: int, stream: int) -> int:
    """The `stream` argument of an op that draws in its kernel: one number for (step, stream)."""
    _check(step=(step, STEP_LIMIT), stream=(stream, 1 << STREAM_BITS))
    return (step << STREAM_BITS) | int(stream)


def uniform(shape: int | Sequence[int], seed: int, step: int, stream: int, *, dtype: type = np.float32) -> np.ndarray:
    """`shape` array in [0, 1): float32 with 24 random bits, or float64 with 53, whose first 24 are the same."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    bits = {np.dtype(np.float32): 24, np.dtype(np.float64): 53}.get(np.dtype(dtype))
    if bits is None:
        raise TypeError(f"rng: dtype must be float32 or float64, got {np.dtype(dtype)}")
    raw = _bits(seed, step, stream).random_raw(prod(shape))
    return (np.asarray(raw, np.uint64) >> np.uint64(64 - bits)).astype(dtype).reshape(shape) * dtype(0.5**bits)


def normal(shape: int | Sequence[int], seed: int, step: int, stream: int, *, dtype: type = np.float32) -> np.ndarray:
    """`shape` array of standard normal numbers (Box & Muller 1958), computed in float64 and rounded to `dtype`."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    u = uniform((prod(shape), 2), seed, step, stream, dtype=np.float64)
    radius = np.sqrt(-2.0 * np.log1p(-u[:, 0]))
    return (radius * np.cos(2.0 * np.pi * u[:, 1])).reshape(shape).astype(dtype)


def integers(shape: int | Sequence[int], high: int, seed: int, step: int, stream: int) -> np.ndarray:
    """`shape` int64 array, uniform in [0, high); `high` at most 2^53."""
    if not 0 < high <= 1 << 53:
        raise ValueError(f"rng: high must be in [1, 2^53], got {high}")
    return np.minimum((uniform(shape, seed, step, stream, dtype=np.float64) * high).astype(np.int64), high - 1)
