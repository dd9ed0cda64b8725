"""A mesh from another program: triangles, UVs, materials, and the transform from its file to the scene.

World coordinates are the scene's: +Y up, front +Z, in world units. UVs have indices of their own, so that a new atlas
leaves vertices and triangles unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..base.errors import MeshError, UsageError
from ..config.checks import VIEWS
from .cameras import Cameras, orbit

# World units, the longest side of an imported mesh, as of the toys: it suits the presets' cameras, 1.0 or more from the
# origin, and fits the volume recipes' cube of side 1.5, however the mesh is turned about +Y.
SIDE = 1.0
AXES = {
    sign + name: row * (1 if sign == "+" else -1) for name, row in zip("xyz", np.eye(3), strict=True) for sign in "+-"
}
NAMED_VIEWS = {name: 90 * i for i, name in enumerate(VIEWS)}  # degrees of azimuth; left and right are the object's


@dataclass(frozen=True)
class Material:
    """color: (4,) float32, linear RGBA factor of the texture. texture: index into the mesh's textures."""

    name: str
    texture: int
    color: np.ndarray


@dataclass(frozen=True)
class Texture:
    """One image, for the triangles of the materials that refer to it.

    image: (H, W, 3 or 4) uint8 sRGB (and alpha), row 0 at the top; None where the materials have only a colour. wrap:
    outside [0, 1]^2, "repeat", "mirror" or "clamp". unwrapped: its UVs are a new atlas, not the file's. alpha: (T, T)
    uint8, that of the image which replaces several, or one with other UVs; None where that is opaque.
    """

    name: str
    image: np.ndarray | None = None
    wrap: str = "repeat"
    unwrapped: bool = False
    alpha: np.ndarray | None = None

    def next_alpha(self) -> np.ndarray | None:
        """(H, W) uint8: the alpha of the image that replaces this one; None where it is opaque."""
        kept = not self.unwrapped and self.image is not None and self.image.shape[2] == 4
        return self.image[..., 3] if kept and self.image is not None else self.alpha


@dataclass(frozen=True)
class Part:
    """A separate part of the file: a glTF primitive as placed by a node, an object or group of an OBJ.

    node: (4, 4) float64, from the coordinates of its vertices to those of the file. copy_of: the index of the part of
    which it is another instance (same triangles and UVs), or None.
    """

    name: str
    node: np.ndarray = field(default_factory=lambda: np.eye(4))
    copy_of: int | None = None


