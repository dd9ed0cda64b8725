"""Multiresolution hash-grid encoding (Mueller et al. 2022, "Instant Neural Graphics Primitives", section 3).

The layout of the table and the lookup follow tiny-cuda-nn and Dr.Jit. These and this package round a level's scale and
number of rows differently. A `GridLayout` can follow the `convention` of either; `to_tinycudann`, `from_tinycudann`,
`to_drjit` and `from_drjit` convert tables, and refuse those that cannot be converted.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..base.native import native
from .call import cleared, launch
from .checks import check_count, check_scalar_type, check_tensor
from .exchange import from_drjit, from_tinycudann, to_drjit, to_tinycudann
from .layout import CONVENTIONS, INTERPOLATIONS, GridLayout
from .register import Op, tensors

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
    return _encode(x, table, layout.arguments, count)


def check_table(op: str, table: Tensor, layout: GridLayout, x: Tensor) -> None:
    """The table must have the layout's shape, and x's dtype and device."""
    if not isinstance(layout, GridLayout):
        raise TypeError(f"{op}: layout must be a GridLayout, got {type(layout).__name__}")
    shape = (layout.entries, layout.features)
    check_tensor(op, "table", table, shape, dtype=x.dtype, like=x, text=f"(entries, features) = {shape}")


class Grid(NamedTuple):
    """The fields of a GridLayout, as the registered ops take them."""

    levels: int
    features: int
    log2_table: int
    base_resolution: int
    finest_resolution: int
    interpolation: str
    convention: str


class Rows(NamedTuple):
    count: Tensor | None


@cache
def layout_of(grid: Grid) -> GridLayout:
    return GridLayout(*grid)


@cache
def native_layout(grid: Grid):
    """The `_C.GridLayout`, cached: kernels copy it."""
    layout = layout_of(grid)
    return native().GridLayout(
        scale=layout.scale,
        resolution=layout.resolution,
        offset=layout.offset,
        features=layout.features,
        smooth=layout.smoothstep,
    )


_encode = Op("hashgrid_encode", tensors("x table"), Grid, Rows, returns="y")
_grad_table = Op("hashgrid_grad_table", tensors("grad_y x"), Grid, Rows, returns="grad_table")
_grad_x = Op("hashgrid_grad_x", tensors("grad_y x table"), Grid, Rows, returns="grad_x")
_grad_x_backward = Op(
    "hashgrid_grad_x_backward",
    tensors("grad_grad_x grad_y x table"),
    Grid,
    Rows,
    returns="grad_grad_y grad_x grad_table",
)


def _launch(kernel: str, inputs: Any, grid: Grid, rows: Rows, **outputs: Tensor) -> None:
    """Launch a kernel of the grid. inputs: a group of tensors with a field x."""
    x = inputs.x
    launch(kernel, x, grid=native_layout(grid), n=x.shape[0], count=rows.count, **inputs._asdict(), **outputs)


@_encode.shapes
def _encoding(inputs, grid, rows):
    return inputs.x.new_empty(inputs.x.shape[0], grid.levels * grid.features)


@_encode.kernel
def _run_encode(inputs, grid, rows):
    y = _encoding(inputs, grid, rows)
    _launch("hashgrid_forward", inputs, grid, rows, y=y)
    return y


@_grad_table.shapes
def _table_like(inputs, grid, rows):
    return inputs.x.new_empty(layout_of(grid).entries, grid.features)


@_grad_table.kernel
def _run_grad_table(inputs, grid, rows):
    grad_table = cleared((layout_of(grid).entries, grid.features), inputs.x)
    _launch("hashgrid_grad_table", inputs, grid, rows, grad_table=grad_table)
    return grad_table


@_grad_x.shapes
def _x_like(inputs, grid, rows):
    return torch.empty_like(inputs.x)


@_grad_x.kernel
def _run_grad_x(inputs, grid, rows):
    grad_x = _x_like(inputs, grid, rows)
    _launch("hashgrid_grad_x", inputs, grid, rows, grad_x=grad_x)
    return grad_x


@_grad_x_backward.shapes
def _second_gradients(inputs, grid, rows):
    return torch.empty_like(inputs.grad_y), torch.empty_like(inputs.x), torch.empty_like(inputs.table)


@_grad_x_backward.kernel
def _run_grad_x_backward(inputs, grid, rows):
    grad_grad_y, grad_x = torch.empty_like(inputs.grad_y), torch.empty_like(inputs.x)
    grad_table = cleared(inputs.table.shape, inputs.x)
    outputs = dict(grad_grad_y=grad_grad_y, grad_x=grad_x, grad_table=grad_table)
    _launch("hashgrid_grad_x_backward", inputs, grid, rows, **outputs)
    return grad_grad_y, grad_x, grad_table


@_encode.backward
def _differentiate_encode(saved, grad_y):
    inputs, grid, rows = saved.inputs
    gradients = {}
    if saved.needs_grad["x"]:
        gradients["x"] = _grad_x(grad_y, inputs, grid, rows)
    if saved.needs_grad["table"]:
        gradients["table"] = _grad_table(grad_y, inputs.x, grid, rows)
    return gradients


@_grad_table.backward
def _differentiate_grad_table(saved, direction):
    """grad_table is the adjoint of encoding and linear in grad_y; its own adjoint encodes with `direction` as the
    table."""
    inputs, grid, rows = saved.inputs
    gradients = {}
    if saved.needs_grad["grad_y"]:
        gradients["grad_y"] = _encode(inputs.x, direction, grid, rows)
    if saved.needs_grad["x"]:
        gradients["x"] = _grad_x(inputs, direction, grid, rows)
    return gradients


@_grad_x.backward
def _differentiate_grad_x(saved, grad_grad_x):
    grad_grad_y, grad_x, grad_table = _grad_x_backward(grad_grad_x, *saved.inputs)
    return {"grad_y": grad_grad_y, "x": grad_x, "table": grad_table}


_grad_x_backward.final("hashgrid_encode: differentiated three times through x; only the first two derivatives exist")
