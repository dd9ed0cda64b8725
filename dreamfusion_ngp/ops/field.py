"""The field: hash grid, a hidden ReLU layer, density and raw colour; the density's gradient is an output.

Because grad_h is an output, shading by normals trains through an ordinary first backward. The formulas:
csrc/field/field.h.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from .call import cleared, launch
from .checks import check_count, check_positive, check_scalar_type, check_tensor, device_numbers
from .hashgrid import Grid, GridLayout, check_table, native_layout
from .register import Op, tensors

MAX_HIDDEN = 128
BLOBS = ("none", "gaussian", "cone")  # the index is the kernel's code
Blob = tuple[str, float, float]  # kind, strength (of pre-activation density), radius (world units)


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
    blob: Blob = ("none", 0.0, 1.0),
    count: Tensor | None = None,
    shadow: Tensor | None = None,
    tensor_cores: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Pre-activation density, raw colour and density gradient of points.

    e = encoding((x + bound) / (2 bound)) * level_weight;  o = W2 relu(W1 e + b1) + b2;  h = o[0] + blob(x);
    rgb_raw = o[1:4];  grad_h = dh/dx per world unit, blob included.

    x             (N, 3) world coordinates; float32, or float64 on the CPU, like all tensors here. Outside
                  [-bound, bound] the lookup clamps and the encoding's derivative of that axis is zero.
    table         (layout.entries, layout.features)
    W1, b1        (hidden, levels * features), (hidden,); hidden at most 128
    W2, b2        (4, hidden), (4,)
    bound         half edge of the scene cube, world units
    level_weight  one factor per level, coarse to fine; a level of weight 0 is not read and gets no gradient. A tensor
                  (levels,) is read when the kernels run, forward and backward, and gets no gradient itself
    blob          (kind, strength, radius) of a bump at the origin: "gaussian" is strength exp(-|x|^2 / (2 radius^2))
                  (DreamFusion, appendix A.2), "cone" is strength (1 - |x| / radius) (Magic3D), its tip rounded off,
                  "none" is 0
    count         (1,) int64, the number of valid leading rows; the rest are zero and get no gradient
    shadow        float16, the table's shape, contiguous: read in its place, forward and backward, with all sums in
                  the table's type. The gradient is still the table's. CUDA kernels read it directly for 16 or 8 levels
                  of 2 features; else it is converted first
    tensor_cores  products with W1, forward and backward, on tensor cores: every factor as two bfloat16 (16 bits of
                  mantissa, results within 1e-4 of the largest), sums in float32. Where there are such kernels: CUDA
                  from sm_80, 16 or 8 levels of 2 features; elsewhere it changes nothing

    Returns h (N,), rgb_raw (N, 3), grad_h (N, 3). Differentiable once in table, W1, b1, W2 and b2, through all three
    outputs; x gets no gradient. A second differentiation raises RuntimeError. Raises TypeError or ValueError that
    names a bad argument.
    """
    named = (layout, bound, level_weight, blob, count, shadow, tensor_cores)
    weights, *settings = _check("field", x, table, W1, b1, W2, b2, *named)
    return _field(x.detach(), table, W1, b1, W2, b2, weights, *settings)


def field_density(
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
    blob: Blob = ("none", 0.0, 1.0),
    count: Tensor | None = None,
    shadow: Tensor | None = None,
    tensor_cores: bool = False,
) -> Tensor:
    """h (N,) of `field`, alone and without gradient: for occupancy grids and meshes. Same arguments, same errors."""
    named = (layout, bound, level_weight, blob, count, shadow, tensor_cores)
    weights, *settings = _check("field_density", x, table, W1, b1, W2, b2, *named)
    return _field_density(*[t.detach() for t in (x, table, W1, b1, W2, b2)], weights, *settings)


def _check(op, x, table, W1, b1, W2, b2, layout, bound, level_weight, blob, count, shadow, tensor_cores):
    """Check everything; return the level weights, the layout's fields and the settings, as the registered ops take
    them."""
    dtype = check_scalar_type(op, "x", x)
    check_tensor(op, "x", x, (None, 3), dtype=dtype, text="(N, 3)")
    check_table(op, table, layout, x)
    shape = f"(hidden, levels * features) = (hidden, {layout.width})"
    check_tensor(op, "W1", W1, (None, layout.width), dtype=dtype, like=x, text=shape)
    hidden = W1.shape[0]
    if not 1 <= hidden <= MAX_HIDDEN:
        raise ValueError(f"{op}: W1 must have from 1 to {MAX_HIDDEN} rows (hidden units), got {hidden}")
    check_tensor(op, "b1", b1, (hidden,), dtype=dtype, like=x, text=f"(hidden,) = ({hidden},)")
    check_tensor(op, "W2", W2, (4, hidden), dtype=dtype, like=x, text=f"(4, hidden) = (4, {hidden})")
    check_tensor(op, "b2", b2, (4,), dtype=dtype, like=x)
    check_positive(op, bound=bound)
    if not isinstance(level_weight, Tensor):
        level_weight = [float(w) for w in level_weight]
        if len(level_weight) != layout.levels or not all(map(math.isfinite, level_weight)):
            raise ValueError(
                f"{op}: level_weight must be {layout.levels} finite numbers, one per level, got {level_weight}"
            )
    weights = device_numbers(op, "level_weight", level_weight, layout.levels, dtype=dtype, like=x)
    check_count(op, count, x)
    if shadow is not None:
        check_tensor(op, "shadow", shadow, tuple(table.shape), dtype=torch.float16, like=x)
        if not shadow.is_contiguous():
            raise ValueError(f"{op}: shadow must be contiguous")
    settings = Settings(float(bound), *_check_blob(op, blob), bool(tensor_cores), shadow, count)
    return weights, layout.arguments, settings


