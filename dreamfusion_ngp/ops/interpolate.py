"""Interpolate: vertex attributes of a mesh to the pixels that show it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .call import launch
from .checks import check_scalar_type, check_tensor
from .rasterise import Fragments
from .register import Op, tensors


def interpolate(attribute: Tensor, faces: Tensor, fragments: Fragments) -> Tensor:
    """An attribute of the vertices of each pixel's triangle, weighted by the pixel's barycentrics.

    Args:
        attribute: (B, V, C) or, for all views, (1, V, C) float32, or float64 on the CPU; differentiable. For texture
            coordinates with indices of their own, pass those as `faces`.
        faces: (F, 3) int32.
        fragments: of `rasterise`, or its `face` with other barycentrics (B, H, W, 3); differentiable.

    Returns (B, H, W, C), zero where no triangle is. Differentiable once. Raises TypeError or ValueError that names the
    argument.
    """
    dtype = check_scalar_type("interpolate", "attribute", attribute)
    check_tensor("interpolate", "attribute", attribute, (None, None, None), dtype=dtype, text="(B, V, C)")
    check_tensor("interpolate", "faces", faces, (None, 3), dtype=torch.int32, like=attribute, text="(F, 3)")
    face, barycentric = checked_face("interpolate", fragments, attribute), fragments.barycentric
    views = face.shape[0]
    if attribute.shape[0] not in (1, views):
        raise ValueError(f"interpolate: attribute must have 1 or {views} views, got {attribute.shape[0]}")
    check_tensor("interpolate", "barycentric", barycentric, (*face.shape, 3), dtype=dtype, like=attribute)
    return _interpolate(attribute, barycentric, faces, face)


def checked_face(op: str, fragments: Fragments, like: Tensor) -> Tensor:
    """The `face` of fragments; raises TypeError or ValueError if they or it are something else."""
    if not isinstance(fragments, Fragments):
        raise TypeError(f"{op}: fragments must be the Fragments of rasterise, got {type(fragments).__name__}")
    check_tensor(op, "face", fragments.face, (None, None, None), dtype=torch.int32, like=like, text="(B, H, W)")
    return fragments.face


class Inputs(NamedTuple):
    attribute: Tensor
    barycentric: Tensor
    faces: Tensor
    face: Tensor


class NeedsGrad(NamedTuple):
    want_attribute: bool


_interpolate = Op("interpolate", Inputs, returns="out")
_interpolate_backward = Op(
    "interpolate_backward", tensors("d_out"), Inputs, NeedsGrad, returns="d_attribute d_barycentric"
)


def _arguments(inputs: Inputs) -> dict:
    views, height, width = inputs.face.shape
    copies, vertices, channels = inputs.attribute.shape
    sizes = dict(views=views, vertices=vertices, triangles=inputs.faces.shape[0])
    return inputs._asdict() | sizes | dict(height=height, width=width, channels=channels, shared=copies == 1)


@_interpolate.shapes
def _interpolated(inputs):
    return inputs.attribute.new_empty((*inputs.face.shape, inputs.attribute.shape[2]))


@_interpolate.kernel
def _forward(inputs):
    out = _interpolated(inputs)
    launch("interpolate", inputs.attribute, **_arguments(inputs), out=out)
    return out


@_interpolate_backward.shapes
def _gradients(incoming, inputs, needs_grad):
    d_attribute = torch.empty_like(inputs.attribute) if needs_grad.want_attribute else inputs.attribute.new_empty(0)
    return d_attribute, torch.empty_like(inputs.barycentric)


@_interpolate_backward.kernel
def _backward(incoming, inputs, needs_grad):
    d_attribute, d_barycentric = _gradients(incoming, inputs, needs_grad)
    wanted = d_attribute if needs_grad.want_attribute else None
    gradients = dict(d_attribute=wanted, d_barycentric=d_barycentric)
    launch("interpolate_backward", inputs.attribute, **_arguments(inputs), **incoming._asdict(), **gradients)
    return d_attribute, d_barycentric


@_interpolate.backward
def _differentiate(saved, d_out):
    (inputs,) = saved.inputs
    wanted = saved.needs_grad["attribute"]
    d_attribute, d_barycentric = _interpolate_backward(d_out, *inputs, wanted)
    return {"attribute": d_attribute if wanted else None, "barycentric": d_barycentric}


_interpolate_backward.final("interpolate: differentiable once only; its gradient was differentiated again")
