"""Bakes the colours of a mesh into images in its UVs, from which a refinement of its textures starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from ..base.errors import UsageError
from ..export.texture import MAX_TEXTURE, rasterise
from ..scene.imported import ImportedMesh, Texture
from .document import display, linear

POINTS_PER_CALL = 1 << 20
Texels = tuple[np.ndarray, np.ndarray]  # (T, T) triangles, -1 for none, and (T, T, 3) places on them
Values = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (N, C) uint8 of triangles (N,) and places on them (N, 3)


def start_image(before: ImportedMesh, mesh: ImportedMesh, texture: int, size: int) -> np.ndarray:
    """(size, size, 3) uint8 sRGB: the unlit colours of `before`, in the UVs of `mesh`, which `choose_uvs` made of it.
    Texels that no triangle covers repeat the nearest covered one.

    An image whose UVs are kept is only resized, and stays bit-identical where it has the size. Raises UsageError for a
    size outside of 16 to 4096.
    """
    if not 16 <= size <= MAX_TEXTURE:
        raise UsageError(f"texture size must be between 16 and {MAX_TEXTURE} texels, got {size}")
    rows = np.flatnonzero(mesh.triangles_of(texture))
    kept = mesh.textures[texture]
    colors = {tuple(mesh.materials[m].color[:3].tolist()) for m in np.unique(mesh.face_material[rows])}
    if not kept.unwrapped and kept.image is not None and len(colors) == 1 and white(before, rows):
        return resized(kept.image, size, np.array(next(iter(colors)), np.float32))
    return spread(mesh, texture, size, partial(colors_at, before), 3)


def white(mesh: ImportedMesh, rows: np.ndarray) -> bool:
    """Whether no vertex colour changes these triangles."""
    return mesh.colors is None or bool((mesh.colors[mesh.faces[rows], :3] == 1).all())


def resized(image: np.ndarray, size: int, color: np.ndarray) -> np.ndarray:
    """(size, size, 3) uint8 of an image (H, W, 3 or 4) multiplied by a linear colour (3,)."""
    from PIL import Image

    rgb = np.ascontiguousarray(image[..., :3])
    if not (color == 1).all():
        rgb = encoded(linear(rgb / np.float32(255)) * color)
    if rgb.shape[:2] != (size, size):
        rgb = np.asarray(Image.fromarray(rgb).resize((size, size), Image.Resampling.LANCZOS))
    return rgb.copy()


def encoded(light: np.ndarray) -> np.ndarray:
    """uint8 sRGB of linear light."""
    return (display(light) * 255).round().astype(np.uint8)


def start_alpha(before: ImportedMesh, mesh: ImportedMesh, texture: int, size: int) -> np.ndarray | None:
    """(size, size) uint8: the alpha of the images of `before`, in the UVs of `mesh`; None where they are opaque."""
    rows = np.flatnonzero(mesh.triangles_of(texture))
    images = (before.textures[number].image for number in np.unique(before.face_texture()[rows]))
    if all(image is None or image.shape[2] == 3 or image[..., 3].min() == 255 for image in images):
        return None
    return spread(mesh, texture, size, lambda face, weights: alpha_at(before, face, weights)[:, None], 1)[..., 0]


def spread(mesh: ImportedMesh, texture: int, size: int, values: Values, channels: int) -> np.ndarray:
    """(size, size, channels) uint8: `values` at the texels of a texture."""
    from scipy.ndimage import distance_transform_edt

    face, place = texels_of(mesh, texture, size)
    covered = face >= 0
    image = np.zeros((size, size, channels), np.uint8)
    if not covered.any():
        return image + np.uint8(128)
    image[covered] = values(face[covered], place[covered].astype(np.float32))
    nearest: Any = distance_transform_edt(~covered, return_distances=False, return_indices=True)
    row, column = nearest
    return image[row, column]


def texels_of(mesh: ImportedMesh, number: int, size: int) -> Texels:
    """The triangle of the mesh at each texel of a texture, and its barycentric place there."""
    rows = np.flatnonzero(mesh.triangles_of(number) & (mesh.uv_faces >= 0).all(1))
    if not len(rows):
        return np.full((size, size), -1, np.int32), np.zeros((size, size, 3))
    corner = mesh.uv[mesh.uv_faces[rows]]
    corner = corner - np.floor(corner.min(1, keepdims=True))  # into the image, where it is repeated
    row, place = rasterise(corner.reshape(-1, 2), np.arange(3 * len(rows)).reshape(-1, 3), size)
    return np.where(row >= 0, rows[row], -1).astype(np.int32), place


def colors_at(mesh: ImportedMesh, face: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(N, 3) uint8 sRGB of a mesh at points of its triangles: face (N,), weights (N, 3) barycentric."""
    out = np.empty((len(face), 3), np.uint8)
    which = mesh.face_texture()
    factors = np.stack([m.color[:3] for m in mesh.materials])
    for start in range(0, len(face), POINTS_PER_CALL):
        part = slice(start, start + POINTS_PER_CALL)
        f, w = face[part], weights[part, :, None]
        light = factors[mesh.face_material[f]].astype(np.float32)
        if mesh.colors is not None:
            light = light * (mesh.colors[mesh.faces[f], :3] * w).sum(1)
        index = mesh.uv_faces[f]
        for number, texture in enumerate(mesh.textures):
            at = (which[f] == number) & (index >= 0).all(1)
            if texture.image is not None and at.any():
                light[at] *= sampled(texture, (mesh.uv[index[at]] * w[at]).sum(1))
        out[part] = encoded(light)
    return out


