"""Rasterise, interpolate and antialias: every pixel against every triangle, and edges that move pixel values.

The method differs from the kernels', so it is an independent check. Visibility is the sign of perspective barycentrics
at every pixel, without projection, edge functions, bounds or clipping. The gradient of edges: where two neighbouring
pixels show different triangles, the sides of a projected triangle are intersected with the line between the pixel
centres, the intersection moves by autograd, and half of the pixels' difference times that shift is added to each. No
derivative is written by hand.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..rasterise import Fragments


def pixel_centres(height: int, width: int, like: Tensor) -> Tensor:
    """(H, W, 2) clip-space x, y of the pixel centres, row 0 at the top."""
    x = (torch.arange(width, dtype=like.dtype, device=like.device) + 0.5) * (2 / width) - 1
    y = 1 - (torch.arange(height, dtype=like.dtype, device=like.device) + 0.5) * (2 / height)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def plane_at(corners: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
    """Perspective barycentrics (..., 3) and depth (...) of the planes of triangles (..., 3, 4) at points (..., 2) of
    the screen: the b with sum 1 for which sum_k b_k (x, y)_k = point sum_k b_k w_k."""
    x, y = (corners[..., axis] - point[..., None, axis] * corners[..., 3] for axis in (0, 1))
    e = x.roll(-1, -1) * y.roll(-2, -1) - x.roll(-2, -1) * y.roll(-1, -1)
    b = e / e.sum(-1, keepdim=True)
    z, w = ((b * corners[..., k]).sum(-1) for k in (2, 3))
    return b, z / w


def rasterise(position: Tensor, faces: Tensor, size: tuple[int, int], *, cull: bool = False) -> Fragments:
    """Which triangle gets a pixel on a shared edge is left to rounding."""
    height, width = size
    point, views = pixel_centres(height, width, position), len(position)
    face = torch.full((views, height, width), -1, dtype=torch.int32, device=position.device)
    best = torch.full((views, height, width), torch.inf, dtype=position.dtype, device=position.device)
    for number, triangle in enumerate(faces.long().tolist()):
        if not all(0 <= v < position.shape[1] for v in triangle):
            continue
        corners = position.detach()[:, None, None, triangle]  # (B, 1, 1, 3, 4)
        b, depth = plane_at(corners, point)
        w = (b * corners[..., 3]).sum(-1)
        x, y = (corners[..., k] - point[..., None, k] * corners[..., 3] for k in (0, 1))
        turn = (x.roll(-1, -1) * y.roll(-2, -1) - x.roll(-2, -1) * y.roll(-1, -1)).sum(-1)
        visible = (b >= 0).all(-1) & (w > 0) & (depth >= -1) & (depth <= 1) & (depth < best)
        if cull:
            visible &= turn > 0
        face[visible], best[visible] = number, depth[visible]
    b, depth = plane_at(corners_of(position, faces, face), point)
    hit = face >= 0
    return Fragments(face, torch.where(hit, depth, 1.0), torch.where(hit[..., None], b, 0.0))


def corners_of(values: Tensor, faces: Tensor, face: Tensor) -> Tensor:
    """(B, H, W, 3, C) of the pixels' vertices, out of (B, V, C); those of triangle 0 where there is none."""
    vertex = faces.long()[face.long().clamp(min=0)]
    return values[torch.arange(len(values), device=values.device)[:, None, None, None], vertex]


def interpolate(attribute: Tensor, faces: Tensor, fragments: Fragments) -> Tensor:
    values = attribute.expand(len(fragments.face), -1, -1)
    mean = (corners_of(values, faces, fragments.face) * fragments.barycentric[..., None]).sum(-2)
    return torch.where((fragments.face >= 0)[..., None], mean, 0.0)


