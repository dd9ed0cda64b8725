"""The slow, obvious torch twin of every op: the specification, and the oracle of the tests.

Same arguments and results as the public functions, any float dtype, any device; gradients by autograd. No checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .composite import Composited
from .hashgrid import GridLayout
from .march import Samples
from .rows import zero_rows

# hashgrid.py ----------------------------------------------------------------------------------------------------------


def _corners(u: Tensor, layout: GridLayout, level: int):
    """For each of the 8 corners of the points' cells: table row (N,), weight (N,), the weight's gradient (N, 3)."""
    scale, resolution = layout.scale[level], layout.resolution[level]
    first, rows = layout.offset[level], layout.offset[level + 1] - layout.offset[level]
    position = u.clamp(0, 1) * scale + 0.5
    cell = position.detach().floor()
    f = position - cell
    weight = f * f * (3 - 2 * f) if layout.smoothstep else f
    slope = scale * (6 * f * (1 - f) if layout.smoothstep else torch.ones_like(f)) * ((u >= 0) & (u <= 1))
    for corner in range(8):
        bit = torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2], device=u.device)
        i, j, k = (cell.long() + bit).unbind(1)
        if resolution**3 <= rows:
            row = (i + j * resolution + k * resolution**2) % rows
        else:
            row = (i ^ (j * 2654435761) ^ (k * 805459861)) % rows
        factor = torch.where(bit.bool(), weight, 1 - weight)
        x, y, z = factor.unbind(1)
        sign = torch.where(bit.bool(), 1.0, -1.0).to(u.dtype)
        yield first + row, x * y * z, sign * slope * torch.stack([y * z, x * z, x * y], 1)


def hashgrid_encode(x: Tensor, table: Tensor, layout: GridLayout, count: Tensor | None = None) -> Tensor:
    """See `dreamfusion_ngp.ops.hashgrid.hashgrid_encode`."""
    u = zero_rows(x, count)
    corners = [_corners(u, layout, level) for level in range(layout.levels)]
    return zero_rows(torch.cat([sum(w[:, None] * table[row] for row, w, _ in c) for c in corners], 1), count)


# field.py -------------------------------------------------------------------------------------------------------------


def _blob(x: Tensor, blob: tuple[str, float, float]) -> tuple[Tensor, Tensor]:
    kind, strength, radius = blob
    squared = (x * x).sum(1)
    if kind == "gaussian":
        value = strength * torch.exp(-squared / (2 * radius**2))
        return value, -value[:, None] * x / radius**2
    if kind == "cone":
        distance = torch.sqrt(squared + 1e-8)
        return strength * (1 - distance / radius), -strength * x / (radius * distance[:, None])
    return torch.zeros_like(squared), torch.zeros_like(x)


def field(
    x: Tensor,
    table: Tensor,
    W1: Tensor,
    b1: Tensor,
    W2: Tensor,
    b2: Tensor,
    layout: GridLayout,
    *,
    bound: float,
    level_weight: Sequence[float] | Tensor,
    blob: tuple[str, float, float] = ("none", 0.0, 1.0),
    count: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `dreamfusion_ngp.ops.field.field`. grad_h is written out, so it is differentiable like the rest."""
    x = zero_rows(x.detach(), count)
    u = (x + bound) / (2 * bound)
    encoding, jacobian = [], []
    for level, weight in enumerate(level_weight):
        corners = list(_corners(u, layout, level))
        encoding.append(weight * sum(w[:, None] * table[row] for row, w, _ in corners))
        jacobian.append(weight * sum(table[row][:, :, None] * dw[:, None, :] for row, _, dw in corners))
    e, J = torch.cat(encoding, 1), torch.cat(jacobian, 1) / (2 * bound)
    z = e @ W1.T + b1
    o = torch.relu(z) @ W2.T + b2
    q = ((z > 0) * W2[0]) @ W1
    bump, bump_grad = _blob(x, blob)
    h, grad_h = o[:, 0] + bump, (J * q[:, :, None]).sum(1) + bump_grad
    return zero_rows(h, count), zero_rows(o[:, 1:], count), zero_rows(grad_h, count)