def alpha_at(mesh: ImportedMesh, face: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(N,) uint8 alpha of a mesh's images at points of its triangles, as of `colors_at`."""
    out, which, index = np.full(len(face), 255, np.uint8), mesh.face_texture()[face], mesh.uv_faces[face]
    for number, texture in enumerate(mesh.textures):
        at = (which == number) & (index >= 0).all(1)
        if texture.image is not None and texture.image.shape[2] == 4 and at.any():
            alpha = np.zeros(int(at.sum()), np.float32)
            for weight, row, column in taps(texture, (mesh.uv[index[at]] * weights[at, :, None]).sum(1)):
                alpha += weight * texture.image[row, column, 3]
            out[at] = alpha.round()
    return out


def sampled(texture: Texture, uv: np.ndarray) -> np.ndarray:
    """(N, 3) linear light of an image at UVs (N, 2), bilinear between texel centres."""
    assert texture.image is not None
    light = np.zeros((len(uv), 3), np.float32)
    for weight, row, column in taps(texture, uv):
        light += weight[:, None] * linear(texture.image[row, column, :3] / np.float32(255))
    return light


def taps(texture: Texture, uv: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The four texels around UVs (N, 2), each as its bilinear weight, row and column (N,)."""
    assert texture.image is not None
    height, width = texture.image.shape[:2]
    x, y = uv[:, 0] * width - 0.5, (1 - uv[:, 1]) * height - 0.5
    x0, y0 = np.floor(x), np.floor(y)
    for dx in (0, 1):
        for dy in (0, 1):
            weight = np.abs(1 - dx - (x - x0)) * np.abs(1 - dy - (y - y0))
            yield weight, wrapped(y0 + dy, height, texture.wrap), wrapped(x0 + dx, width, texture.wrap)


def wrapped(index: np.ndarray, size: int, wrap: str) -> np.ndarray:
    """Texel indices in [0, size) of any whole numbers, by the wrap mode."""
    if wrap == "clamp":
        return index.clip(0, size - 1).astype(np.int64)
    if wrap == "mirror":
        index = index % (2 * size)
        return np.where(index < size, index, 2 * size - 1 - index).astype(np.int64)
    return (index % size).astype(np.int64)
