"""Colours from painted views: of which points of a surface they speak, how they are made to agree, what those that no
view sees take from their neighbours, and the loss."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from ..base.slots import sent
from ..render.sides import Sides, look_up
from ..scene.painted_surface import PaintedSurface
from ..scene.solid import sample_triangles

FEW = 64  # points that two views share, below which their colours are not compared
STIFF = 1e-6  # of the weights: an offset that nothing speaks of stays small
SPREAD = 1 << 14  # points of the whole surface, of which those that no view sees are filled
SOURCES = 1 << 14  # points that the views see, at most, among which neighbours are sought
NEIGHBOURS = 8
HEARSAY = 0.05  # weight of a filled point, of the mean of those that are seen
CHUNK = 1 << 10  # points whose neighbours are sought at a time


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
    """(B, H, H) in [0, 1]: how much of the texture that is there stays."""
    found = torch.zeros_like(sides.depth)
    face = sides.face[sides.seen].long()
    number, uv = surface.place(face, sides.barycentric[sides.seen])
    found[sides.seen] = surface.texels(number, uv)[1]
    return found


@torch.no_grad()
def matched(views: Tensor, sides: Sides, weight: Tensor, original: Tensor, kept: Tensor) -> Tensor:
    """Painted views (B, H, H, 3) with a constant added to each channel of each, such that points that two of them see
    have the same colours in both, and points that stay those of the original views, in the mean of squares. weight,
    kept: (B, H, H)."""
    count = len(views)
    square, wanted = torch.zeros(count, count, dtype=torch.float64), torch.zeros(count, 3, dtype=torch.float64)
    for i in range(count):
        here = weight[i] > 0
        for j in range(count):
            if i == j:
                continue
            found, same = look_up(sides, j, torch.cat([views[j], weight[j][..., None]], -1), sides.x[i][here])
            both = (weight[i][here] * found[:, 3] * same).double()
            if int((both > 0).sum()) >= FEW:
                difference = both[:, None] * (found[:, :3] - views[i][here])
                add(square, wanted, i, j, both.sum().cpu(), difference.sum(0).cpu())
        stays = (weight[i] * kept[i]).double()
        square[i, i] += stays.sum().cpu()
        wanted[i] += (stays[..., None] * (original[i] - views[i])).sum((0, 1)).cpu()
    ridge = STIFF * square.diagonal().sum() / max(count, 1) + 1e-9
    offset = torch.linalg.solve(square + ridge * torch.eye(count, dtype=torch.float64), wanted)
    return (views + offset.to(views)[:, None, None]).clamp(0, 1)


def add(square: Tensor, wanted: Tensor, i: int, j: int, weight: Tensor, difference: Tensor) -> None:
    """The normal equations of weight (offset_i - offset_j - d)^2, the sum of weight d being `difference` (3,)."""
    square[i, i] += weight
    square[j, j] += weight
    square[i, j] -= weight
    square[j, i] -= weight
    wanted[i] += difference
    wanted[j] -= difference


@torch.no_grad()
def points_of(views: Tensor, sides: Sides, weight: Tensor) -> Points:
    """The points that views (B, H, H, 3) speak of."""
    there = weight > 0
    picked = (values[there] for values in (sides.x, sides.face, sides.barycentric, views, weight))
    return Points(*picked)


@torch.no_grad()
def filled(surface: PaintedSurface, sides: Sides, weight: Tensor, seen: Points, seed: int) -> Points:
    """Points that no view sees, or none sees well, in the mean colours of their nearest neighbours in space among those
    that are `seen`, of which there must be some. None where the texture stays. weight: (B, H, H)."""
    vertices, faces = surface()
    device = vertices.device
    found = sample_triangles(vertices.detach().cpu().numpy(), faces.cpu().numpy(), SPREAD, seed)
    x, barycentric = (sent(values, device, torch.float32) for values in (found.position, found.barycentric))
    face = sent(found.face, device, torch.int32)
    unseen = torch.ones(len(x), dtype=torch.bool, device=device)
    for view in range(len(weight)):
        share, same = look_up(sides, view, weight[view][..., None], x)
        unseen &= (share[:, 0] * same) <= 0
    unseen &= (kept := surface.texels(*surface.place(face.long(), barycentric))[1]) < 1
    x, counts = x[unseen], HEARSAY * seen.weight.mean() * (1 - kept[unseen])
    every = torch.arange(0, len(seen), -(-len(seen) // SOURCES), device=device)
    return Points(x, face[unseen], barycentric[unseen], from_neighbours(x, seen[every]), counts)


def from_neighbours(x: Tensor, seen: Points) -> Tensor:
    """(N, 3) colours at points x (N, 3): the mean of the nearest of `seen`, by weight and inverse square distance."""
    colors = [x.new_zeros(0, 3)]
    for part in x.split(CHUNK):
        near, which = torch.cdist(part, seen.x).topk(min(NEIGHBOURS, len(seen)), largest=False)
        share = seen.weight[which] / (near.square() + 1e-8)
        colors.append((share[..., None] * seen.color[which]).sum(1) / share.sum(1, keepdim=True))
    return torch.cat(colors)


def joined(*parts: Points) -> Points:
    return Points(*(torch.cat([getattr(part, each.name) for part in parts]) for each in fields(Points)))


def views_loss(surface: PaintedSurface, points: Points, batch: int, random: np.random.Generator) -> Tensor:
    """Mean over channels of the weighted mean square difference of the surface's colours from those of `batch` of the
    points, of which there must be some, drawn with repeats."""
    some = points[sent(random.integers(len(points), size=batch), points.x.device)]
    found = surface.paint(some.x, some.face, some.barycentric)
    square = (some.weight[:, None] * (found - some.color).square()).sum(0).mean()
    return square / some.weight.sum()
