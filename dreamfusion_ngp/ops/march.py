"""March: samples along rays in occupied cells, packed ray by ray into a buffer of fixed size."""

from __future__ import annotations

from math import ceil, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from .call import launch
from .checks import check_positive, check_scalar_type, check_tensor, device_numbers
from .register import Op

BLOCK_EDGE = 4  # cells; the march skips empty blocks of BLOCK_EDGE^3
LARGEST_RESOLUTION = 1024
LONGEST_LATTICE = 1 << 20  # steps
LARGEST_BUDGET = (1 << 31) - 1  # of rows, and of rays: both have int32 indices


class Samples(NamedTuple):
    """Packed samples: rows offsets[r] to offsets[r + 1] - 1 are ray r's, nearest first; from info[0] on all is zero."""

    t: Tensor  # (budget,) distance along the ray, of the middle of an interval of length `step`
    ray_id: Tensor  # (budget,) int32
    x: Tensor  # (budget, 3) world position
    offsets: Tensor  # (R + 1,) int32
    info: Tensor  # (2,) int64: rows in use, samples dropped for want of budget

    @property
    def count(self) -> Tensor:
        """(1,) int64: rows in use, as the ops downstream take it."""
        return self.info[:1]


def march(
    rays_o: Tensor,
    rays_d: Tensor,
    bitfield: Tensor,
    *,
    resolution: int,
    bound: float,
    near: float,
    step: float,
    budget: int,
    seed: int,
    stream: int | Tensor,
) -> Samples:
    """Sample rays at a constant step wherever the occupancy grid has a bit set. Not differentiable.

    Args:
        rays_o, rays_d: (R, 3) float32, or float64 on the CPU: origins and unit directions, world units. A ray with a
            number that is not finite, or without a direction, gets no samples.
        bitfield: (resolution^3 / 8,) uint8: bit i & 7 of byte i >> 3 is cell i = (ix * resolution + iy) * resolution
            + iz.
        resolution: cells per axis of the cube [-bound, bound]^3, a multiple of 4.
        near, step: world units. Samples are at t_near + (k + jitter) * step, k = 0, 1, ..., inside the cube, where
            t_near is the entry into the cube, or `near` if that is farther.
        budget: rows of the result. If the samples do not fit, every ray keeps its nearest `cap` ones, with the
            largest cap for which all fit, and info[1] counts what was dropped.
        seed, stream: of the jitter in [0, 1), the same on every device; one per ray. seed < 0: jitter is 0.5. stream
            may be a tensor, (1,) int64 beside the rays, which is read when the kernel runs.

    Returns `Samples`. Raises TypeError or ValueError that names the argument.
    Source: Müller et al. 2022 (instant-NGP), appendix E.1; packing by scan, so the order is fixed.
    """
    dtype = check_scalar_type("march", "rays_o", rays_o)
    check_tensor("march", "rays_o", rays_o, (None, 3), dtype=dtype, text="(R, 3)")
    if rays_o.shape[0] > LARGEST_BUDGET:
        raise ValueError(f"march: at most {LARGEST_BUDGET} rays, got {rays_o.shape[0]}")
    check_tensor("march", "rays_d", rays_d, tuple(rays_o.shape), dtype=dtype, like=rays_o)
    check_resolution("march", resolution)
    check_tensor("march", "bitfield", bitfield, (resolution**3 // 8,), dtype=torch.uint8, like=rays_o)
    check_positive("march", bound=bound, step=step)
    if not 0.0 <= near < float("inf"):
        raise ValueError(f"march: near must be a finite number, at least 0, got {near}")
    if lattice_length(bound, step) > LONGEST_LATTICE:
        raise ValueError(f"march: step is too small for bound {bound}, got {step}")
    if not 1 <= budget <= LARGEST_BUDGET:
        raise ValueError(f"march: budget must be in [1, {LARGEST_BUDGET}], got {budget}")
    stream = device_numbers("march", "stream", stream, 1, dtype=torch.int64, like=rays_o)
    return Samples(
        *_march(rays_o.detach(), rays_d.detach(), bitfield, resolution, bound, near, step, budget, seed, stream)
    )


def check_resolution(op: str, resolution: int) -> None:
    """Raise ValueError unless `resolution` is a multiple of 4 that the kernels can take."""
    if not 0 < resolution <= LARGEST_RESOLUTION or resolution % BLOCK_EDGE:
        expected = f"a multiple of {BLOCK_EDGE}, at most {LARGEST_RESOLUTION}"
        raise ValueError(f"{op}: resolution must be {expected}, got {resolution}")


def lattice_length(bound: float, step: float) -> int:
    """The most samples that a ray can have: those along the cube's diagonal."""
    return ceil(min(2.0 * sqrt(3.0) * bound / step, 2.0 * LONGEST_LATTICE)) + 1


class Inputs(NamedTuple):
    rays_o: Tensor
    rays_d: Tensor
    bitfield: Tensor
    resolution: int
    bound: float
    near: float
    step: float
    budget: int
    seed: int
    stream: Tensor


_march = Op("march", Inputs, returns="t ray_id x offsets info")


@_march.shapes
def _outputs(inputs):
    empty, rays = inputs.rays_o.new_empty, inputs.rays_o.shape[0]
    return (
        empty(inputs.budget),
        empty(inputs.budget, dtype=torch.int32),
        empty(inputs.budget, 3),
        empty(rays + 1, dtype=torch.int32),
        empty(2, dtype=torch.int64),
    )


@_march.kernel
def _forward(inputs):
    outputs = Samples(*_outputs(inputs))
    rays, empty = inputs.rays_o.shape[0], inputs.rays_o.new_empty
    arguments = inputs._asdict() | outputs._asdict()
    arguments |= dict(seed=max(0, inputs.seed), jittered=inputs.seed >= 0, rays=rays)
    launch(
        "march",
        inputs.rays_o,
        **arguments,
        max_steps=lattice_length(inputs.bound, inputs.step),
        blocks=empty(2, (inputs.resolution // BLOCK_EDGE) ** 3, dtype=torch.uint8),
        counts=empty(rays, dtype=torch.int32),
    )
    return tuple(outputs)
