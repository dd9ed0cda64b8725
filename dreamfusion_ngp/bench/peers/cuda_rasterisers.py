"""Rasterisers that need a CUDA device, on the mesh of bench.mesh_cases: nvdiffrast, whose licence forbids commercial
use, and DRTK. Whoever has them installed can compare; nothing else here uses them.

Calls follow the public interfaces of nvdiffrast.torch 0.3 and of DRTK (facebookresearch/DRTK at 36eb2e8).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..cases import LeftOut, Peer
from ..mesh_cases import GRAY, Ball


def leaves(ball: Ball) -> list[Tensor]:
    """Positions and colours to be differentiated, triangles, and weights, on the ball's device, in float32."""
    position, colors = (v.to(ball.device, torch.float32).requires_grad_() for v in (ball.position, ball.colors))
    return [position, colors, ball.faces.to(ball.device), ball.weights.to(ball.device, torch.float32)]


def nvdiffrast_raster(ball: Ball) -> Peer:
    """nvdiffrast's CUDA rasteriser (Laine et al. 2020), which has no culling and draws rows from the bottom up. Its
    antialiasing changes the picture, so its gradients of positions are others."""
    import nvdiffrast.torch as dr  # pyright: ignore[reportMissingImports]

    context, size = dr.RasterizeCudaContext(device=ball.device), [ball.resolution] * 2
    position, colors, faces, weights = leaves(ball)
    weights = weights.flip(1)

    def step() -> tuple[Tensor, ...]:
        seen, _ = dr.rasterize(context, position, faces, resolution=size)
        picture, _ = dr.interpolate(colors - GRAY, seen, faces)  # 0 where nothing is, so over gray
        picture = dr.antialias(picture + GRAY, seen, position, faces)
        return torch.autograd.grad(picture, (position, colors), weights)

    return Peer(step, note="float32, no culling, its own antialiasing")


def drtk_raster(ball: Ball) -> Peer:
    """DRTK (Pidhorskyi et al. 2024): projection to pixels by torch, as its users have it, and channels first."""
    import drtk  # pyright: ignore[reportMissingImports]

    if not hasattr(drtk, "edge_grad_estimator"):
        raise LeftOut("the package drtk here is not facebookresearch/DRTK, which is built from its repository")
    position, colors, faces, weights = leaves(ball)
    weights = weights.permute(0, 3, 1, 2).contiguous()
    size, views = ball.resolution, len(position)

    def step() -> tuple[Tensor, ...]:
        x, y, _, w = position.unbind(-1)
        pixels = torch.stack([(x / w + 1) * (size / 2) - 0.5, (1 - y / w) * (size / 2) - 0.5, w], -1)
        index = drtk.rasterize(pixels, faces, height=size, width=size)
        _, barycentric = drtk.render(pixels, faces, index)
        picture = drtk.interpolate(colors.expand(views, -1, -1), faces, index, barycentric)
        picture = torch.where(index[:, None] >= 0, picture, GRAY)
        picture = drtk.edge_grad_estimator(pixels, faces, barycentric, picture, index)
        return torch.autograd.grad(picture, (position, colors), weights)

    return Peer(step, note="float32, no culling")
