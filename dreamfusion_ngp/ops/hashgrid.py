"""Multiresolution hash-grid encoding (Mueller et al. 2022, "Instant Neural Graphics Primitives", section 3).

The layout of the table and the lookup follow tiny-cuda-nn and Dr.Jit, which differ from each other, and from this
package, in roundings: of a level's scale and of its number of rows. A `GridLayout` can have either one's `convention`;
`to_tinycudann`, `from_tinycudann`, `to_drjit` and `from_drjit` exchange tables, and refuse what cannot be exchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .call import (
    DEVICES,
    NAMESPACE,
    address,
    backend,
    check_count,
    check_scalar_type,
    check_tensor,
    cleared,
    execution,
    is_double,
)
from .exchange import from_drjit, from_tinycudann, to_drjit, to_tinycudann
from .layout import CONVENTIONS, INTERPOLATIONS, GridLayout

__all__ = [
    "CONVENTIONS",
    "INTERPOLATIONS",
    "GridLayout",
    "check_table",
    "from_drjit",
    "from_tinycudann",
    "hashgrid_encode",
    "to_drjit",
    "to_tinycudann",
]


def hashgrid_encode(x: Tensor, table: Tensor, layout: GridLayout, count: Tensor | None = None) -> Tensor:
    """Encode points: trilinear (or smoothstep) interpolation of the table in every level.

    x      (N, 3) float32, or float64 on the CPU; in [0, 1]. Outside, the lookup clamps and the derivative of that axis
           is zero. At a cell face the linear derivative is that of the upper cell.
    table  (layout.entries, layout.features), same dtype and device.
    count  (1,) int64, the number of valid leading rows; the rest are zero and get no gradient.
    Returns (N, levels * features), level-major. Differentiable in x and table, and so are its gradients; a third
    differentiation through x raises RuntimeError. Raises TypeError or ValueError that names a bad argument.
    """
    op = "hashgrid_encode"
    dtype = check_scalar_type(op, "x", x)
    check_tensor(op, "x", x, (None, 3), dtype=dtype, text="(N, 3)")
    check_table(op, table, layout, x)
    check_count(op, count, x)
    return _encode(x, table, *layout.arguments, count)


def check_table(op: str, table: Tensor, layout: GridLayout, x: Tensor) -> None:
    """The table must have the layout's shape, and x's dtype and device."""
    if not isinstance(layout, GridLayout):
        raise TypeError(f"{op}: layout must be a GridLayout, got {type(layout).__name__}")
    shape = (layout.entries, layout.features)
    check_tensor(op, "table", table, shape, dtype=x.dtype, like=x, text=f"(entries, features) = {shape}")


# The last arguments of every op here: what GridLayout.arguments holds, and count.
GRID = "float[] scale, int[] resolution, int[] offset, bool smoothstep"
TAIL = f"{GRID}, Tensor? count"
POINTERS = ("x", "table", "grad_y", "grad_grad_x", "y", "grad_x", "grad_grad_y", "grad_table")


def _launch(name: str, x: Tensor, tail: tuple, features: int, **tensors: Tensor) -> None:
    """Call a native hash-grid function; the tensors that it does not use are null."""
    scale, resolution, offset, smoothstep, count = tail
    pointers = [address({"x": x, **tensors}.get(pointer)) for pointer in POINTERS]
    layout = (scale, resolution, offset, features, smoothstep)
    getattr(backend(x), name)(is_double(x), *layout, *pointers, x.shape[0], address(count), *execution(x))


@torch.library.custom_op(
    f"{NAMESPACE}::hashgrid_encode",
    mutates_args=(),
    device_types=DEVICES,
    schema=f"(Tensor x, Tensor table, {TAIL}) -> Tensor",
)
def _encode(x, table, *tail):
    x, table = x.contiguous(), table.contiguous()
    y = x.new_empty(x.shape[0], len(tail[0]) * table.shape[1])
    _launch("hashgrid_forward", x, tail, table.shape[1], table=table, y=y)
    return y


@_encode.register_fake
def _(x, table, scale, *others):
    return x.new_empty(x.shape[0], len(scale) * table.shape[1])


@torch.library.custom_op(
    f"{NAMESPACE}::hashgrid_grad_table",
    mutates_args=(),
    device_types=DEVICES,
    schema=f"(Tensor grad_y, Tensor x, {TAIL}) -> Tensor",
)
def _grad_table(grad_y, x, *tail):
    grad_y, x = grad_y.contiguous(), x.contiguous()
    scale, _, offset, *_ = tail
    grad_table = cleared((offset[-1], grad_y.shape[1] // len(scale)), x)
    _launch("hashgrid_grad_table", x, tail, grad_table.shape[1], grad_y=grad_y, grad_table=grad_table)
    return grad_table


@_grad_table.register_fake
def _(grad_y, x, scale, resolution, offset, *others):
    return x.new_empty(offset[-1], grad_y.shape[1] // len(scale))


@torch.library.custom_op(
    f"{NAMESPACE}::hashgrid_grad_x",
    mutates_args=(),
    device_types=DEVICES,
    schema=f"(Tensor grad_y, Tensor x, Tensor table, {TAIL}) -> Tensor",
)
def _grad_x(grad_y, x, table, *tail):
    grad_y, x, table = grad_y.contiguous(), x.contiguous(), table.contiguous()
    grad_x = torch.empty_like(x)
    _launch("hashgrid_grad_x", x, tail, table.shape[1], table=table, grad_y=grad_y, grad_x=grad_x)
    return grad_x


@_grad_x.register_fake
def _(grad_y, x, *others):
    return x.new_empty(x.shape)


@torch.library.custom_op(
    f"{NAMESPACE}::hashgrid_grad_x_backward",
    mutates_args=(),
    device_types=DEVICES,
    schema=f"(Tensor grad_grad_x, Tensor grad_y, Tensor x, Tensor table, {TAIL}) -> (Tensor, Tensor, Tensor)",
)
def _grad_x_backward(grad_grad_x, grad_y, x, table, *tail):
    """Gradients of grad_y, x and table."""
    grad_grad_x, grad_y, x, table = (t.contiguous() for t in (grad_grad_x, grad_y, x, table))
    inputs = dict(table=table, grad_y=grad_y, grad_grad_x=grad_grad_x)
    outputs = dict(grad_grad_y=torch.empty_like(grad_y), grad_x=torch.empty_like(x), grad_table=cleared(table.shape, x))
    _launch("hashgrid_grad_x_backward", x, tail, table.shape[1], **inputs, **outputs)
    return tuple(outputs.values())


@_grad_x_backward.register_fake
def _(grad_grad_x, grad_y, x, table, *others):
    return grad_y.new_empty(grad_y.shape), x.new_empty(x.shape), table.new_empty(table.shape)


def _save(ctx, inputs, output) -> None:
    """Save the leading tensors; the layout's four arguments and count are the last five inputs."""
    *tensors, count = [*inputs[:-5], inputs[-1]]
    ctx.save_for_backward(*tensors, count)
    ctx.layout = inputs[-5:-1]


