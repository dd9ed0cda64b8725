"""The field: hash grid, a hidden ReLU layer, density and raw colour; the density's gradient is an output.

Because grad_h is an output, shading by normals trains through an ordinary first backward. The formulas: csrc/field.h.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from .call import (
    DEVICES,
    NAMESPACE,
    address,
    backend,
    check_count,
    check_positive,
    check_scalar_type,
    check_tensor,
    cleared,
    execution,
    is_double,
    stays,
)
from .hashgrid import GRID, GridLayout, check_table

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
                  the table's type. The gradient is still the table's. CUDA kernels read it as it is for 16 or 8 levels
                  of 2 features; else it is converted first
    tensor_cores  products with W1, forward and backward, on tensor cores: every factor as two bfloat16 (16 bits of
                  mantissa, results within 1e-4 of the largest), sums in float32. Where there are such kernels: CUDA
                  from sm_80, 16 or 8 levels of 2 features; elsewhere it changes nothing

    Returns h (N,), rgb_raw (N, 3), grad_h (N, 3). Differentiable once in table, W1, b1, W2 and b2, through all three
    outputs; x gets no gradient. A second differentiation raises RuntimeError. Raises TypeError or ValueError that
    names a bad argument.
    """
    named = (layout, bound, level_weight, blob, count, shadow, tensor_cores)
    weights, settings = _check("field", x, table, W1, b1, W2, b2, *named)
    return _field(x, table, W1, b1, W2, b2, weights, *settings, shadow, count)


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
    weights, settings = _check("field_density", x, table, W1, b1, W2, b2, *named)
    return _field_density(*[t.detach() for t in (x, table, W1, b1, W2, b2)], weights, *settings, shadow, count)


def _check(op, x, table, W1, b1, W2, b2, layout, bound, level_weight, blob, count, shadow, tensor_cores):
    """Check everything; return the levels' weights, and the settings in the order of the registered ops."""
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
    weights = stays(op, "level_weight", level_weight, layout.levels, dtype=dtype, like=x)
    check_count(op, count, x)
    if shadow is not None:
        check_tensor(op, "shadow", shadow, tuple(table.shape), dtype=torch.float16, like=x)
        if not shadow.is_contiguous():
            raise ValueError(f"{op}: shadow must be contiguous")
    return weights, (*layout.arguments, float(bound), *_check_blob(op, blob), bool(tensor_cores))


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


_recycled = WeakTensorKeyDictionary()  # parameter -> its last gradient, zero by now


def recycle_gradient(parameter: Tensor) -> None:
    """Take `parameter.grad` away, which must be zero, as adam_step leaves it. The next backward of `field` for which
    `parameter` is the table accumulates into it.

    A gradient left in place is added to what the backward returns, in a pass over both; one that is let go is
    allocated and cleared again. For a large table either costs more than adam_step.
    """
    _recycled[parameter] = parameter.grad
    parameter.grad = None


def _zero_gradient(table: Tensor) -> Tensor:
    spare = _recycled.pop(table, None)
    if spare is None or (spare.shape, spare.dtype, spare.device) != (table.shape, table.dtype, table.device):
        return cleared(table.shape, table)
    return spare


TENSORS = "Tensor x, Tensor table, Tensor W1, Tensor b1, Tensor W2, Tensor b2, Tensor level_weight"
SETTINGS = (
    f"{GRID}, float bound, int blob, float strength, float radius, bool tensor_cores, Tensor? shadow, Tensor? count"
)


def _has_kernels(table: Tensor, scale: Sequence[float]) -> bool:
    """Whether kernels read a float16 table of this layout."""
    return table.is_cuda and table.shape[1] == 2 and len(scale) in (8, 16)


def _readable(network: Sequence[Tensor], settings: tuple) -> list[Tensor]:
    """The network and the weights of its levels, contiguous; the table is the shadow's values where no kernel reads the
    shadow."""
    table, *others = (t.contiguous() for t in network)
    shadow = settings[-2]
    if shadow is not None and not _has_kernels(table, settings[0]):
        table = shadow.to(table.dtype).contiguous()
    return [table, *others]


