"""Shade: density, lit colour and normal of samples from what the field returns."""

from __future__ import annotations

import torch
from torch import Tensor

from .call import (
    NAMESPACE,
    address,
    backend,
    check_count,
    check_positive,
    check_scalar_type,
    check_tensor,
    execution,
    is_double,
)

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
    return torch.ops.dreamfusion_ngp.shade(
        h.contiguous(),
        rgb_raw.contiguous(),
        grad_h.contiguous(),
        x.detach().contiguous(),
        ray_id.contiguous(),
        view.detach().contiguous(),
        count,
        rays_per_view,
        density == "exp",
        eps,
    )


FORWARD = f"{NAMESPACE}::shade"
BACKWARD = f"{NAMESPACE}::shade_backward"
INPUTS = (
    "Tensor h, Tensor rgb_raw, Tensor grad_h, Tensor x, Tensor ray_id, Tensor view, Tensor? count, int rays_per_view,"
    " bool exp_density, float eps"
)
torch.library.define(FORWARD, f"({INPUTS}) -> (Tensor, Tensor, Tensor)")
torch.library.define(BACKWARD, f"(Tensor d_sigma, Tensor d_rgb, Tensor d_normal, {INPUTS}) -> (Tensor, Tensor, Tensor)")


def _native_inputs(h, rgb_raw, grad_h, x, ray_id, view, count, rays_per_view, exp_density, eps):
    tensors = (h, rgb_raw, grad_h, x, ray_id, view, count)
    return backend(h).ShadeInputs(*map(address, tensors), h.shape[0], view.shape[0], rays_per_view, eps, exp_density)


@torch.library.register_fake(FORWARD)
def _outputs(h, rgb_raw, *_):
    return torch.empty_like(h), torch.empty_like(rgb_raw), torch.empty_like(rgb_raw)


@torch.library.impl(FORWARD, ("cpu", "cuda"))
def _forward(*inputs):
    h = inputs[0]
    outputs = _outputs(*inputs)
    backend(h).shade_forward(is_double(h), _native_inputs(*inputs), *map(address, outputs), *execution(h))
    return outputs


@torch.library.register_fake(BACKWARD)
def _gradients(d_sigma, d_rgb, d_normal, h, rgb_raw, grad_h, *_):
    return torch.empty_like(h), torch.empty_like(rgb_raw), torch.empty_like(grad_h)


@torch.library.impl(BACKWARD, ("cpu", "cuda"))
def _backward(d_sigma, d_rgb, d_normal, *inputs):
    h = inputs[0]
    incoming = [d.contiguous() for d in (d_sigma, d_rgb, d_normal)]
    outputs = _gradients(*incoming, *inputs)
    backend(h).shade_backward(
        is_double(h), _native_inputs(*inputs), *map(address, incoming), *map(address, outputs), *execution(h)
    )
    return outputs


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:7])
    ctx.constants = inputs[7:]


def _differentiate(ctx, d_sigma, d_rgb, d_normal):
    gradients = torch.ops.dreamfusion_ngp.shade_backward(d_sigma, d_rgb, d_normal, *ctx.saved_tensors, *ctx.constants)
    return *gradients, None, None, None, None, None, None, None


def _refuse(ctx, *_):
    raise RuntimeError("shade: differentiable once only; its gradient was differentiated again")


torch.library.register_autograd(FORWARD, _differentiate, setup_context=_save)
torch.library.register_autograd(BACKWARD, _refuse)
