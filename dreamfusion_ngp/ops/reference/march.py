"""The march, sample by sample of the lattice."""

from __future__ import annotations

import torch
from torch import Tensor

from ..march import Samples
from .random import kernel_uniform


def unpack_bits(bitfield: Tensor) -> Tensor:
    """(8 * bytes,) bool, low bits first."""
    return (bitfield[:, None] >> torch.arange(8, device=bitfield.device, dtype=torch.uint8) & 1).bool().reshape(-1)


def clip_rays(rays_o: Tensor, rays_d: Tensor, bound: float | Tensor, near: float | Tensor) -> tuple[Tensor, Tensor]:
    """(R,), (R,): where each ray is inside the cube; the second is smaller where it never is."""
    low, high = (-bound - rays_o) / rays_d, (bound - rays_o) / rays_d
    parallel, inside = rays_d == 0, rays_o.abs() <= bound
    enter = torch.where(parallel, -torch.inf, torch.minimum(low, high)).amax(1).clamp(min=near)
    leave = torch.where(parallel, torch.where(inside, torch.inf, -1.0), torch.maximum(low, high)).amin(1)
    usable = rays_o.isfinite().all(1) & rays_d.isfinite().all(1) & (rays_d != 0).any(1)
    return torch.where(usable, enter, torch.inf), torch.where(usable, leave, -1.0)


def _largest_cap(counts: Tensor, budget: int) -> int:
    """The largest number of samples per ray for which all rays together fit."""
    cap = int(counts.max()) if counts.numel() else 0
    while int(counts.clamp(max=cap).sum()) > budget:
        cap -= 1
    return cap


def march(
    rays_o: Tensor,
    rays_d: Tensor,
    bitfield: Tensor,
    *,
    resolution: int,
    bound: float,
    near: float,
    step: float,
    budget: int,
    seed: int,
    stream: int | Tensor,
) -> Samples:
    """Every lattice point of every ray, looked up one by one."""
    rays, dtype, device = rays_o.shape[0], rays_o.dtype, rays_o.device
    side, start, stride = (torch.tensor(v, dtype=dtype, device=device) for v in (bound, near, step))
    enter, leave = clip_rays(rays_o, rays_d, side, start)
    longest = (leave - enter)[(leave > enter) & leave.isfinite()].amax() if (leave > enter).any() else stride
    k = torch.arange(int(longest / stride) + 2, dtype=dtype, device=device)
    t = enter[:, None] + (k + kernel_uniform(rays, seed, int(stream), dtype).to(device)) * stride
    x = rays_o[:, None] + t[..., None] * rays_d[:, None]
    u = (x + side) * (resolution / (side + side))
    cell = torch.where(u > 0, u, 0).clamp(max=resolution - 1).long()
    index = (cell[..., 0] * resolution + cell[..., 1]) * resolution + cell[..., 2]
    keep = (t < leave[:, None]) & unpack_bits(bitfield)[index]
    counts = keep.sum(1)
    keep &= keep.cumsum(1) <= _largest_cap(counts, budget)
    kept = keep.sum(1)
    n, ray_id = int(kept.sum()), torch.arange(rays, device=device, dtype=torch.int32)[:, None].expand_as(keep)
    out = Samples(
        t.new_zeros(budget),
        ray_id.new_zeros(budget),
        t.new_zeros(budget, 3),
        torch.cat([kept.new_zeros(1), kept.cumsum(0)]).int(),
        torch.tensor([n, int(counts.sum()) - n], device=device),
    )
    out.t[:n], out.ray_id[:n], out.x[:n] = t[keep], ray_id[keep], x[keep]
    return out