def _model(network: Sequence[Tensor], settings: tuple):
    """The native description of `_readable` tensors, which must outlive it."""
    *network, level_weight = network
    table, W1 = network[:2]
    scale, resolution, offset, smoothstep, bound, *bump, tensor_cores, shadow, _ = settings
    layout = (scale, resolution, offset, table.shape[1], smoothstep)
    pointers = [address(t) for t in (level_weight, *network, shadow if _has_kernels(table, scale) else None)]
    return backend(table).FieldModel(*layout, W1.shape[0], bound, *bump, *pointers, tensor_cores)


@torch.library.custom_op(
    f"{NAMESPACE}::field",
    mutates_args=(),
    device_types=DEVICES,
    schema=f"({TENSORS}, {SETTINGS}) -> (Tensor, Tensor, Tensor)",
)
def _field(*arguments):
    x, network = arguments[0].contiguous(), _readable(arguments[1:7], arguments[7:])
    h, rgb_raw, grad_h = x.new_empty(x.shape[0]), torch.empty_like(x), torch.empty_like(x)
    rows = (x.shape[0], address(arguments[-1]))
    outputs = (address(h), address(rgb_raw), address(grad_h))
    backend(x).field_forward(is_double(x), _model(network, arguments[7:]), address(x), *outputs, *rows, *execution(x))
    return h, rgb_raw, grad_h


@_field.register_fake
def _(x, *others):
    return x.new_empty(x.shape[0]), x.new_empty(x.shape), x.new_empty(x.shape)


@torch.library.custom_op(
    f"{NAMESPACE}::field_density", mutates_args=(), device_types=DEVICES, schema=f"({TENSORS}, {SETTINGS}) -> Tensor"
)
def _field_density(*arguments):
    x, network = arguments[0].contiguous(), _readable(arguments[1:7], arguments[7:])
    h = x.new_empty(x.shape[0])
    rows, outputs = (x.shape[0], address(arguments[-1])), (address(h), 0, 0)
    backend(x).field_forward(is_double(x), _model(network, arguments[7:]), address(x), *outputs, *rows, *execution(x))
    return h


@_field_density.register_fake
def _(x, *others):
    return x.new_empty(x.shape[0])


@torch.library.custom_op(
    f"{NAMESPACE}::field_backward",
    mutates_args=(),
    device_types=DEVICES,
    schema=f"(Tensor d_h, Tensor d_rgb_raw, Tensor d_grad_h, {TENSORS}, {SETTINGS}) -> (Tensor, Tensor)",
)
def _field_backward(*arguments):
    """Gradients of the table, and of W1, b1, W2, b2 one after the other in one vector."""
    d_h, d_rgb_raw, d_grad_h, x = (t.contiguous() for t in arguments[:4])
    network = _readable(arguments[4:10], arguments[10:])
    grad_table, grad_weights = _zero_gradient(arguments[4]), x.new_zeros(sum(t.numel() for t in network[1:5]))
    pointers = [address(t) for t in (x, d_h, d_rgb_raw, d_grad_h, grad_table, grad_weights)]
    rows = (x.shape[0], address(arguments[-1]))
    backend(x).field_backward(is_double(x), _model(network, arguments[10:]), *pointers, *rows, *execution(x))
    return grad_table, grad_weights


@_field_backward.register_fake
def _(d_h, d_rgb_raw, d_grad_h, x, table, W1, b1, W2, b2, *settings):
    return table.new_empty(table.shape), x.new_empty(sum(t.numel() for t in (W1, b1, W2, b2)))


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:7], *inputs[-2:])
    ctx.settings = inputs[7:-2]


def _backward(ctx, d_h, d_rgb_raw, d_grad_h):
    *tensors, shadow, count = ctx.saved_tensors
    grad_table, grad_weights = _field_backward(d_h, d_rgb_raw, d_grad_h, *tensors, *ctx.settings, shadow, count)
    network = tensors[2:6]
    pieces = grad_weights.split([t.numel() for t in network])
    return (
        None,
        grad_table,
        *[g.view(t.shape) for g, t in zip(pieces, network, strict=True)],
        *[None] * (len(ctx.settings) + 3),
    )


def _no_second_derivative(ctx, *grads):
    raise RuntimeError(
        "field: differentiated twice; its backward is final "
        "(grad_h is an output, so shading needs no second differentiation)"
    )


_field.register_autograd(_backward, setup_context=_save)
_field_backward.register_autograd(_no_second_derivative)
