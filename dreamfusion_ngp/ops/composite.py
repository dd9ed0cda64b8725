"""Composite: alpha compositing of packed samples into rays."""

from __future__ import annotations

from typing import NamedTuple

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

    A ray ends behind the sample that takes T below 1e-4, in both directions; later samples get zero gradients.

    Args:
        sigma (N,), rgb (N, 3), normal (N, 3): float32, or float64 on the CPU; the differentiable arguments.
        t: (N,) distances.   offsets: (R + 1,) int32: ray r has rows offsets[r] to offsets[r + 1] - 1.
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
    return Composited(
        *torch.ops.dreamfusion_ngp.composite(
            sigma.contiguous(),
            rgb.contiguous(),
            normal.contiguous(),
            t.detach().contiguous(),
            offsets.contiguous(),
            rays_d.detach().contiguous(),
            count,
            step,
        )
    )


FORWARD = f"{NAMESPACE}::composite"
BACKWARD = f"{NAMESPACE}::composite_backward"
INPUTS = "Tensor sigma, Tensor rgb, Tensor normal, Tensor t, Tensor offsets, Tensor rays_d, Tensor? count, float step"
FIVE = "Tensor, Tensor, Tensor, Tensor, Tensor"
torch.library.define(FORWARD, f"({INPUTS}) -> ({FIVE})")
torch.library.define(
    BACKWARD,
    "(Tensor d_color, Tensor d_opacity, Tensor d_depth, Tensor d_normals, Tensor d_orient, Tensor color,"
    f" Tensor opacity, Tensor depth, Tensor normals, {INPUTS}) -> (Tensor, Tensor, Tensor)",
)


def _native_arguments(outputs, sigma, rgb, normal, t, offsets, rays_d, count, step):
    tensors = (sigma, rgb, normal, t, offsets, rays_d, count, *outputs)
    return backend(sigma).CompositeArguments(*map(address, tensors), rays_d.shape[0], sigma.shape[0], step)


@torch.library.register_fake(FORWARD)
def _outputs(sigma, rgb, normal, t, offsets, rays_d, *_):
    rays = rays_d.shape[0]
    return tuple(sigma.new_empty(shape) for shape in ((rays, 3), (rays,), (rays,), (rays, 3), (rays,)))


@torch.library.impl(FORWARD, ("cpu", "cuda"))
def _forward(*inputs):
    sigma = inputs[0]
    outputs = _outputs(*inputs)
    backend(sigma).composite_forward(is_double(sigma), _native_arguments(outputs, *inputs), *execution(sigma))
    return outputs


@torch.library.register_fake(BACKWARD)
def _gradients(*arguments):
    return tuple(torch.empty_like(v) for v in arguments[9:12])


@torch.library.impl(BACKWARD, ("cpu", "cuda"))
def _backward(*arguments):
    incoming, outputs, inputs = [d.contiguous() for d in arguments[:5]], arguments[5:9], arguments[9:]
    sigma = inputs[0]
    gradients = _gradients(*arguments)
    backend(sigma).composite_backward(
        is_double(sigma),
        _native_arguments((*outputs, None), *inputs),
        *map(address, incoming),
        *map(address, gradients),
        *execution(sigma),
    )
    return gradients


def _save(ctx, inputs, output):
    ctx.save_for_backward(*output[:4], *inputs[:7])
    ctx.step = inputs[7]


def _differentiate(ctx, *incoming):
    gradients = torch.ops.dreamfusion_ngp.composite_backward(*incoming, *ctx.saved_tensors, ctx.step)
    return *gradients, None, None, None, None, None


def _refuse(ctx, *_):
    raise RuntimeError("composite: differentiable once only; its gradient was differentiated again")


torch.library.register_autograd(FORWARD, _differentiate, setup_context=_save)
torch.library.register_autograd(BACKWARD, _refuse)
