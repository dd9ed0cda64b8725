"""Rendering of surfaces: rasterising, shading, antialiasing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops.antialias import antialias
from ..ops.interpolate import interpolate
from ..ops.rasterise import rasterise
from ..scene.cameras import Cameras, clip_matrices
from ..scene.surface import Surface, is_behind, vertex_normals

NEAREST = 0.02  # near plane: world units from the camera


@dataclass(frozen=True)
class MeshRendering:
    """B square views of H x W pixels.

    rgb: (B, H, W, 3) over the background.  opacity, depth: (B, H, W), depth along the optical axis in world units, 0
    where nothing is. normal: (B, H, W, 3), unit normals times opacity. vertices (V, 3), faces (F, 3) and vertex_normal
    (V, 3): of the surface.
    """

    rgb: Tensor
    opacity: Tensor
    depth: Tensor
    normal: Tensor
    vertices: Tensor
    faces: Tensor
    vertex_normal: Tensor


def lambert(albedo: Tensor, normal: Tensor, x: Tensor, rows: Tensor) -> Tensor:
    """(N, 3) colours of surface points x (N, 3) for rows (N, 6) of shading: light x, y, z in world units, ambient,
    diffuse, textureless (0 or 1: white instead of albedo). The same as ops.shade for samples of a volume."""
    light = torch.nn.functional.normalize(rows[:, :3] - x, dim=-1)
    color = torch.where(rows[:, 5:] > 0.5, 1.0, albedo)
    return color * (rows[:, 3:4] + rows[:, 4:5] * (normal * light).sum(-1, keepdim=True).clamp(min=0))


def render_mesh(
    surface: Surface,
    cameras: Cameras,
    shading: Tensor,
    background: Tensor,
    *,
    resolution: int,
    samples: int = 1,
    far: float = 100.0,
    show: str = "color",
) -> MeshRendering:
    """Render `surface` from `cameras`, on its device, with one row of `shading` (B, 6) and one colour of `background`
    (B, 3) for each.

    resolution: pixels a side. samples: along each side of a pixel, each one rasterised and shaded. far: far plane,
    world units. show: what `rgb` is, the lit "color", or the "normal" as (n + 1) / 2, x to the right, y up and z
    towards the camera. Differentiable with respect to the surface: colours, shading, silhouettes and occlusions.
    """
    vertices, faces = surface()
    device = vertices.device
    cameras, shading, background = cameras.to(device), shading.to(device), background.to(device)
    size = resolution * samples
    homogeneous = torch.cat([vertices, torch.ones_like(vertices[:, :1])], 1)
    matrices = clip_matrices(cameras, NEAREST, far)
    position = (matrices[:, None] * homogeneous[None, :, None]).sum(-1)  # no matrix product, which may use TF32
    fragments = rasterise(position, faces, (size, size))
    vertex_normal = vertex_normals(vertices, faces)
    attributes = torch.cat([vertices, vertex_normal], 1)[None]
    seen = (fragments.face.flatten() >= 0).nonzero()[:, 0]  # pixels; a boolean mask would take several times as long
    view = seen // size**2
    at = interpolate(attributes, faces, fragments).flatten(0, 2).index_select(0, seen)
    x, normal = at[:, :3], torch.nn.functional.normalize(at[:, 3:], dim=-1)
    face = fragments.face.flatten()[seen]
    if surface.two_sided:
        behind = is_behind(normal, vertices[faces[face.long()].long()], cameras.position[view] - x)
        normal = torch.where(behind[:, None], -normal, normal)
    if show == "normal":
        color = 0.5 + 0.5 * (normal[:, :, None] * cameras.c2w[view, :, :3]).sum(1)
    else:
        barycentric = fragments.barycentric.flatten(0, 2).index_select(0, seen)
        albedo, normal = surface.look(x, face, barycentric, normal)
        color = lambert(albedo, normal, x, shading[view])
    depth = -((x - cameras.position[view]) * cameras.c2w[view, :, 2]).sum(-1, keepdim=True)
    image = torch.cat([background, background.new_zeros(len(background), 5)], 1).repeat_interleave(size**2, 0)
    pixels = torch.cat([color, torch.ones_like(depth), depth, normal], 1)
    image = image.index_copy(0, seen, pixels).view(*fragments.face.shape, 8)
    out = antialias(image, position, faces, fragments, samples=samples)
    return MeshRendering(out[..., :3], out[..., 3], out[..., 4], out[..., 5:], vertices, faces, vertex_normal)