@dataclass(frozen=True)
class ImportedMesh:
    """Triangles in the order of their file.

    vertices: (V, 3) float32, world units. faces: (F, 3) int32, counter-clockwise from outside (flipped under mirrored
    nodes). uv: (U, 2) float32, origin at the bottom left of the image. uv_faces: (F, 3) int32 into uv, -1 where a
    corner has none. colors: (V, 4) float32 linear RGBA factor of the texture, or None. face_material, face_part: (F,)
    int32. matrix: (4, 4) float64, file to world coordinates: rotation, uniform scale and translation. source: what the
    file held, for writing it back (importer/).
    """

    name: str
    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    uv_faces: np.ndarray
    colors: np.ndarray | None
    materials: tuple[Material, ...]
    face_material: np.ndarray
    textures: tuple[Texture, ...]
    parts: tuple[Part, ...]
    face_part: np.ndarray
    matrix: np.ndarray
    source: Any = field(repr=False)

    def face_texture(self) -> np.ndarray:
        """(F,) int32: the texture of every triangle."""
        return np.array([m.texture for m in self.materials], np.int32)[self.face_material]

    def originals(self) -> np.ndarray:
        """(F,) bool: triangles of parts that are no copies of others."""
        return np.array([part.copy_of is None for part in self.parts])[self.face_part]

    def triangles_of(self, texture: int) -> np.ndarray:
        """(F,) bool: triangles of a texture, of parts that are no copies."""
        return (self.face_texture() == texture) & self.originals()

    def copies(self) -> Iterator[tuple[slice, slice, list[int]]]:
        """Of every part with triangles that is a copy: its triangles, those of its original, and the order of the
        original's corners in it, which run the other way round in a mirror image. Needs triangles that are sorted by
        parts, as they are in files with copies."""
        if all(part.copy_of is None for part in self.parts):
            return
        starts = np.searchsorted(self.face_part, np.arange(len(self.parts) + 1)).tolist()
        for number, part in enumerate(self.parts):
            if part.copy_of is not None and starts[number] < starts[number + 1]:
                mirrored = np.linalg.det(part.node[:3, :3]) * np.linalg.det(self.parts[part.copy_of].node[:3, :3]) < 0
                first = slice(starts[part.copy_of], starts[part.copy_of + 1])
                yield slice(starts[number], starts[number + 1]), first, [0, 2, 1] if mirrored else [0, 1, 2]

    def to_file(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) float64 world points in the coordinates of the file."""
        return (np.asarray(points, np.float64) - self.matrix[:3, 3]) @ np.linalg.inv(self.matrix[:3, :3]).T


def axis(name: str, what: str) -> np.ndarray:
    """(3,) unit vector of "+y", "y" or "-Z". Raises UsageError."""
    text = str(name).strip().lower()
    text = text if text[:1] in ("+", "-") else "+" + text
    if text not in AXES:
        raise UsageError(f"{what} must be an axis, +x, -x, +y, -y, +z or -z, got {str(name)[:40]!r}")
    return AXES[text]


def turn(up: str, front: str) -> np.ndarray:
    """(3, 3) rotation that takes the axis `up` to +Y and `front` to +Z. Raises UsageError."""
    y, z = axis(up, "up"), axis(front, "front")
    if abs(y @ z) > 0.5:
        raise UsageError(f"up and front must be different axes, got up {up} and front {front}")
    return np.stack([np.cross(y, z), y, z])


def normalisation(points: np.ndarray, up: str, front: str, side: float = SIDE) -> np.ndarray:
    """(4, 4) float64: the matrix that turns points (N, 3) upright, centres their bounding box at the origin and scales
    its longest side to `side`. Raises MeshError for points without extent, UsageError for bad axes."""
    rotation = turn(up, front)
    low, high = points.min(0).astype(np.float64), points.max(0).astype(np.float64)
    with np.errstate(over="ignore", divide="ignore"):
        longest = (high - low).max()
        scale = side / longest
    if not np.isfinite(longest) or not np.isfinite(scale):
        raise MeshError(
            "all triangles lie in one point" if longest == 0 else "its coordinates are too large or too small"
        )
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * scale
    matrix[:3, 3] = -matrix[:3, :3] @ (low + (high - low) / 2)
    return matrix


def used_vertices(vertices: int, faces: np.ndarray) -> np.ndarray:
    """(V,) bool: vertices that triangles use."""
    used = np.zeros(vertices, bool)
    used[faces] = True
    return used


def transform_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(N, 3) float64 points after a (4, 4) matrix."""
    return points.astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3]


@dataclass(frozen=True)
class NamedView:
    """file_axis: the axis of the file on which the view's camera lies, as "+x", or "" if it lies between axes."""

    name: str
    azimuth: int
    file_axis: str


def view_check(mesh: ImportedMesh) -> tuple[tuple[NamedView, ...], Cameras]:
    """The four named views for a preview that shows whether `up` and `front` are right, and their cameras, which see
    the whole mesh. "left" is the object's own left, azimuth 90, the camera on +X (as in TEXTure, Richardson et al.
    2023)."""
    back = np.linalg.inv(mesh.matrix[:3, :3])
    views = []
    for name, azimuth in NAMED_VIEWS.items():
        toward = back @ [np.sin(np.deg2rad(azimuth)), 0.0, np.cos(np.deg2rad(azimuth))]
        toward /= np.linalg.norm(toward)
        file_axis = next((key for key, row in AXES.items() if row @ toward > 1 - 1e-6), "")
        views.append(NamedView(name, azimuth, file_axis))
    return tuple(views), orbit(list(NAMED_VIEWS.values()), 0.0, 2.0, 1.25)