def _check_blob(op: str, blob: Blob) -> tuple[int, float, float]:
    try:
        kind, strength, radius = blob
    except (TypeError, ValueError):
        raise ValueError(f"{op}: blob must be (kind, strength, radius), got {blob!r}") from None
    if kind not in BLOBS:
        raise ValueError(f"{op}: blob kind must be one of {BLOBS}, got {kind!r}")
    if kind == "none":
        return 0, 0.0, 1.0
    if not math.isfinite(strength):
        raise ValueError(f"{op}: blob strength must be finite, got {strength}")
    check_positive(op, **{"blob radius": radius})
    return BLOBS.index(kind), float(strength), float(radius)


_recycled = WeakTensorKeyDictionary()  # parameter -> its last gradient buffer, all zero


def recycle_gradient(parameter: Tensor) -> None:
    """Take away `parameter.grad`, which must be zero, as adam_step leaves it, for reuse: the next backward of `field`
    with `parameter` as the table accumulates into it.

    A gradient that stays in place costs a pass that adds the backward's result to it; one that is freed must be
    allocated and cleared again. For a large table either costs more than adam_step.
    """
    _recycled[parameter] = parameter.grad
    parameter.grad = None


def _zero_gradient(table: Tensor) -> Tensor:
    spare = _recycled.pop(table, None)
    if spare is None or (spare.shape, spare.dtype, spare.device) != (table.shape, table.dtype, table.device):
        return cleared(table.shape, table)
    return spare


class Settings(NamedTuple):
    bound: float
    blob: int
    strength: float
    radius: float
    tensor_cores: bool
    shadow: Tensor | None
    count: Tensor | None


class Network(NamedTuple):
    table: Tensor
    W1: Tensor
    b1: Tensor
    W2: Tensor
    b2: Tensor
    level_weight: Tensor


Points = tensors("x")
Cotangents = tensors("d_h d_rgb_raw d_grad_h")
_field = Op("field", Points, Network, Grid, Settings, returns="h rgb_raw grad_h")
_field_density = Op("field_density", Points, Network, Grid, Settings, returns="h")
_field_backward = Op("field_backward", Cotangents, Points, Network, Grid, Settings, returns="grad_table grad_weights")


def _has_kernels(table: Tensor, grid: Grid) -> bool:
    """Whether kernels read a float16 table of this layout."""
    return table.is_cuda and grid.features == 2 and grid.levels in (8, 16)


def _launch(kernel: str, x: Tensor, network: Network, grid: Grid, settings: Settings, **tensors: Tensor | None) -> None:
    """Launch a kernel of the field. If none can read the shadow, it gets a table converted from it."""
    shadow = settings.shadow
    if shadow is not None and not _has_kernels(network.table, grid):
        network, shadow = network._replace(table=shadow.to(network.table.dtype)), None
    launch(
        kernel,
        x,
        grid=native_layout(grid),
        **network._asdict(),
        hidden=network.W1.shape[0],
        bound=settings.bound,
        blob_kind=settings.blob,
        blob_strength=settings.strength,
        blob_radius=settings.radius,
        tensor_cores=settings.tensor_cores,
        shadow=shadow,
        x=x,
        n=x.shape[0],
        count=settings.count,
        **tensors,
    )


@_field.shapes
def _outputs(points, *others):
    return points.x.new_empty(points.x.shape[0]), torch.empty_like(points.x), torch.empty_like(points.x)


@_field.kernel
def _forward(points, network, grid, settings):
    h, rgb_raw, grad_h = _outputs(points)
    _launch("field_forward", points.x, network, grid, settings, h=h, rgb_raw=rgb_raw, grad_h=grad_h)
    return h, rgb_raw, grad_h


@_field_density.shapes
def _density(points, *others):
    return points.x.new_empty(points.x.shape[0])


@_field_density.kernel
def _forward_density(points, network, grid, settings):
    h = _density(points)
    _launch("field_forward", points.x, network, grid, settings, h=h, rgb_raw=None, grad_h=None)
    return h


def _mlp_weights(network: Network) -> list[Tensor]:
    """The parameters whose gradients lie in one vector, one after the other."""
    return [network.W1, network.b1, network.W2, network.b2]


@_field_backward.shapes
def _gradients(cotangents, points, network, *others):
    """Gradients of the table, and of W1, b1, W2, b2 in one vector."""
    size = sum(weight.numel() for weight in _mlp_weights(network))
    return torch.empty_like(network.table), points.x.new_empty(size)


@_field_backward.kernel
def _backward(cotangents, points, network, grid, settings):
    size = sum(weight.numel() for weight in _mlp_weights(network))
    grad_table, grad_weights = _zero_gradient(network.table), points.x.new_zeros(size)
    gradients = dict(grad_table=grad_table, grad_weights=grad_weights)
    _launch("field_backward", points.x, network, grid, settings, **cotangents._asdict(), **gradients)
    return grad_table, grad_weights


@_field.backward
def _differentiate(saved, d_h, d_rgb_raw, d_grad_h):
    _, network, *_ = saved.inputs
    grad_table, grad_weights = _field_backward(d_h, d_rgb_raw, d_grad_h, *saved.inputs)
    weights = _mlp_weights(network)
    pieces = grad_weights.split([part.numel() for part in weights])
    W1, b1, W2, b2 = (piece.view(part.shape) for piece, part in zip(pieces, weights, strict=True))
    return {"table": grad_table, "W1": W1, "b1": b1, "W2": W2, "b2": b2}


_field_backward.final(
    "field: differentiated twice; its backward is final "
    "(grad_h is an output, so shading needs no second differentiation)"
)
