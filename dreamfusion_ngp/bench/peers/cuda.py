"""Peers that need a CUDA device: tiny-cuda-nn (its hash grid, and steps with a torch network behind it) and nerfacc
(marching and compositing).

Calls follow the public interfaces of tiny-cuda-nn 2.0 (`Encoding`) and nerfacc 0.5.3 (`OccGridEstimator.sampling`,
`render_weight_from_density`, `accumulate_along_rays`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...ops import reference
from ..cases import CHECKED, LeftOut, Peer, Problem
from ..scene import Scene, composite_check, sum_of, sums_of_rays
from .composed import ComposedStep, composed_step


def tcnn_grid(p: Problem, dtype: torch.dtype, jit: bool):
    """tinycudann.Encoding with a copy of our table. With float16 its parameters stay float32 and are cast at every
    call, as its users have it. jit: its run-time compiled kernels, which are off unless they are asked for."""
    import tinycudann  # pyright: ignore[reportMissingImports]

    layout = p.layout
    grid = tinycudann.Encoding(
        3,
        {
            "otype": "Grid",
            "type": "Hash",
            "n_levels": layout.levels,
            "n_features_per_level": layout.features,
            "log2_hashmap_size": layout.log2_table,
            "base_resolution": layout.base_resolution,
            "per_level_scale": p.growth,
            "interpolation": "Smoothstep" if layout.smoothstep else "Linear",
        },
        dtype=dtype,
    )
    if grid.params.numel() != p.model.table.numel():
        raise LeftOut(f"its table has {grid.params.numel()} numbers, ours {p.model.table.numel()}")
    if jit and not tinycudann.supports_jit_fusion():
        raise LeftOut("no run-time compilation on this device")
    grid.jit_fusion = jit
    grid.params.data.copy_(p.model.table.detach().flatten())
    return grid


def tcnn_encode(p: Problem, jit: bool = False) -> Peer:
    grid = tcnn_grid(p, torch.float32, jit)

    @torch.no_grad()
    def call(u=p.unit):
        return grid(u)

    return Peer(call, lambda: call(p.unit[:CHECKED]))


def tcnn_encode_backward(p: Problem, jit: bool = False) -> Peer:
    """Its forward is left out of the time."""
    grid = tcnn_grid(p, torch.float32, jit)

    def prepared(rows: slice):
        y = grid(p.unit[rows])
        return lambda: torch.autograd.grad(y, grid.params, p.grad_y[rows].to(y.dtype), retain_graph=True)[0]

    return Peer(prepared(slice(None)), lambda: prepared(slice(0, CHECKED))())


def tcnn_step(p: Problem, taps: bool = False, dtype: torch.dtype = torch.float32, jit: bool = False) -> Peer:
    """Its encoding and a torch network in float32, with analytic normals (a second differentiation) or six taps."""

    def make():
        grid = tcnn_grid(p, dtype, jit)
        return ComposedStep(p, grid, grid.params, taps)

    return composed_step(p, make)


def nerfacc_march(s: Scene) -> Peer:
    """The same occupancy bits and, by its per-ray start, the same samples: ray numbers, both ends, positions."""
    import nerfacc  # pyright: ignore[reportMissingImports]

    edge, bound = s.occupancy.resolution, s.occupancy.bound
    grid = nerfacc.OccGridEstimator([-bound] * 3 + [bound] * 3, edge).to(s.x.device)
    grid.binaries = reference.unpack_bits(s.occupancy.bits).view(1, edge, edge, edge)
    enter, _ = reference.clip_rays(s.origins, s.directions, bound, s.config.near)
    jitter = reference.kernel_uniform(len(enter), 0, 0, torch.float32)[:, 0].to(enter)
    start = torch.where(enter.isfinite(), enter + (jitter - 0.5) * s.config.step, 0.0)

    def call():
        ray, near, far = grid.sampling(s.origins, s.directions, t_min=start, render_step_size=s.config.step)
        return ray, near, far, s.origins[ray] + (0.5 * (near + far))[:, None] * s.directions[ray]

    def few():
        ray, near, far, _ = call()
        return sums_of_rays(ray, 0.5 * (near + far), len(enter))

    return Peer(call, few)


def nerfacc_composite(s: Scene) -> Peer:
    """The same outputs as ours: colour, opacity, depth, normal, and orientation with detached weights. It does not end
    a ray at a transmittance of 1e-4, so it differs from ours by about that."""
    import nerfacc  # pyright: ignore[reportMissingImports]

    def outputs(sigma: Tensor, rgb: Tensor, normal: Tensor, t: Tensor, offsets: Tensor, directions: Tensor) -> list:
        rays = len(directions)
        ray = torch.repeat_interleave(torch.arange(rays, device=t.device), offsets.diff(), output_size=len(t))
        return accumulated(sigma, rgb, normal, t, ray, directions)

    def accumulated(sigma, rgb, normal, t, ray, directions):
        half, rays = 0.5 * s.config.step, len(directions)
        weight, _, _ = nerfacc.render_weight_from_density(t - half, t + half, sigma, ray_indices=ray, n_rays=rays)
        facing = (normal * directions[ray]).sum(1, keepdim=True).clamp(min=0).square()
        pairs = [(weight, rgb), (weight, None), (weight, t[:, None]), (weight, normal), (weight.detach(), facing)]
        return [nerfacc.accumulate_along_rays(w, values, ray, rays) for w, values in pairs]

    ray = s.ray.long()

    def call():
        sum_of(accumulated(*s.shaded, t=s.t, ray=ray, directions=s.directions)).backward()
        for tensor in s.shaded:
            tensor.grad = None

    return Peer(call, lambda: composite_check(s, torch.float32, outputs))
