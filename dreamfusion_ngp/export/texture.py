"""A texture for a mesh: a UV atlas, and colours baked from the field at the texels' places on the surface."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..base.errors import ExportError, UsageError
from .atlas import AtlasError, make_atlas
from .isosurface import Mesh, query, vertex_normals

MAX_TEXTURE = 4096
MAX_FACES = 200_000  # xatlas takes minutes for as many, and hours for the million of a run that diverged
PAIRS_PER_CALL = 1 << 22  # texel-triangle pairs tested at once

# A texel's colour is what a ray along the inward normal sees: DEPTHS samples STEP apart, the first of them half a
# step outside. The albedo right on the iso-level has little weight in any rendering, so it is the least trained.
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
    parts = mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32), vertex_normals(mesh).astype(np.float32)
    try:
        source, faces, uv, count = make_atlas(*parts, texture)
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
    """Which texels' centres lie in which triangle: (size, size) face index or -1, row 0 at the top; (size, size, 3)
    barycentric weights."""
    corner = np.stack([uv[:, 0], 1 - uv[:, 1]], -1)[faces].astype(np.float64) * size - 0.5  # texel centres: integers
    low = np.ceil(corner.min(1) - 1e-6).astype(int).clip(0, size)
    high = np.floor(corner.max(1) + 1e-6).astype(int).clip(-1, size - 1)
    span = (high - low + 1).clip(min=0)
    ends = np.concatenate([[0], np.cumsum(span[:, 0] * span[:, 1])])
    found = np.full(size * size, -1)
    weights = np.zeros((size * size, 3))
    start = 0
    while start < len(faces):
        stop = max(start + 1, int(np.searchsorted(ends, ends[start] + PAIRS_PER_CALL, side="right")) - 1)
        face = np.repeat(np.arange(start, stop), np.diff(ends[start : stop + 1]))
        within = np.arange(ends[start], ends[stop]) - ends[face]
        texel = low[face] + np.stack([within % span[face, 0], within // span[face, 0]], -1)
        bary = barycentric(corner[face], texel)
        inside = (bary >= -1e-6).all(1)
        index = texel[inside, 1] * size + texel[inside, 0]
        found[index], weights[index] = face[inside], bary[inside]
        start = stop
    return found.reshape(size, size), weights.reshape(size, size, 3)


def barycentric(corner: np.ndarray, point: np.ndarray) -> np.ndarray:
    """(N, 3) weights of the corners (N, 3, 2) at points (N, 2); -1 for a triangle without area."""
    ab, ac, ap = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0], point - corner[:, 0]
    area = ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]
    safe = np.where(np.abs(area) > 1e-12, area, np.inf)
    v = (ap[:, 0] * ac[:, 1] - ap[:, 1] * ac[:, 0]) / safe
    w = (ab[:, 0] * ap[:, 1] - ab[:, 1] * ap[:, 0]) / safe
    return np.where(np.isinf(safe)[:, None], -1.0, np.stack([1 - v - w, v, w], -1))


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


def bake_texture(mesh: Mesh, density, albedo, *, size: int, bound: float, device="cpu") -> TexturedMesh:
    """`mesh` with an atlas and a size x size texture of the field's colours; texels outside of all charts repeat the
    nearest one.

    Raises UsageError for a size outside 16..4096, ExportError where the field is not finite, the mesh has more than
    MAX_FACES faces, xatlas fails, or the atlas does not fit.
    """
    from scipy.ndimage import distance_transform_edt

    if not 16 <= size <= MAX_TEXTURE:
        raise UsageError(f"texture size must be between 16 and {MAX_TEXTURE} texels, got {size}")
    source, faces, uv = unwrap(mesh, size)
    vertices, normals = mesh.vertices[source], vertex_normals(mesh)[source]
    found, weights = rasterise(uv, faces, size)
    covered = found >= 0
    if not covered.any():
        raise ExportError(f"no texel of the {size} x {size} texture lies on the surface; try a larger texture")
    corners, weight = faces[found[covered]], weights[covered][..., None]
    points = (vertices[corners] * weight).sum(1)
    normal = (normals[corners] * weight).sum(1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    image = np.zeros((size, size, 3), dtype=np.uint8)
    image[covered] = (surface_color(density, albedo, points, normal, bound, device) * 255).round().astype(np.uint8)
    row, column = distance_transform_edt(~covered, return_distances=False, return_indices=True)
    return TexturedMesh(vertices.astype(np.float32), normals.astype(np.float32), uv, faces, image[row, column])
