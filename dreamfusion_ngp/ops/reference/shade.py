"""Shading."""

from __future__ import annotations

import torch
from torch import Tensor

from ..rows import zero_rows


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
