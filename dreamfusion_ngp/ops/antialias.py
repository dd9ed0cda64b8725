"""Antialias: the mean over the samples of a pixel, and the gradient of visibility with respect to the vertices."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .call import launch
from .checks import check_tensor
from .interpolate import checked_face
from .rasterise import Fragments, check_mesh, mesh_arguments
from .register import Op, tensors


def antialias(image: Tensor, position: Tensor, faces: Tensor, fragments: Fragments, *, samples: int = 1) -> Tensor:
    """Average `samples` x `samples` pixels; where neighbouring pixels show different triangles, the gradient also moves
    the edge between them.

    Args:
        image: (B, H, W, C) float32, or float64 on the CPU, made from the fragments and composited with its background:
            a colour, a mask, normals, depth. Nothing that mixes pixels may come in between. Differentiable.
        position: (B, V, 4) and faces: (F, 3), those of `rasterise`; position is differentiable.
        fragments: of `rasterise`.
        samples: along each side of a pixel of the result; H and W must be multiples of it.

    Returns (B, H / samples, W / samples, C). Differentiable once. The gradient by position is that of silhouettes,
    creases seen edge-on and intersections; that of shading inside a triangle comes through `interpolate`. It is right
    to first order in the size of a pixel, and exact for edges that are straight in a smooth image.
    Raises TypeError or ValueError that names the argument.
    Source: Pidhorskyi et al. 2024 (Rasterized Edge Gradients), sections 3 and 4; what differs is in
    csrc/raster/antialias.h.
    """
    dtype = check_mesh("antialias", position, faces)
    face = checked_face("antialias", fragments, position)
    views, height, width = face.shape
    if views != position.shape[0]:
        raise ValueError(f"antialias: position must have {views} views, got {position.shape[0]}")
    shape = (views, height, width, None)
    check_tensor("antialias", "image", image, shape, dtype=dtype, like=position, text=f"{shape[:3]} and channels")
    if samples < 1 or height % samples or width % samples:
        raise ValueError(f"antialias: samples must be a whole divisor of {height} and {width}, got {samples}")
    return _antialias(image, position, faces, face, samples)


class Inputs(NamedTuple):
    image: Tensor
    position: Tensor
    faces: Tensor
    face: Tensor
    samples: int


class NeedsGrad(NamedTuple):
    want_position: bool


_antialias = Op("antialias", Inputs, returns="out")
_antialias_backward = Op("antialias_backward", tensors("d_out"), Inputs, NeedsGrad, returns="d_image d_position")


@_antialias.shapes
def _averaged(inputs):
    views, height, width, channels = inputs.image.shape
    return inputs.image.new_empty((views, height // inputs.samples, width // inputs.samples, channels))


@_antialias.kernel
def _forward(inputs):
    out = _averaged(inputs)
    views, height, width, channels = inputs.image.shape
    sizes = dict(views=views, height=height, width=width, channels=channels, samples=inputs.samples)
    launch("antialias", inputs.image, image=inputs.image, out=out, **sizes)
    return out


@_antialias_backward.shapes
def _gradients(incoming, inputs, needs_grad):
    d_position = torch.empty_like(inputs.position) if needs_grad.want_position else inputs.position.new_empty(0)
    return torch.empty_like(inputs.image), d_position


@_antialias_backward.kernel
def _backward(incoming, inputs, needs_grad):
    d_image, d_position = _gradients(incoming, inputs, needs_grad)
    _, height, width, channels = inputs.image.shape
    launch(
        "antialias_backward",
        inputs.position,
        **mesh_arguments(inputs.position, inputs.faces, height, width),
        screen=torch.empty_like(inputs.position),
        face=inputs.face,
        image=inputs.image,
        d_out=incoming.d_out,
        d_image=d_image,
        d_position=d_position if needs_grad.want_position else None,
        channels=channels,
        samples=inputs.samples,
        rows=height // inputs.samples,
        columns=width // inputs.samples,
    )
    return d_image, d_position


@_antialias.backward
def _differentiate(saved, d_out):
    (inputs,) = saved.inputs
    moves = saved.needs_grad["position"]
    d_image, d_position = _antialias_backward(d_out, *inputs, moves)
    return {"image": d_image, "position": d_position if moves else None}


_antialias_backward.final("antialias: differentiable once only; its gradient was differentiated again")
