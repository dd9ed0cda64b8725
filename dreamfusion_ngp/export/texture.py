"""A texture for a mesh: a UV atlas, and colours and relief baked at the texels' points on the surface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..base.errors import ExportError, UsageError
from ..ops.rasterise import rasterise as raster
from ..scene.isolevel import query
from ..scene.surface import bumped
from .atlas import AtlasError, make_atlas
from .isosurface import Mesh, vertex_normals

MAX_TEXTURE = 4096
MAX_FACES = 200_000  # xatlas takes minutes for so many, and hours for the million of a run that diverged

# Points of the surface and its normals there, each (N, 3), -> colours (N, 3) in [0, 1].
Color = Callable[[np.ndarray, np.ndarray], np.ndarray]
# Points of the surface (N, 3) -> gradients (N, 3) of the height of a relief on it.
Slope = Callable[[np.ndarray], np.ndarray]

# A texel's colour is that of a ray along the inward normal: DEPTHS samples STEP apart, the first half a step outside.
# The albedo right at the iso-level has little weight in any rendering, so it is the least trained.
DEPTHS = 4
STEP = 0.01  # world units


@dataclass(frozen=True)
class TexturedMesh:
    """vertices, normals: (W, 3) float32; vertices on chart borders appear once per chart. uv: (W, 2) float32 in [0,
    1], origin at the bottom left of the image. faces: (F, 3) int64. image: (T, T, 3) uint8 sRGB, row 0 at the top.
    normal_map: (T, T, 3) uint8, a relief as glTF has it, and tangents (W, 4) float32 to read it with; None: smooth."""

    vertices: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    faces: np.ndarray
    image: np.ndarray
    normal_map: np.ndarray | None = None
    tangents: np.ndarray | None = None


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


def surface_color(
    density, albedo, points: np.ndarray, normals: np.ndarray, bound: float, device: str | torch.device = "cpu"
) -> np.ndarray:
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


def bake_texture(mesh: Mesh, color: Color, *, size: int, slope: Slope | None = None) -> TexturedMesh:
    """`mesh` with an atlas and a size x size texture of its colours, and with a normal map where its relief has a
    `slope`; texels outside of all charts repeat the nearest one.

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
    normal = unit((normals[corners] * weight).sum(1))
    nearest: Any = distance_transform_edt(~covered, return_distances=False, return_indices=True)

    def image_of(values: np.ndarray) -> np.ndarray:
        image = np.zeros((size, size, 3), dtype=np.uint8)
        image[covered] = (values * 255).round().astype(np.uint8)
        return image[nearest[0], nearest[1]]

    arrays = vertices.astype(np.float32), normals.astype(np.float32), uv, faces, image_of(color(points, normal))
    if slope is None:
        return TexturedMesh(*arrays)
    tangents = tangents_of(vertices, normals, uv, faces)
    relief = normal_texels(normal, (tangents[corners] * weight).sum(1), slope(points))
    return TexturedMesh(*arrays, image_of(relief), tangents.astype(np.float32))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def tangents_of(vertices: np.ndarray, normals: np.ndarray, uv: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(W, 4) glTF's TANGENT: at each vertex the direction of increasing u, orthogonal to its normal, in the mean over
    the triangles around it by their area, and the sign of (normal x tangent) along increasing v, upwards in the
    image."""
    edges, sides = (values[faces[:, 1:]] - values[faces[:, :1]] for values in (vertices, uv.astype(np.float64)))
    turn = np.sign(sides[:, 0, 0] * sides[:, 1, 1] - sides[:, 0, 1] * sides[:, 1, 0])  # -1: a mirrored triangle
    right = unit((edges[:, 0] * sides[:, 1, 1:] - edges[:, 1] * sides[:, 0, 1:]) * turn[:, None])
    area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
    total, sign = np.zeros((len(vertices), 3)), np.zeros(len(vertices))
    for corner in faces.T:
        np.add.at(total, corner, right * area[:, None])
        np.add.at(sign, corner, turn * area)
    along = total - (total * normals).sum(1, keepdims=True) * normals
    lost = np.linalg.norm(along, axis=1) < 1e-9 * np.maximum(area.max(initial=0.0), 1e-30)
    along[lost] = np.cross(normals[lost], np.eye(3)[np.abs(normals[lost]).argmin(1)])
    return np.column_stack([unit(along), np.where(sign < 0, -1.0, 1.0)])


def normal_texels(normal: np.ndarray, tangent: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """(N, 3) texels in [0, 1] of a normal map: the unit normals of a relief with gradients `slope` (N, 3) on a surface
    with unit normals `normal` (N, 3), in the frames that renderers build from interpolated `tangent` (N, 4)."""
    right = unit(tangent[:, :3])
    up = np.cross(normal, right) * np.where(tangent[:, 3:] < 0, -1.0, 1.0)
    tilted = bumped(torch.from_numpy(normal), torch.from_numpy(slope)).numpy()
    # up is orthogonal to both others, which interpolation leaves not quite orthogonal to each other.
    lean = (right * normal).sum(1)
    x, z = (tilted * right).sum(1), (tilted * normal).sum(1)
    along = np.stack([x - lean * z, (tilted * up).sum(1), z - lean * x], 1)  # all times 1 - lean^2
    return unit(along) * 0.5 + 0.5
