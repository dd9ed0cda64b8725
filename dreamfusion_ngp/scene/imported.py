"""A mesh that another program made: its triangles, UVs and materials, where it stood in its file, where it stands here.

The world is the scene's: +Y up, front +Z, in world units. UVs are indexed apart from the vertices, so that a new atlas
leaves vertices and triangles as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..base.errors import MeshError, UsageError
from .cameras import Cameras, orbit

# World units, the longest side of an imported mesh: that of the toys, which the presets' cameras stand around (at 1.0
# or more from the origin) and the volume recipes' cube of side 1.5 holds, however the mesh is turned about +Y.
SIDE = 1.0
AXES = {
    sign + name: row * (1 if sign == "+" else -1) for name, row in zip("xyz", np.eye(3), strict=True) for sign in "+-"
}
NAMED_VIEWS = {"front": 0, "left": 90, "back": 180, "right": 270}  # degrees of azimuth; left and right are the object's


@dataclass(frozen=True)
class Material:
    """color: (4,) float32, linear RGBA, which the texture is multiplied by. texture: which one of the mesh's."""

    name: str
    texture: int
    color: np.ndarray


@dataclass(frozen=True)
class Texture:
    """What one image colours: the triangles of the materials that name it.

    image: (H, W, 3 or 4) uint8 sRGB (and alpha), row 0 at the top; None where the materials have only a colour.
    wrap: what lies outside [0, 1]^2, "repeat", "mirror" or "clamp". unwrapped: its UVs are not the file's own.
    """

    name: str
    image: np.ndarray | None = None
    wrap: str = "repeat"
    unwrapped: bool = False


@dataclass(frozen=True)
class Part:
    """What the file keeps apart: a primitive where a node of glTF puts it, an object or group of an OBJ.

    node: (4, 4) float64, from the coordinates of its vertices to those of the file. copy_of: the number of the part
    whose triangles and UVs it shows at another place, or None.
    """

    name: str
    node: np.ndarray = field(default_factory=lambda: np.eye(4))
    copy_of: int | None = None


@dataclass(frozen=True)
class ImportedMesh:
    """Triangles in the order of their file.

    vertices: (V, 3) float32, world units. faces: (F, 3) int32, counter-clockwise from outside (those of mirrored nodes
    are turned round). uv: (U, 2) float32, origin at the bottom left of the image. uv_faces: (F, 3) int32 into uv, -1
    where a corner has none. colors: (V, 4) float32 linear RGBA, which the texture is multiplied by, or None.
    face_material, face_part: (F,) int32. matrix: (4, 4) float64, file coordinates to the world's; a turn, one scale
    for all axes and a shift. source: what the file held, for writing it back (importer/).
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
    """(3, 3) rotation from axes whose up and front are named to +Y up, front +Z. Raises UsageError."""
    y, z = axis(up, "up"), axis(front, "front")
    if abs(y @ z) > 0.5:
        raise UsageError(f"up and front must be different axes, got up {up} and front {front}")
    return np.stack([np.cross(y, z), y, z])


def normalisation(points: np.ndarray, up: str, front: str, side: float = SIDE) -> np.ndarray:
    """(4, 4) float64: the matrix that turns points (N, 3) upright, puts the middle of their bounding box to the origin
    and makes its longest side `side`. Raises MeshError where they have no extent, UsageError for bad axes."""
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


def named(vertices: int, faces: np.ndarray) -> np.ndarray:
    """(V,) bool: vertices that triangles name."""
    found = np.zeros(vertices, bool)
    found[faces] = True
    return found


def placed(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(N, 3) float64 points after a (4, 4) matrix."""
    return points.astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3]


@dataclass(frozen=True)
class NamedView:
    """file_axis: the axis of the file on which its camera stands, as "+x", or "" where that is between axes."""

    name: str
    azimuth: int
    file_axis: str


def view_check(mesh: ImportedMesh, distance: float = 2.0, focal: float = 1.25) -> tuple[tuple[NamedView, ...], Cameras]:
    """The four named views for a preview that shows whether `up` and `front` are right, and their cameras.

    distance: world units. focal: image widths; as they are, the whole mesh is seen. "left" is the object's own left,
    azimuth 90, the camera on +X (as in TEXTure, Richardson et al. 2023).
    """
    back = np.linalg.inv(mesh.matrix[:3, :3])
    views = []
    for name, azimuth in NAMED_VIEWS.items():
        toward = back @ [np.sin(np.deg2rad(azimuth)), 0.0, np.cos(np.deg2rad(azimuth))]
        toward /= np.linalg.norm(toward)
        file_axis = next((key for key, row in AXES.items() if row @ toward > 1 - 1e-6), "")
        views.append(NamedView(name, azimuth, file_axis))
    return tuple(views), orbit(list(NAMED_VIEWS.values()), 0.0, distance, focal)
