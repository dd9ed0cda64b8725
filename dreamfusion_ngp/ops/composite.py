"""Composite: alpha compositing of packed samples into rays."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .call import launch
from .checks import check_count, check_positive, check_scalar_type, check_tensor
from .register import Op, tensors

MOST_ROWS = (1 << 31) - 1  # offsets are int32


class Composited(NamedTuple):
    """Per ray, before any background; the ray's weights add up to its opacity."""

    rgb: Tensor  # (R, 3) sum of w * rgb
    opacity: Tensor  # (R,) sum of w, in [0, 1]
    depth: Tensor  # (R,) sum of w * t; world units, divide by the opacity for a distance
    normal: Tensor  # (R, 3) sum of w * n
    orient: Tensor  # (R,) sum of w * max(0, n . d)^2, where w passes no gradient


def composite(
    sigma: Tensor,
    rgb: Tensor,
    normal: Tensor,
    t: Tensor,
    offsets: Tensor,
    rays_d: Tensor,
    step: float,
    count: Tensor | None = None,
) -> Composited:
    """Composite the samples of each ray, front to back.

        alpha_i = 1 - exp(-sigma_i * step),  w_i = T_i * alpha_i,  T_1 = 1,  T_(i+1) = T_i * (1 - alpha_i)

    A ray ends after the sample that takes T below 1e-4, in forward and backward; later samples get zero gradients.

    Args:
        sigma (N,), rgb (N, 3), normal (N, 3): float32, or float64 on the CPU; the differentiable arguments.
        t: (N,) distances.   offsets: (R + 1,) int32: ray r has rows offsets[r] to offsets[r + 1] - 1. Rows before
            offsets[0] and from offsets[R] on belong to no ray and get zero gradients, so that offsets[a : b + 1] are
            those of rays a to b - 1.
        rays_d: (R, 3) directions, away from the camera.   step: length of a sample's interval, world units.
        count: None, or (1,) int64: rows in use; the others do not contribute and get zero gradients.

    Returns `Composited`. Differentiable once; a second differentiation raises RuntimeError.
    Source: Mildenhall et al. 2020 (NeRF), equation 3; the orientation term is Verbin et al. 2022 (Ref-NeRF), equation
    11, with the stopped weights of Poole et al. 2022 (DreamFusion), appendix A.2.
    """
    op = "composite"
    dtype = check_scalar_type(op, "sigma", sigma)
    check_tensor(op, "sigma", sigma, (None,), dtype=dtype, text="(N,)")
    n = sigma.shape[0]
    if n > MOST_ROWS:
        raise ValueError(f"{op}: at most {MOST_ROWS} rows, got {n}")
    check_tensor(op, "rgb", rgb, (n, 3), dtype=dtype, like=sigma)
    check_tensor(op, "normal", normal, (n, 3), dtype=dtype, like=sigma)
    check_tensor(op, "t", t, (n,), dtype=dtype, like=sigma)
    check_tensor(op, "rays_d", rays_d, (None, 3), dtype=dtype, like=sigma, text="(R, 3)")
    check_tensor(op, "offsets", offsets, (rays_d.shape[0] + 1,), dtype=torch.int32, like=sigma)
    check_positive(op, step=step)
    check_count(op, count, sigma)
    return Composited(*_composite(sigma, rgb, normal, t.detach(), offsets, rays_d.detach(), count, step))


class Inputs(NamedTuple):
    sigma: Tensor
    rgb: Tensor
    normal: Tensor
    t: Tensor
    offsets: Tensor
    rays_d: Tensor
    count: Tensor | None
    step: float


Outputs = tensors("color opacity depth normals orient")
Incoming = tensors("d_color d_opacity d_depth d_normals d_orient")
SavedOutputs = tensors("color opacity depth normals")  # those that the backward reads
_composite = Op("composite", Inputs, returns="color opacity depth normals orient")
_composite_backward = Op("composite_backward", Incoming, SavedOutputs, Inputs, returns="d_sigma d_rgb d_normal")


def _sizes(inputs: Inputs) -> dict[str, int]:
    return {"rays": inputs.rays_d.shape[0], "n": inputs.sigma.shape[0]}


@_composite.shapes
def _outputs(inputs):
    rays = inputs.rays_d.shape[0]
    return tuple(inputs.sigma.new_empty(shape) for shape in ((rays, 3), (rays,), (rays,), (rays, 3), (rays,)))


@_composite.kernel
def _forward(inputs):
    outputs = Outputs(*_outputs(inputs))
    launch("composite_forward", inputs.sigma, **inputs._asdict(), **_sizes(inputs), **outputs._asdict())
    return tuple(outputs)


@_composite_backward.shapes
def _gradients(incoming, outputs, inputs):
    return torch.empty_like(inputs.sigma), torch.empty_like(inputs.rgb), torch.empty_like(inputs.normal)


@_composite_backward.kernel
def _backward(incoming, outputs, inputs):
    d_sigma, d_rgb, d_normal = _gradients(incoming, outputs, inputs)
    arguments = {**inputs._asdict(), **_sizes(inputs), **outputs._asdict(), **incoming._asdict()}
    launch("composite_backward", inputs.sigma, **arguments, d_sigma=d_sigma, d_rgb=d_rgb, d_normal=d_normal)
    return d_sigma, d_rgb, d_normal


@partial(_composite.backward, keep_outputs=True)
def _differentiate(saved, *incoming):
    *outputs, _ = saved.outputs
    d_sigma, d_rgb, d_normal = _composite_backward(incoming, SavedOutputs(*outputs), *saved.inputs)
    return {"sigma": d_sigma, "rgb": d_rgb, "normal": d_normal}


_composite_backward.final("composite: differentiable once only; its gradient was differentiated again")
