"""Tables of hash grids, converted to and from those of tiny-cuda-nn and Dr.Jit.

Both libraries hash and interpolate as this package does, but round differently (layout.py). A table whose layout has
the other library's `convention` is that library's table, number for number. Any other table is copied corner by corner,
which handles different offsets and lengths of levels. It is refused if corners that share a row in one table have
different rows in the other: a dense level wraps past the last corner of an axis, and where it wraps to depends on its
number of rows.

No conversion changes the scale: tiny-cuda-nn looks up a table of convention "native" with a float32 scale, which
differs from ours by up to 1e-6 of a level's resolution: 1.4e-3 of a cell where 2048 is the finest.

Checked against tiny-cuda-nn 2.0 (grid.h: grid_scale, grid_resolution, grid_index) and Dr.Jit 1.5 (hashgrid.py).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from .layout import GridLayout

NAMES = {"tinycudann": "tiny-cuda-nn", "drjit": "Dr.Jit", "native": "this layout"}


def tinycudann_config(layout: GridLayout) -> dict:
    """`encoding_config` of a `tinycudann.Encoding` with this layout."""
    return {
        "otype": "Grid",
        "type": "Hash",
        "n_levels": layout.levels,
        "n_features_per_level": layout.features,
        "log2_hashmap_size": layout.log2_table,
        "base_resolution": layout.base_resolution,
        "per_level_scale": layout.growth,
        "interpolation": "Smoothstep" if layout.smoothstep else "Linear",
    }


def to_tinycudann(table: Tensor, layout: GridLayout) -> Tensor:
    """`params` of a `tinycudann.Encoding(3, tinycudann_config(layout))` that encodes as `hashgrid_encode` does.

    table  (layout.entries, layout.features), any floating dtype and device.
    Returns a flat tensor of the same dtype and device. Raises ValueError for a table of another shape, and for one
    whose rows the other layout cannot keep apart; the message names the level and what differs.
    """
    return _exported(table, layout, "tinycudann")


def from_tinycudann(params: Tensor, layout: GridLayout) -> Tensor:
    """The table (layout.entries, layout.features) that encodes as a `tinycudann.Encoding` with `params` does.

    params  its flat parameters, any floating dtype and device; the result has the same.
    Raises ValueError as `to_tinycudann` does.
    """
    return _imported(params, layout, "tinycudann")


def to_drjit(table: Tensor, layout: GridLayout) -> Tensor:
    """`data` of a `drjit.nn.HashGridEncoding(Float, 3, n_levels=layout.levels, n_features_per_level=layout.features,
    hashmap_size=2**layout.log2_table, base_resolution=layout.base_resolution, per_level_scale=layout.growth)`, for its
    `set_params`; flat, of the table's dtype and device. Raises ValueError as `to_tinycudann` does, and for smoothstep
    interpolation, which Dr.Jit does not have."""
    return _exported(table, layout, "drjit")


def from_drjit(params: Tensor, layout: GridLayout) -> Tensor:
    """The table (layout.entries, layout.features) that encodes as such a `HashGridEncoding` with `params`, a flat
    tensor or array, does. Raises ValueError as `to_drjit` does."""
    return _imported(params, layout, "drjit")


def _exported(table: Tensor, layout: GridLayout, peer: str) -> Tensor:
    op, theirs = f"to_{peer}", _peer_layout(f"to_{peer}", layout, peer)
    shape = (layout.entries, layout.features)
    if tuple(table.shape) != shape:
        raise ValueError(f"{op}: table must be (entries, features) = {shape}, got {tuple(table.shape)}")
    return _move(op, table.detach(), layout, theirs, peer).flatten()


def _imported(params: Tensor, layout: GridLayout, peer: str) -> Tensor:
    op, params = f"from_{peer}", torch.as_tensor(params).detach()
    theirs = _peer_layout(op, layout, peer)
    if params.numel() != theirs.entries * theirs.features:
        raise ValueError(
            f"{op}: params must hold {theirs.entries} rows of {theirs.features} in this layout, "
            f"{theirs.entries * theirs.features} numbers, got {params.numel()}"
        )
    return _move(op, params.reshape(theirs.entries, theirs.features), theirs, layout, peer)


def _peer_layout(op: str, layout: GridLayout, peer: str) -> GridLayout:
    """The layout with the peer's rounding."""
    if not isinstance(layout, GridLayout):
        raise TypeError(f"{op}: layout must be a GridLayout, got {type(layout).__name__}")
    try:
        theirs = replace(layout, convention=peer)
    except ValueError as error:
        raise ValueError(f"{op}: {str(error).removeprefix('GridLayout: ')}") from None
    for level, scale in enumerate(theirs.scale):
        steps = level * math.log2(theirs.growth)
        doubtful = abs(scale - round(scale)) < 1e-6 and steps != round(steps)
        if peer == "drjit" and doubtful and round(scale) ** 3 <= 1 << theirs.log2_table:
            raise ValueError(
                f"{op}: level {level} is dense, and the last bit of Dr.Jit's exp2 decides whether it has "
                f"{round(scale) + 1} corners along an axis or one more; choose a log2_table that hashes "
                "it, or a finest_resolution that is base_resolution times a power of 2 per level"
            )
    return theirs


def _move(op: str, table: Tensor, source: GridLayout, target: GridLayout, peer: str) -> Tensor:
    """`table` of layout `source` as a table of layout `target`: every corner that a lookup can reach keeps its
    values."""
    moved = table.new_zeros(target.entries, target.features)
    for level in range(source.levels):
        src = table[source.offset[level] : source.offset[level + 1]]
        dst = moved[target.offset[level] : target.offset[level + 1]]
        if (source.resolution[level], len(src)) == (target.resolution[level], len(dst)) or (
            _is_hashed(source, level) and _is_hashed(target, level)
        ):
            dst.copy_(src)
            continue
        edge = math.floor(max(source.scale[level], target.scale[level]) + 0.5) + 2
        values, rows = src[_corner_rows(source, level, edge)], _corner_rows(target, level, edge)
        dst[rows] = values
        if not ((dst[rows] == values) | (dst[rows].isnan() & values.isnan())).all():
            ours, theirs = (source, target) if target.convention == peer else (target, source)
            raise ValueError(
                f"{op}: level {level} has {ours.resolution[level]} corners along an axis and {_rows(ours, level)} rows "
                f"here, {theirs.resolution[level]} and {_rows(theirs, level)} in {NAMES[peer]}, so corners beyond the "
                f"last share other rows there; a layout with convention={peer!r} can be exchanged"
            )
    return moved


def _rows(layout: GridLayout, level: int) -> int:
    return layout.offset[level + 1] - layout.offset[level]


def _is_hashed(layout: GridLayout, level: int) -> bool:
    return layout.resolution[level] ** 3 > _rows(layout, level)


def _corner_rows(layout: GridLayout, level: int, edge: int) -> Tensor:
    """(edge^3,) row in the level of every corner, x fastest. edge: corners along an axis that a lookup can reach."""
    axis = torch.arange(edge)
    k, j, i = torch.meshgrid(axis, axis, axis, indexing="ij")
    if _is_hashed(layout, level):
        row = i ^ (j * 2654435761) ^ (k * 805459861)
    else:
        row = i + layout.resolution[level] * (j + layout.resolution[level] * k)
    return (row % _rows(layout, level)).flatten()