def field_density(*args, **kwargs) -> Tensor:
    """See `dreamfusion_ngp.ops.field.field_density`."""
    return field(*args, **kwargs)[0].detach()


# random numbers of the kernels ----------------------------------------------------------------------------------------


def philox(key: int, low: Tensor, high: int) -> list[Tensor]:
    """Philox4x32-10 (Salmon et al. 2011): four tensors of 32-bit words for the counters (low, high), in int64."""
    mask = 0xFFFFFFFF

    def multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
        """High and low words of a 32 x 32-bit product; int64 cannot hold it, so b goes in halves."""
        bottom, top = a * (b & 0xFFFF), a * (b >> 16)
        return (top + (bottom >> 16)) >> 16, (bottom + ((top & 0xFFFF) << 16)) & mask

    c = [low & mask, low >> 32 & mask, torch.full_like(low, high & mask), torch.full_like(low, high >> 32 & mask)]
    k0, k1 = key & mask, key >> 32 & mask
    for _ in range(10):
        (h0, l0), (h1, l1) = multiply(0xD2511F53, c[0]), multiply(0xCD9E8D57, c[2])
        c = [h1 ^ c[1] ^ k0, l1, h0 ^ c[3] ^ k1, l0]
        k0, k1 = k0 + 0x9E3779B9 & mask, k1 + 0xBB67AE85 & mask
    return c


def kernel_uniform(n: int, seed: int, stream: int, dtype: torch.dtype, words: int = 1) -> Tensor:
    """(n, words) numbers in [0, 1), of 24 bits each; 0.5 for a negative seed."""
    if seed < 0:
        return torch.full((n, words), 0.5, dtype=dtype)
    bits = torch.stack(philox(seed, torch.arange(n), stream)[:words], 1)
    return (bits >> 8).to(dtype) * 2.0**-24


# march.py -------------------------------------------------------------------------------------------------------------


def unpack_bits(bitfield: Tensor) -> Tensor:
    """(8 * bytes,) bool, low bits first."""
    return (bitfield[:, None] >> torch.arange(8, device=bitfield.device, dtype=torch.uint8) & 1).bool().reshape(-1)


def _clip(rays_o: Tensor, rays_d: Tensor, bound: float, near: float) -> tuple[Tensor, Tensor]:
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
    bound, near, step = (torch.tensor(v, dtype=dtype, device=device) for v in (bound, near, step))
    enter, leave = _clip(rays_o, rays_d, bound, near)
    longest = (leave - enter)[(leave > enter) & leave.isfinite()].amax() if (leave > enter).any() else step
    k = torch.arange(int(longest / step) + 2, dtype=dtype, device=device)
    t = enter[:, None] + (k + kernel_uniform(rays, seed, int(stream), dtype).to(device)) * step
    x = rays_o[:, None] + t[..., None] * rays_d[:, None]
    u = (x + bound) * (resolution / (bound + bound))
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


# occupancy.py ---------------------------------------------------------------------------------------------------------


def pack_bits(occupied: Tensor) -> Tensor:
    """Inverse of `unpack_bits`."""
    return (occupied.view(-1, 8) * 2 ** torch.arange(8, device=occupied.device)).sum(1).to(torch.uint8)


def occupancy_update(
    grid: Tensor, bitfield: Tensor, cells: Tensor, sigma: Tensor, *, decay: float, threshold: float
) -> None:
    """Scatter-max, mean in float64, threshold, floor."""
    grid.mul_(decay)
    grid[~(grid.isfinite() & (grid > 0))] = 0
    inside = (cells >= 0) & (cells < grid.shape[0])
    cells, sigma = cells[inside], sigma[inside]
    finite = sigma.isfinite()
    grid.scatter_reduce_(0, cells[finite], sigma[finite], "amax")
    occupied = grid.double() > min(float(grid.double().mean()), float(grid.new_tensor(threshold)))
    occupied[cells[~finite]] = True
    if int(occupied.sum()) * 4096 < grid.shape[0]:
        occupied[:] = True
    bitfield.copy_(pack_bits(occupied))


