"""A texture for a mesh: a UV atlas, and colours baked from the field at the texels' points on the surface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..base.errors import ExportError, UsageError
from ..ops.rasterise import rasterise as raster
from ..scene.isolevel import query
from .atlas import AtlasError, make_atlas
from .isosurface import Mesh, vertex_normals

MAX_TEXTURE = 4096
MAX_FACES = 200_000  # xatlas takes minutes for so many, and hours for the million of a run that diverged

# Points of the surface and its normals there, each (N, 3), -> colours (N, 3) in [0, 1].
Color = Callable[[np.ndarray, np.ndarray], np.ndarray]

# A texel's colour is that of a ray along the inward normal: DEPTHS samples STEP apart, the first half a step outside.
# The albedo right at the iso-level has little weight in any rendering, so it is the least trained.
DEPTHS = 4
STEP = 0.01  # world units


@dataclass(frozen=True)
class TexturedMesh:
    """vertices, normals: (W, 3) float32; vertices on chart borders appear once per chart. uv: (W, 2) float32 in [0,
    1], origin at the bottom left of the image. faces: (F, 3) int64. image: (T, T, 3) uint8 sRGB, row 0 at the top."""

    vertices: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    faces: np.ndarray
    image: np.ndarray


def unwrap(mesh: Mesh, texture: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """UV atlas by xatlas: (source vertex of every new vertex (W,), faces (F, 3), uv (W, 2) in [0, 1])."""
    if len(mesh.faces) > MAX_FACES:
        raise ExportError(
            f"the surface has {len(mesh.faces):,} faces, too many to be unwrapped for a texture. Where "
            "few were asked for it is noise, which cannot be simplified: look at the previews, the run "
            "may have diverged. The formats ply and stl need no texture"
        )
    arrays = mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32), vertex_normals(mesh).astype(np.float32)
    try:
        source, faces, uv, count = make_atlas(*arrays, texture)
    except AtlasError as error:
        raise ExportError(
            f"no UV atlas for {len(mesh.faces):,} faces: {error}; try fewer faces. The formats ply and "
            "stl need no texture"
        ) from None
    if count != 1 or len(faces) != len(mesh.faces) or not np.isfinite(uv).all():
        raise ExportError(
            f"the UV atlas of {len(mesh.faces)} faces does not fit one texture; try fewer faces or a larger texture"
        )
    return source.astype(np.int64), faces.astype(np.int64), np.clip(uv, 0.0, 1.0).astype(np.float32)


def rasterise(uv: np.ndarray, faces: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The triangle under each texel's centre: (size, size) face index or -1, row 0 at the top; (size, size, 3)
    barycentric weights."""
    flat = torch.from_numpy(np.ascontiguousarray(uv, dtype=np.float64)) * 2 - 1
    position = torch.cat([flat, torch.zeros(len(flat), 1), torch.ones(len(flat), 1)], 1)[None]
    fragments = raster(position, torch.from_numpy(faces.astype(np.int32)), (size, size))
    return fragments.face[0].numpy(), fragments.barycentric[0].numpy()


def surface_color(density, albedo, points: np.ndarray, normals: np.ndarray, bound: float, device="cpu") -> np.ndarray:
    """(N, 3) colour in [0, 1] of surface points (N, 3), composited over DEPTHS samples along the inward normal."""
    light = np.ones((len(points), 1), dtype=np.float32)
    total, weight = np.zeros((len(points), 3), dtype=np.float32), np.zeros_like(light)
    for k in range(DEPTHS):
        at = (points - normals * ((k - 0.5) * STEP)).clip(-bound, bound)
        opacity = 1 - np.exp(-np.maximum(query(density, at, device), 0).reshape(-1, 1) * STEP)
        w = light * opacity + 1e-6  # the constant: a plain average where there is nothing
        total += w * query(albedo, at, device)
        weight += w
        light *= 1 - opacity
    return np.clip(total / weight, 0, 1)


def bake_texture(mesh: Mesh, color: Color, *, size: int) -> TexturedMesh:
    """`mesh` with an atlas and a size x size texture of its colours; texels outside of all charts repeat the nearest
    one.

    Raises UsageError for a size outside 16..4096, ExportError where a colour is not finite, the mesh has more than
    MAX_FACES faces, xatlas fails, or the atlas does not fit.
    """
    from scipy.ndimage import distance_transform_edt

    if not 16 <= size <= MAX_TEXTURE:
        raise UsageError(f"texture size must be between 16 and {MAX_TEXTURE} texels, got {size}")
    source, faces, uv = unwrap(mesh, size)
    vertices, normals = mesh.vertices[source], vertex_normals(mesh)[source]
    face, weights = rasterise(uv, faces, size)
    covered = face >= 0
    if not covered.any():
        raise ExportError(f"no texel of the {size} x {size} texture lies on the surface; try a larger texture")
    corners, weight = faces[face[covered]], weights[covered][..., None]
    points = (vertices[corners] * weight).sum(1)
    normal = (normals[corners] * weight).sum(1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    image = np.zeros((size, size, 3), dtype=np.uint8)
    image[covered] = (color(points, normal) * 255).round().astype(np.uint8)
    nearest: Any = distance_transform_edt(~covered, return_distances=False, return_indices=True)
    row, column = nearest
    return TexturedMesh(vertices.astype(np.float32), normals.astype(np.float32), uv, faces, image[row, column])
