"""Reading a mesh file of any of the formats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ..base.errors import MeshError, UsageError
from ..export.formats import CONVENTIONS
from ..scene.imported import SIDE, ImportedMesh, turn
from .document import document_of, flipped, linear
from .files import read_beside, read_file
from .gltf import Document, read_glb, read_gltf
from .gltf_read import MAX_FACES, MAX_VERTICES, mesh_of
from .obj_read import read_obj
from .ply import read_ply
from .stl import read_stl

SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl")


def read_mesh(path, up: str | None = None, front: str | None = None, side: float = SIDE) -> ImportedMesh:
    """The mesh of a GLB, glTF, OBJ, PLY or STL file, turned upright, centred in the scene, its longest side `side`
    world units.

    up, front: axes of the file, as "+z" or "-y". By default those of its format: glTF +Y up, front +Z by its standard;
    OBJ the same, PLY and STL +Z up, front -Y, as in Blender, since these formats define none.
    Raises UsageError for bad axes or another suffix; MeshError, one line that begins with the file's name, for anything
    but a static mesh of triangles with finite numbers whose files lie beside it (docs/imported-meshes.md).
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in SUFFIXES:
        raise UsageError(f"{path.name}: unknown kind of mesh; {', '.join(SUFFIXES)} are read")
    convention = CONVENTIONS["glb" if kind == ".gltf" else kind[1:]]
    up, front = up or convention.up, front or convention.front
    turn(up, front)
    if not side > 0 or not np.isfinite(side):
        raise UsageError(f"side must be a length above 0, got {side}")
    try:
        data = read_file(path)
        if not data:
            raise MeshError("is empty")
        if kind == ".obj":
            return read_obj(data, path.parent, path.stem, up, front, side)
        if kind in (".glb", ".gltf"):
            document = (read_glb if kind == ".glb" else read_gltf)(data, path.parent)
            return mesh_of(document, path.stem, up, front, side)
        document = (stl_document if kind == ".stl" else ply_document)(data, path, turn(up, front))
        return of_plain_file(mesh_of(document, path.stem, "+y", "+z", side), turn(up, front))
    except MeshError as error:
        raise MeshError(f"{path.name}: {error}") from None


def of_plain_file(mesh: ImportedMesh, rotation: np.ndarray) -> ImportedMesh:
    """The mesh in the coordinates of its file; those of the document are turned by its node."""
    turned = np.eye(4)
    turned[:3, :3] = rotation
    return replace(mesh, matrix=mesh.matrix @ turned, parts=tuple(replace(p, node=np.eye(4)) for p in mesh.parts))


def check_sizes(faces: np.ndarray, vertices: np.ndarray) -> None:
    if len(faces) > MAX_FACES or len(vertices) > MAX_VERTICES:
        raise MeshError(f"has more than {MAX_FACES:,} triangles or {MAX_VERTICES:,} vertices")
    if not len(faces):
        raise MeshError("has no triangles")


def stl_document(data: bytes, path: Path, rotation: np.ndarray) -> Document:
    corners = read_stl(data)
    vertices, faces = corners.reshape(-1, 3), np.arange(3 * len(corners)).reshape(-1, 3)
    check_sizes(faces, vertices)
    check_finite(vertices)
    return document_of(vertices, faces, rotation, path.stem)


def ply_document(data: bytes, path: Path, rotation: np.ndarray) -> Document:
    ply = read_ply(data)
    check_sizes(ply.faces, ply.vertices)
    check_finite(ply.vertices, *(one for one in (ply.uv, ply.colors) if one is not None))
    image = read_beside(path.parent, ply.texture) if ply.texture else None
    kind = "image/jpeg" if image and image.startswith(b"\xff\xd8") else "image/png"
    colors = None if ply.colors is None else np.concatenate([linear(ply.colors[:, :3]), ply.colors[:, 3:]], 1)
    uv = None if ply.uv is None else flipped(ply.uv)
    return document_of(ply.vertices, ply.faces, rotation, path.stem, uv=uv, colors=colors, image=image, mime=kind)


def check_finite(*arrays: np.ndarray) -> None:
    if not all(np.isfinite(array).all() for array in arrays):
        raise MeshError("has numbers that are not finite")