def _encode_backward(ctx, grad_y):
    x, table, count = ctx.saved_tensors
    grad_x = _grad_x(grad_y, x, table, *ctx.layout, count) if ctx.needs_input_grad[0] else None
    grad_table = _grad_table(grad_y, x, *ctx.layout, count) if ctx.needs_input_grad[1] else None
    return grad_x, grad_table, *[None] * 5


def _grad_table_backward(ctx, direction):
    """grad_table is the adjoint of encoding, linear in grad_y: its own adjoint encodes `direction` as if the table."""
    grad_y, x, count = ctx.saved_tensors
    grad_grad_y = _encode(x, direction, *ctx.layout, count) if ctx.needs_input_grad[0] else None
    grad_x = _grad_x(grad_y, x, direction, *ctx.layout, count) if ctx.needs_input_grad[1] else None
    return grad_grad_y, grad_x, *[None] * 5


def _grad_x_backward_formula(ctx, grad_grad_x):
    grad_y, x, table, count = ctx.saved_tensors
    return *_grad_x_backward(grad_grad_x, grad_y, x, table, *ctx.layout, count), *[None] * 5


def _no_third_derivative(ctx, *grads):
    raise RuntimeError("hashgrid_encode: differentiated three times through x; only the first two derivatives exist")


_encode.register_autograd(_encode_backward, setup_context=_save)
_grad_table.register_autograd(_grad_table_backward, setup_context=_save)
_grad_x.register_autograd(_grad_x_backward_formula, setup_context=_save)
_grad_x_backward.register_autograd(_no_third_derivative)
