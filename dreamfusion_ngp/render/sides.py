"""The sides of a surface for painting: which surface point is in every pixel, and how well it is visible."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from ..config.schema import CameraConfig
from ..ops.rasterise import rasterise
from ..scene.cameras import Cameras, clip_matrices, orbit
from ..scene.surface import is_behind, vertex_normals
from .mesh import NEAREST

FAR = 100.0  # world units
AROUND = ((0, 0), (90, 0), (180, 0), (270, 0))  # azimuth and elevation, degrees: front, left (the object's own), back,
POLES = ((0, 90), (0, -90))  # right; and top and bottom
CLOSE = 0.01  # world units: a point this near to the visible surface counts as visible


@dataclass(frozen=True)
class Sides:
    """Views of H x H pixels, sampled at the pixel centres.

    cameras: B of them. seen: (B, H, H) bool, whether there is a surface. face: (B, H, H) int32, -1 where nothing is.
    barycentric, x, normal: (B, H, H, 3), positions on the triangles, points in world units, unit normals. depth: (B, H,
    H) along the optical axis, world units. cosine: (B, H, H), between the normal and the direction to the camera. All
    others are 0 where nothing is.
    """

    cameras: Cameras
    seen: Tensor
    face: Tensor
    barycentric: Tensor
    x: Tensor
    normal: Tensor
    depth: Tensor
    cosine: Tensor

    def __getitem__(self, part: slice) -> Sides:
        return Sides(*(getattr(self, each.name)[part] for each in fields(self)))


def side_cameras(config: CameraConfig, count: int) -> Cameras:
    """Four cameras around the scene, or six with those above and below, at the mean of the config's focal lengths and
    distances."""
    focal, distance = float(np.mean(config.focal)), float(np.mean(config.distance))
    azimuth, elevation = zip(*(AROUND + POLES)[:count], strict=True)
    return orbit(azimuth, elevation, distance * (focal if config.distance_per_focal else 1.0), focal)


@torch.no_grad()
def rasterise_sides(
    vertices: Tensor, faces: Tensor, cameras: Cameras, resolution: int, *, two_sided: bool = False
) -> Sides:
    """Rasterise a surface, vertices (V, 3) float32 and faces (F, 3) int32, from `cameras`, on the surface's device.
    two_sided: see `Surface`."""
    cameras = cameras.to(vertices.device)
    fragments = rasterise(clip(vertices, cameras), faces, (resolution, resolution))
    seen = fragments.face >= 0
    corners = faces[fragments.face.clamp(min=0).long()].long()
    weight = fragments.barycentric[..., None] * seen[..., None, None]
    x = (vertices[corners] * weight).sum(3)
    normal = torch.nn.functional.normalize((vertex_normals(vertices, faces)[corners] * weight).sum(3), dim=-1)
    toward = cameras.position[:, None, None] - x
    depth = (toward * cameras.c2w[:, None, None, :, 2]).sum(-1)
    if two_sided:
        behind = is_behind(*(v.flatten(0, 2) for v in (normal, vertices[corners], toward))).view(seen.shape)
        normal = torch.where(behind[..., None], -normal, normal)
    cosine = (normal * torch.nn.functional.normalize(toward, dim=-1)).sum(-1)
    return Sides(cameras, seen, fragments.face, weight[..., 0], x, normal, torch.where(seen, depth, 0.0), cosine * seen)


def clip(points: Tensor, cameras: Cameras) -> Tensor:
    """(B, N, 4) of points (N, 3) in the clip space of B cameras."""
    homogeneous = torch.cat([points, torch.ones_like(points[:, :1])], 1)
    matrices = clip_matrices(cameras, NEAREST, FAR)
    return (matrices[:, None] * homogeneous[None, :, None]).sum(-1)  # no matrix product, which may use TF32


@torch.no_grad()
def view_weights(sides: Sides, cosine: float, power: float, rim: int) -> Tensor:
    """(B, H, H) in [0, 1], the weight of a view's pixels: the cosine to the `power`; 0 where it is below `cosine`, and
    within `rim` pixels of a silhouette or a depth discontinuity, where colours bleed."""
    weight = sides.cosine.clamp(min=0) ** power * (sides.cosine >= max(cosine, 1e-3))
    if not rim:
        return weight * sides.seen
    depth = torch.where(sides.seen, sides.depth, FAR)[:, None]
    window, stride, padding = 2 * rim + 1, 1, rim
    farthest = torch.nn.functional.max_pool2d(depth, window, stride, padding)[:, 0]
    nearest = -torch.nn.functional.max_pool2d(-depth, window, stride, padding)[:, 0]
    allowed = CLOSE + 2 * across(sides, rim) * slant(sides)  # the depth range of a continuous surface
    even = (farthest - sides.depth < allowed) & (sides.depth - nearest < allowed)
    return weight * (sides.seen & even)


@torch.no_grad()
def sample_view(sides: Sides, view: int, values: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Sample one of the views at points x (N, 3) of the surface, by the nearest pixel: (N, C) of `values` (H, H, C),
    and (N,) bool, whether the point is visible in the view."""
    one = sides[view : view + 1]
    at = clip(x, one.cameras)[0]
    grid = (at[:, :2] / at[:, 3:]) * at.new_tensor([1.0, -1.0])
    allowed = CLOSE + across(one, 1)[0] * slant(one)[0]  # the point is not exactly at the pixel's centre
    layers = torch.cat([values, one.depth[0][..., None], allowed[..., None]], -1).permute(2, 0, 1)[None]
    pixel = torch.nn.functional.grid_sample(layers, grid[None, None], mode="nearest", align_corners=False)
    pixel = pixel[0, :, 0].T
    depth = ((one.cameras.position - x) * one.cameras.c2w[0, :, 2]).sum(-1)
    inside = (grid.abs() <= 1).all(-1)
    same = inside & ((pixel[:, -2] - depth).abs() < pixel[:, -1]) & (pixel[:, -2] > 0)
    return pixel[:, :-2], same


def across(sides: Sides, pixels: int) -> Tensor:
    """(B, H, H) width of so many pixels at the depth of the surface, world units."""
    return pixels * sides.depth / (sides.depth.shape[-1] * sides.cameras.focal[:, None, None])


def slant(sides: Sides) -> Tensor:
    """(B, H, H): slope of the depth, its change per unit sideways, bounded where the surface is nearly edge-on."""
    cosine = sides.cosine.clamp(min=0.1)
    return (1 - cosine**2).clamp(min=0).sqrt() / cosine
