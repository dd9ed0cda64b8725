"""Shade: density, lit colour and normal of samples, from the outputs of the field."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .call import launch
from .checks import check_count, check_positive, check_scalar_type, check_tensor
from .register import Op, tensors

DENSITIES = ("softplus", "exp")


def shade(
    h: Tensor,
    rgb_raw: Tensor,
    grad_h: Tensor,
    x: Tensor,
    ray_id: Tensor,
    view: Tensor,
    rays_per_view: int,
    *,
    density: str,
    eps: float = 1e-2,
    count: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Density, colour under a point light, and normal of every sample.

        sigma = softplus(h), or exp(min(h, 15)), with the gradient of just that
        n = -grad_h / sqrt(|grad_h|^2 + eps^2),  l = (light - x) / |light - x|
        rgb = albedo * (ambient + diffuse * max(0, n . l)),  albedo = sigmoid(rgb_raw), or white in a textureless view

    Args:
        h (N,), rgb_raw (N, 3), grad_h = dh/dx (N, 3): float32, or float64 on the CPU; differentiable.
        x: (N, 3) positions in world units.   ray_id: (N,) int32.
        view: (V, 6) float32, one row per view: light x, y, z in world units, ambient, diffuse, textureless (0 or 1).
        rays_per_view: a sample belongs to view ray_id // rays_per_view (kept below V).
        density: "softplus" or "exp".   eps: in units of grad_h; where the field is flat, the normal fades to zero.
        count: None, or (1,) int64: rows in use; the others are zero and get zero gradients.

    Returns sigma (N,), rgb (N, 3), normal (N, 3). Differentiable once; a second differentiation raises RuntimeError.
    Source: Poole et al. 2022 (DreamFusion), section 3.1, "Shading"; the light's roles are its l_rho and l_a.
    """
    dtype = check_scalar_type("shade", "h", h)
    check_tensor("shade", "h", h, (None,), dtype=dtype, text="(N,)")
    n = h.shape[0]
    for name, value in (("rgb_raw", rgb_raw), ("grad_h", grad_h), ("x", x)):
        check_tensor("shade", name, value, (n, 3), dtype=dtype, like=h)
    check_tensor("shade", "ray_id", ray_id, (n,), dtype=torch.int32, like=h)
    check_tensor("shade", "view", view, (None, 6), dtype=torch.float32, like=h, text="(V, 6)")
    if view.shape[0] == 0:
        raise ValueError("shade: view must have at least one row")
    check_positive("shade", rays_per_view=rays_per_view, eps=eps)
    check_count("shade", count, h)
    if density not in DENSITIES:
        raise ValueError(f"shade: density must be one of {', '.join(DENSITIES)}, got {density!r}")
    return _shade(h, rgb_raw, grad_h, x.detach(), ray_id, view.detach(), count, rays_per_view, density == "exp", eps)


class Inputs(NamedTuple):
    h: Tensor
    rgb_raw: Tensor
    grad_h: Tensor
    x: Tensor
    ray_id: Tensor
    view: Tensor
    count: Tensor | None
    rays_per_view: int
    exp_density: bool
    eps: float


_shade = Op("shade", Inputs, returns="sigma rgb normal")
_shade_backward = Op("shade_backward", tensors("d_sigma d_rgb d_normal"), Inputs, returns="d_h d_rgb_raw d_grad_h")


@_shade.shapes
def _shaded(inputs):
    return torch.empty_like(inputs.h), torch.empty_like(inputs.rgb_raw), torch.empty_like(inputs.rgb_raw)


@_shade.kernel
def _forward(inputs):
    sigma, rgb, normal = _shaded(inputs)
    sizes = dict(n=inputs.h.shape[0], views=inputs.view.shape[0])
    launch("shade_forward", inputs.h, **inputs._asdict(), **sizes, sigma=sigma, rgb=rgb, normal=normal)
    return sigma, rgb, normal


@_shade_backward.shapes
def _gradients(incoming, inputs):
    return torch.empty_like(inputs.h), torch.empty_like(inputs.rgb_raw), torch.empty_like(inputs.grad_h)


@_shade_backward.kernel
def _backward(incoming, inputs):
    d_h, d_rgb_raw, d_grad_h = _gradients(incoming, inputs)
    sizes = dict(n=inputs.h.shape[0], views=inputs.view.shape[0])
    outputs = dict(d_h=d_h, d_rgb_raw=d_rgb_raw, d_grad_h=d_grad_h)
    launch("shade_backward", inputs.h, **inputs._asdict(), **sizes, **incoming._asdict(), **outputs)
    return d_h, d_rgb_raw, d_grad_h


@_shade.backward
def _differentiate(saved, d_sigma, d_rgb, d_normal):
    (inputs,) = saved.inputs
    d_h, d_rgb_raw, d_grad_h = _shade_backward(d_sigma, d_rgb, d_normal, inputs)
    return {"h": d_h, "rgb_raw": d_rgb_raw, "grad_h": d_grad_h}


_shade_backward.final("shade: differentiable once only; its gradient was differentiated again")