def antialias(image: Tensor, position: Tensor, faces: Tensor, fragments: Fragments, *, samples: int = 1) -> Tensor:
    """If the edge between L and R moves by dx, half of (L - R) dx is added to each of the two pixels. All triangles are
    before the eye."""
    moved = image
    for axis in (2, 1):
        shift, lengths = edge_shift(position, faces, fragments, axis), image.shape[axis] - 1
        left, right = (image.detach().narrow(axis, start, lengths) for start in (0, 1))
        change = 0.5 * (left - right) * shift[..., None]
        none = torch.zeros_like(image.narrow(axis, 0, 1))
        moved = moved + torch.cat([change, none], axis) + torch.cat([none, change], axis)
    views, height, width, channels = image.shape
    cells = moved.reshape(views, height // samples, samples, width // samples, samples, channels)
    return cells.mean((2, 4))


def edge_shift(position: Tensor, faces: Tensor, fragments: Fragments, axis: int) -> Tensor:
    """For all pairs of neighbours along image axis 1 or 2: zero, with the gradient of the position of the edge between
    them, in pixels along the axis."""
    height, width = fragments.face.shape[1:]
    point, length = pixel_centres(height, width, position), fragments.face.shape[axis] - 1
    pixel = (2 / width, 0.0) if axis == 2 else (0.0, -2 / height)
    step = point.new_tensor(pixel)
    left, right = (fragments.face.narrow(axis, start, length) for start in (0, 1))
    here = point.narrow(axis - 1, 0, length)[None]
    corners_l, corners_r = (corners_of(position, faces, face) for face in (left, right))
    inside_l, inside_r = (inside(c.detach(), p) for c, p in ((corners_l, here + step), (corners_r, here)))
    both, two = (inside_l & inside_r), (left >= 0) & (right >= 0)
    jump = jumps(corners_l.detach(), corners_r.detach(), faces, left, right, here, step) * (~inside_l & ~inside_r)
    moves_l = (left >= 0) & ((right < 0) | (two & ~both & (inside_r | (jump < 0))))
    moves_r = (right >= 0) & ((left < 0) | (two & ~both & (inside_l | (jump > 0))))
    scale = step[0 if axis == 2 else 1]
    shift = torch.zeros_like(here[..., 0]).expand(left.shape)
    for moves, corners, centre, offset in ((moves_l, corners_l, here, step), (moves_r, corners_r, here + step, -step)):
        shift = shift + torch.where(moves & (left != right), crossing(corners, centre, offset, axis) / scale, 0.0)
    across = point.new_tensor((0.0, -2 / height) if axis == 2 else (2 / width, 0.0))
    meeting = intersection(corners_l, corners_r, here, step, across)
    return shift + torch.where(both & two & (left != right), meeting, 0.0)


def inside(corners: Tensor, point: Tensor) -> Tensor:
    return (plane_at(corners, point)[0] > 0).all(-1)


def crossing(corners: Tensor, centre: Tensor, step: Tensor, axis: int) -> Tensor:
    """Zero, with the gradient of the screen coordinate where a triangle ends between the pixel `centre` and centre +
    step."""
    screen = corners[..., :2] / corners[..., 3:]
    start, end = screen, screen.roll(-1, -2)
    along, across = (0, 1) if axis == 2 else (1, 0)
    t = ((centre[..., None, across] - start[..., across]) / (end[..., across] - start[..., across])).detach()
    t = torch.where(t.isfinite(), t, -1.0)
    where = (1 - t) * start[..., along] + t * end[..., along]
    way = ((where - centre[..., None, along]) / step[along]).detach()
    hit = (t >= 0) & (t <= 1) & (way >= 0) & (way <= 1)
    first = torch.where(hit, way, 2.0).argmin(-1, keepdim=True)
    where = where.gather(-1, first)[..., 0]
    return where - where.detach()


def intersection(left: Tensor, right: Tensor, here: Tensor, step: Tensor, aside: Tensor) -> Tensor:
    """Zero, with the gradient of the point between `here` and here + step where two triangles have the same depth,
    weighted by along^2 / (along^2 + across^2), the share of this axis; `aside` is the step along the other axis."""

    def difference(point: Tensor) -> Tensor:
        return plane_at(left, point)[1] - plane_at(right, point)[1]

    start = difference(here).detach()
    along, across = (difference(here + way).detach() - start for way in (step, aside))
    meets = along > 1e-14  # else the two are in one plane
    t = torch.where(meets, -start / along, 0.0).clamp(0, 1)
    gap = difference(here + t[..., None] * step)
    return -(gap - gap.detach()) * torch.where(meets, along / (along**2 + across**2), 0.0)


def jumps(
    left: Tensor, right: Tensor, faces: Tensor, face_l: Tensor, face_r: Tensor, here: Tensor, step: Tensor
) -> Tensor:
    """-1 where L hides R, 1 where R hides L: the triangles share no vertex, and the depths differ by more than their
    slopes explain; else 0."""
    vertices = [faces.long()[face.long().clamp(min=0)] for face in (face_l, face_r)]
    apart = ~(vertices[0][..., :, None] == vertices[1][..., None, :]).flatten(-2).any(-1)
    depths = [[plane_at(corners, p)[1] for p in (here, here + step)] for corners in (left, right)]
    slope = torch.stack([(a - b).abs() for a, b in depths]).amax(0)
    gap = depths[1][1] - depths[0][0]
    return torch.where(apart & (gap.abs() > 2 * slope + 1e-6), -gap.sign(), 0.0)
