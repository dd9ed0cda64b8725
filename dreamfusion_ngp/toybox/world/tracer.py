"""Pictures of toys: a batched sphere tracer that writes G-buffers, and deferred shading with the paper's point light.

Tracing is slow and shading is cheap, so training keeps G-buffers and shades each of them many times with new colours,
lights and backgrounds.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from ...scene.cameras import Cameras, camera_rays
from .shapes import MAIN, SHADE, SLOT_COLORS, distance, distance_and_slot

EXTENT = 0.69  # world units: toys lie within a sphere of this radius, stretched proportions included
MAX_STEPS = 64
SURFACE = 0.05  # pixel footprints: a ray this close has hit the surface
EDGE = 0.2  # pixel footprints inside and outside a silhouette, between which coverage falls from 1 to 0
POSITION_SCALE = 127 / EXTENT


@dataclass(frozen=True)
class GBuffer:
    """Surface of B views, quantised to 8 bytes a pixel.

    position: (B, H, W, 3) int8, world units times POSITION_SCALE.  normal: (B, H, W, 3) int8, unit normal times 127.
    slot: (B, H, W) uint8, part colour.  alpha: (B, H, W) uint8, coverage times 255.
    """

    position: torch.Tensor
    normal: torch.Tensor
    slot: torch.Tensor
    alpha: torch.Tensor

    def __getitem__(self, index) -> GBuffer:
        return GBuffer(*(getattr(self, f.name)[index] for f in fields(self)))

    @staticmethod
    def cat(buffers: list[GBuffer]) -> GBuffer:
        return GBuffer(*(torch.cat([getattr(b, f.name) for b in buffers]) for f in fields(GBuffer)))


@torch.no_grad()
def trace(name, u: torch.Tensor, cameras: Cameras, resolution: int = 64) -> GBuffer:
    """G-buffers of the toy `name` (a class or a function, see `shapes.parts`) with proportions u (B, PARAMETERS), one
    view per camera.

    A pixel's coverage is a function of the least distance along its ray, in units of the pixel's footprint, which
    anti-aliases silhouettes without extra rays. The edge is as wide inside as outside, so that areas are right on
    average, and less than a pixel wide, so that it is invisible where parts overlap by little.
    """
    batch = len(cameras)
    origin, direction = camera_rays(cameras, resolution)
    footprint = (1.0 / (resolution * cameras.focal)).repeat_interleave(resolution * resolution)
    rays, t, t_far = _enter_sphere(origin, direction)
    instance = rays // (resolution * resolution)
    least, t_best = _march(name, u[instance], origin[rays], direction[rays], footprint[rays], t, t_far)
    coverage = ((EDGE - least) / (2 * EDGE)).clamp(0.0, 1.0)
    hits = coverage.gt(0).nonzero()[:, 0]
    ray = rays[hits]
    point = origin[ray] + direction[ray] * t_best[hits, None]
    normal, slot = _surface(name, u[instance[hits]], point)

    def image(values, channels=()):
        out = torch.zeros(batch * resolution * resolution, *channels, dtype=values.dtype, device=values.device)
        out[ray] = values
        return out.reshape(batch, resolution, resolution, *channels)

    return GBuffer(
        image((point * POSITION_SCALE).round().clamp(-127, 127).to(torch.int8), (3,)),
        image((normal * 127).round().to(torch.int8), (3,)),
        image(slot),
        image((coverage[hits] * 255).round().to(torch.uint8)),
    )


def _enter_sphere(origin, direction):
    """Rays that hit the sphere around the toy: their indices, entry and exit distances."""
    b = (origin * direction).sum(-1)
    discriminant = b * b - ((origin * origin).sum(-1) - EXTENT * EXTENT)
    rays = discriminant.gt(1e-6).nonzero()[:, 0]
    root = discriminant[rays].sqrt()
    return rays, (-b[rays] - root).clamp(min=0.05), -b[rays] + root


def _march(name, u, origin, direction, footprint, t, t_far):
    """Least distance of every ray in pixel footprints, down to -EDGE, and the ray parameter at which it hit the surface
    or came closest to it.

    Marches towards the surface EDGE pixels below the toy's. Rays that hit or leave the sphere drop out of the batch.
    """
    best = torch.full_like(t, 1e3)
    t_best = t.clone()
    active = torch.arange(len(t), device=t.device)
    for step in range(MAX_STEPS):
        p = origin + direction * t[:, None]
        pixel = footprint * t
        d = distance(name, (p[:, :1], p[:, 1:2], p[:, 2:]), u)[:, 0]
        relative, before = d / pixel, best[active]
        t_best[active] = torch.where((relative < before) & (before > SURFACE), t, t_best[active])
        best[active] = torch.minimum(relative, before)
        t = t + (d + (EDGE + SURFACE) * pixel) * 0.95
        if step % 2 or step < 4:
            keep = ((relative > -EDGE) & (t < t_far)).nonzero()[:, 0]
            if not len(keep):
                break
            active, t, t_far, footprint = active[keep], t[keep], t_far[keep], footprint[keep]
            origin, direction, u = origin[keep], direction[keep], u[keep]
    return best, t_best


def _surface(name, u, point):
    """Unit normal (central differences of the distance) and slot of surface points (N, 3)."""
    h = 2e-3
    axes = [point[:, i : i + 1] for i in range(3)]

    def at(axis, offset):
        return distance(name, tuple(a + offset if i == axis else a for i, a in enumerate(axes)), u)[:, 0]

    gradient = torch.stack([at(i, h) - at(i, -h) for i in range(3)], -1)
    _, slot = distance_and_slot(name, tuple(axes), u)
    return torch.nn.functional.normalize(gradient, dim=-1), slot[:, 0]


def part_colors(main: torch.Tensor) -> torch.Tensor:
    """(B, slots, 3) canonical colours of the parts for a main colour (B, 3)."""
    colors = SLOT_COLORS.to(main).repeat(len(main), 1, 1)
    colors[:, MAIN], colors[:, SHADE] = main, main * 0.6
    return colors


def shade(buffer: GBuffer, colors: torch.Tensor, view: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
    """(B, H, W, 3) float32 images in [0, 1].

    colors: (B, slots, 3). view: (B, 6) rows of `lights.shading_rows` (point light, ambient, diffuse, textureless).
    background: broadcastable to (B, H, W, 3). colour = albedo * (ambient + diffuse * max(0, n.l)), the paper's
    equation.
    """
    batch, height, width = buffer.slot.shape
    slots = buffer.slot.reshape(batch, -1, 1).long().expand(-1, -1, 3)
    albedo = torch.gather(colors, 1, slots).view(batch, height, width, 3)
    row = view[:, None, None, :]
    albedo = torch.where(row[..., 5:] > 0.5, torch.ones_like(albedo), albedo)
    light = torch.nn.functional.normalize(row[..., :3] - buffer.position.float() / POSITION_SCALE, dim=-1)
    # Rounded normals may exceed length 1.
    lambert = (buffer.normal.float() / 127 * light).sum(-1, keepdim=True).clamp(0, 1)
    alpha = buffer.alpha.float()[..., None] / 255
    return albedo * (row[..., 3:4] + row[..., 4:5] * lambert) * alpha + (1 - alpha) * background


def silhouette(buffer: GBuffer) -> torch.Tensor:
    """(B, H, W) bool: pixels at least half covered."""
    return buffer.alpha >= 128
