"""Rasterise: the nearest triangle of every pixel of several views, with its depth and barycentrics."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .call import launch
from .checks import check_scalar_type, check_tensor
from .register import Op, tensors

LARGEST_SIZE = 1 << 15  # pixels a side
LARGEST_COUNT = (1 << 31) - 1  # of triangles and of vertices: both have int32 indices


class Fragments(NamedTuple):
    """What B views of a mesh show at the centres of H x W pixels, row 0 at the top."""

    face: Tensor  # (B, H, W) int32: number of the nearest triangle, -1 where there is none
    depth: Tensor  # (B, H, W): its z / w in [-1, 1], 1 where there is none
    barycentric: Tensor  # (B, H, W, 3): perspective weights of its vertices, 0 where there is none


def rasterise(position: Tensor, faces: Tensor, size: tuple[int, int], *, cull: bool = False) -> Fragments:
    """Rasterise the same triangles in B views.

    Args:
        position: (B, V, 4) float32, or float64 on the CPU: vertices in clip space, x to the right, y up, of which
            -w <= x, y, z <= w is seen, -w the near plane; differentiable. Clip space, and not camera space with a
            focal length, so that orthographic views and texture maps are the same call as pinhole cameras.
        faces: (F, 3) int32. A triangle that names no vertex, or has one that is not finite, is not drawn.
        size: (height, width) in pixels.
        cull: leave out back faces; front faces run counter-clockwise as seen.

    Returns `Fragments`. Pixels on an edge belong to one of its two triangles (top-left rule, which also holds between
    vertices that only coincide); triangles across the near plane are clipped; of two triangles at the same depth the
    one with the smaller number is seen. The same on every device and any number of threads. Depth and barycentrics are
    differentiable, once, by position; that a pixel may show another triangle is the gradient of `antialias`.
    Raises TypeError or ValueError that names the argument.
    Source: Olano and Greer 1997 (homogeneous coordinates); Pineda 1988 (edge functions).
    """
    check_mesh("rasterise", position, faces)
    height, width = check_size("rasterise", size)
    depth, barycentric, face = _rasterise(position, faces, height, width, cull)
    return Fragments(face, depth, barycentric)


def check_mesh(op: str, position: Tensor, faces: Tensor) -> torch.dtype:
    """Raise TypeError or ValueError unless these are positions (B, V, 4) and triangles (F, 3); their scalar type."""
    dtype = check_scalar_type(op, "position", position)
    check_tensor(op, "position", position, (None, None, 4), dtype=dtype, text="(B, V, 4)")
    check_tensor(op, "faces", faces, (None, 3), dtype=torch.int32, like=position, text="(F, 3)")
    for name, count in (("vertices", position.shape[1]), ("triangles", faces.shape[0])):
        if count > LARGEST_COUNT:
            raise ValueError(f"{op}: at most {LARGEST_COUNT} {name}, got {count}")
    return dtype


def check_size(op: str, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) if it is two whole numbers of pixels; raises ValueError."""
    try:
        height, width = (int(v) for v in size)
        if (height, width) != tuple(size) or not all(1 <= v <= LARGEST_SIZE for v in (height, width)):
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(
            f"{op}: size must be (height, width), each a whole number of pixels in [1, {LARGEST_SIZE}], got {size}"
        ) from None
    return height, width


class Inputs(NamedTuple):
    position: Tensor
    faces: Tensor
    height: int
    width: int
    cull: bool


class BackwardInputs(NamedTuple):
    position: Tensor
    faces: Tensor
    face: Tensor


_rasterise = Op("rasterise", Inputs, returns="depth barycentric face")
_rasterise_backward = Op("rasterise_backward", tensors("d_depth d_barycentric"), BackwardInputs, returns="d_position")


def mesh_arguments(position: Tensor, faces: Tensor, height: int, width: int) -> dict:
    """The fields of the kernels' `Mesh` (csrc/raster/screen.h)."""
    views, vertices = position.shape[:2]
    sizes = dict(views=views, vertices=vertices, triangles=faces.shape[0], height=height, width=width)
    return dict(position=position, faces=faces, **sizes)


@_rasterise.shapes
def _outputs(inputs):
    shape = (inputs.position.shape[0], inputs.height, inputs.width)
    empty = inputs.position.new_empty
    return empty(shape), empty((*shape, 3)), empty(shape, dtype=torch.int32)


@_rasterise.kernel
def _forward(inputs):
    depth, barycentric, face = _outputs(inputs)
    position = inputs.position
    launch(
        "rasterise",
        position,
        **mesh_arguments(*inputs[:4]),
        screen=torch.empty_like(position),
        keys=torch.empty_like(face, dtype=torch.int64) if position.is_cuda else None,
        face=face,
        depth=depth,
        barycentric=barycentric,
        cull=inputs.cull,
    )
    return depth, barycentric, face


@_rasterise_backward.shapes
def _gradient(incoming, inputs):
    return torch.empty_like(inputs.position)


@_rasterise_backward.kernel
def _backward(incoming, inputs):
    d_position = _gradient(incoming, inputs)
    height, width = inputs.face.shape[1:]
    launch(
        "rasterise_backward",
        inputs.position,
        **mesh_arguments(inputs.position, inputs.faces, height, width),
        face=inputs.face,
        **incoming._asdict(),
        d_position=d_position,
    )
    return d_position


@partial(_rasterise.backward, keep_outputs=True)
def _differentiate(saved, d_depth, d_barycentric, _):
    (inputs,), face = saved.inputs, saved.outputs[2]
    return {"position": _rasterise_backward(d_depth, d_barycentric, inputs.position, inputs.faces, face)}


_rasterise_backward.final("rasterise: differentiable once only; its gradient was differentiated again")