def cell_points(cells: Tensor, resolution: int, bound: float, seed: int, stream: int) -> Tensor:
    corner = torch.stack([cells // resolution**2, cells // resolution % resolution, cells % resolution], 1).float()
    size = torch.tensor(2 * bound, dtype=torch.float32) / resolution
    return size * (corner + kernel_uniform(len(cells), seed, stream, torch.float32, 3).to(cells.device)) - bound


# shade.py -------------------------------------------------------------------------------------------------------------


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
    v = view.to(h.dtype)[(ray_id.long() // rays_per_view).clamp(0, view.shape[0] - 1)]
    sigma = h.clamp(max=15).exp() if density == "exp" else torch.nn.functional.softplus(h, threshold=1e9)
    normal = -grad_h / (grad_h.square().sum(1, keepdim=True) + eps**2).sqrt()
    to_light = v[:, :3] - x
    light = to_light / to_light.square().sum(1, keepdim=True).clamp(min=1e-20).sqrt()
    shading = v[:, 3:4] + v[:, 4:5] * (normal * light).sum(1, keepdim=True).relu()
    rgb = torch.where(v[:, 5:6] != 0, 1.0, rgb_raw.sigmoid()) * shading
    return zero_rows(sigma, count), zero_rows(rgb, count), zero_rows(normal, count)


# composite.py ---------------------------------------------------------------------------------------------------------


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
    """Ray by ray, the weights spelled out."""
    last = sigma.shape[0] if count is None else min(int(count), sigma.shape[0])
    rays = []
    for r, (begin, end) in enumerate(pairwise(offsets.tolist())):
        rows = slice(begin, min(end, last))
        clear = torch.exp(-sigma[rows] * step)
        after = clear.cumprod(0)
        before = torch.cat([after.new_ones(1), after])[: len(after)]
        w = torch.where(before.detach() >= 1e-4, before * (1 - clear), 0.0)
        away = (normal[rows] * rays_d[r]).sum(1).relu().square()
        sums = (w[:, None] * rgb[rows]).sum(0), w.sum(), (w * t[rows]).sum(), (w[:, None] * normal[rows]).sum(0)
        rays.append((*sums, (w.detach() * away).sum()))
    if not rays:
        return Composited(rgb[:0], sigma[:0], sigma[:0], normal[:0], sigma[:0])
    return Composited(*(torch.stack(column) for column in zip(*rays, strict=True)))


# adam.py --------------------------------------------------------------------------------------------------------------


def adam_step(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    nonfinite: Tensor,
    *,
    beta1: float,
    beta2: float,
    eps: float,
    lr: float = 0.0,
    step: int = 1,
    weight_decay: float = 0.0,
    factors: Tensor | None = None,
) -> None:
    if factors is None:
        factors = param.new_tensor([lr / (1 - beta1**step), 1 / (1 - beta2**step) ** 0.5])
    step_size, inverse_root = factors
    g = grad + weight_decay * param
    m, v = beta1 * exp_avg + (1 - beta1) * g, beta2 * exp_avg_sq + (1 - beta2) * g * g
    after = param - step_size * m / (v.sqrt() * inverse_root + eps)
    ok = after.isfinite() & m.isfinite() & v.isfinite() & (exp_avg_sq >= 0)
    ok &= factors.isfinite().all() & (step_size >= 0) & (inverse_root > 0)
    for target, value in ((param, after), (exp_avg, m), (exp_avg_sq, v)):
        target.copy_(torch.where(ok, value, target))
    nonfinite += (~ok).sum()
    grad.zero_()
