"""Colours from painted views: the surface points they cover, agreement between views, colours of unseen points from
their neighbours, and the loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from ..base.slots import sent
from ..render.sides import Sides, sample_view
from ..scene.painted_surface import PaintedSurface
from ..scene.solid import sample_triangles

FEW = 64  # points that two views share, below which their colours are not compared
STIFF = 1e-6  # ridge, relative to the weights: keeps an offset without constraints small
SPREAD = 1 << 14  # points sampled on the whole surface; those that no view sees are filled
SOURCES = 1 << 14  # visible points that are searched for neighbours, at most
NEIGHBOURS = 8
HEARSAY = 0.05  # weight of a filled point, relative to the mean weight of visible ones
CHUNK = 1 << 10  # points per neighbour search


@dataclass(frozen=True)
class Points:
    """N points of a surface: x (N, 3), face (N,) int32, barycentric (N, 3), the color (N, 3) they should have, and a
    weight (N,)."""

    x: Tensor
    face: Tensor
    barycentric: Tensor
    color: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: Tensor) -> Points:
        return Points(*(getattr(self, each.name)[rows] for each in fields(self)))


@torch.no_grad()
def kept_share(surface: PaintedSurface, sides: Sides) -> Tensor:
    """(B, H, H) in [0, 1]: how much of the present texture is kept."""
    share = torch.zeros_like(sides.depth)
    face = sides.face[sides.seen].long()
    number, uv = surface.place(face, sides.barycentric[sides.seen])
    share[sides.seen] = surface.texels(number, uv)[1]
    return share


def gaps(views: Tensor, sides: Sides, weight: Tensor, i: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """For painted views (B, H, H, 3) but the `i`th, at the pixels where that has a weight above 0: which it is, the
    product of both weights at that point (N,), 0 where it does not see it, and by how much its colour exceeds the
    `i`th's (N, 3). weight: (B, H, H)."""
    here = weight[i] > 0
    for j in range(len(views)):
        if i != j:
            other, same = sample_view(sides, j, torch.cat([views[j], weight[j][..., None]], -1), sides.x[i][here])
            yield j, weight[i][here] * other[:, 3] * same, other[:, :3] - views[i][here]


@torch.no_grad()
def match_colors(views: Tensor, sides: Sides, weight: Tensor, original: Tensor, kept: Tensor) -> Tensor:
    """Painted views (B, H, H, 3), each plus a constant per channel, by least squares: points that two views see get the
    same colour in both, points that are kept get that of the original views. weight, kept: (B, H, H)."""
    count = len(views)
    matrix, rhs = torch.zeros(count, count, dtype=torch.float64), torch.zeros(count, 3, dtype=torch.float64)
    for i in range(count):
        for j, both, gap in gaps(views, sides, weight, i):
            if int((both > 0).sum()) >= FEW:
                both = both.double()
                add(matrix, rhs, i, j, both.sum().cpu(), (both[:, None] * gap).sum(0).cpu())
        stays = (weight[i] * kept[i]).double()
        matrix[i, i] += stays.sum().cpu()
        rhs[i] += (stays[..., None] * (original[i] - views[i])).sum((0, 1)).cpu()
    ridge = STIFF * matrix.diagonal().sum() / max(count, 1) + 1e-9
    offset = torch.linalg.solve(matrix + ridge * torch.eye(count, dtype=torch.float64), rhs)
    return (views + offset.to(views)[:, None, None]).clamp(0, 1)


def add(matrix: Tensor, rhs: Tensor, i: int, j: int, weight: Tensor, difference: Tensor) -> None:
    """The normal equations of weight (offset_i - offset_j - d)^2, the sum of weight d being `difference` (3,)."""
    matrix[i, i] += weight
    matrix[j, j] += weight
    matrix[i, j] -= weight
    matrix[j, i] -= weight
    rhs[i] += difference
    rhs[j] -= difference


@torch.no_grad()
def points_of(views: Tensor, sides: Sides, weight: Tensor) -> Points:
    """The surface points behind the pixels of views (B, H, H, 3) with a weight above 0."""
    there = weight > 0
    picked = (values[there] for values in (sides.x, sides.face, sides.barycentric, views, weight))
    return Points(*picked)


@torch.no_grad()
def fill_unseen(surface: PaintedSurface, sides: Sides, weight: Tensor, visible: Points, seed: int) -> Points:
    """Points that no view sees, or none sees well, in the mean colours of their nearest neighbours in space among
    `visible`, which must not be empty; no points where the texture is kept. weight: (B, H, H)."""
    vertices, faces = surface()
    device = vertices.device
    samples = sample_triangles(vertices.detach().cpu().numpy(), faces.cpu().numpy(), SPREAD, seed)
    x, barycentric = (sent(values, device, torch.float32) for values in (samples.position, samples.barycentric))
    face = sent(samples.face, device, torch.int32)
    unseen = torch.ones(len(x), dtype=torch.bool, device=device)
    for view in range(len(weight)):
        share, same = sample_view(sides, view, weight[view][..., None], x)
        unseen &= (share[:, 0] * same) <= 0
    unseen &= (kept := surface.texels(*surface.place(face.long(), barycentric))[1]) < 1
    x, counts = x[unseen], HEARSAY * visible.weight.mean() * (1 - kept[unseen])
    every = torch.arange(0, len(visible), -(-len(visible) // SOURCES), device=device)
    return Points(x, face[unseen], barycentric[unseen], neighbour_colors(x, visible[every]), counts)


def neighbour_colors(x: Tensor, sources: Points) -> Tensor:
    """(N, 3) colours at points x (N, 3): the mean of the nearest `sources`, by weight and inverse square distance."""
    colors = [x.new_zeros(0, 3)]
    for part in x.split(CHUNK):
        near, which = torch.cdist(part, sources.x).topk(min(NEIGHBOURS, len(sources)), largest=False)
        share = sources.weight[which] / (near.square() + 1e-8)
        colors.append((share[..., None] * sources.color[which]).sum(1) / share.sum(1, keepdim=True))
    return torch.cat(colors)


def join(*parts: Points) -> Points:
    return Points(*(torch.cat([getattr(part, each.name) for part in parts]) for each in fields(Points)))


def views_loss(surface: PaintedSurface, points: Points, batch: int, random: np.random.Generator) -> Tensor:
    """Mean over channels of the weighted mean square difference of the surface's colours from those of `batch` of the
    points, of which there must be some, drawn with repeats."""
    some = points[sent(random.integers(len(points), size=batch), points.x.device)]
    color = surface.paint(some.x, some.face, some.barycentric)
    square = (some.weight[:, None] * (color - some.color).square()).sum(0).mean()
    return square / some.weight.sum()
