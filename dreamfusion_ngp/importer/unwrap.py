"""UVs that can hold a texture: those of the file where suitable, else a new atlas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..base.errors import MeshError, UsageError
from ..export.atlas import AtlasError, make_atlas
from ..export.isosurface import Mesh, vertex_normals
from ..export.texture import MAX_FACES
from ..scene.imported import ImportedMesh, Texture
from ..scene.topology import weld
from ..scene.uvs import UvReport, examine_uvs
from .bake import start_alpha

MODES = ("auto", "keep", "unwrap")
TEXTURES = ("each", "one")
OVERLAP = 0.005  # of the covered texels: overlap from rounding at chart borders stays far below


def choose_uvs(mesh: ImportedMesh, uv: str = "auto", textures: str = "each", size: int = 1024) -> ImportedMesh:
    """The mesh with UVs without overlap, for textures of size x size texels. Vertices and triangles stay as they are.

    uv: "keep", the file's own; "unwrap", a new atlas for every texture; "auto", a new one only for textures whose UVs
    are missing or overlap. textures: "each", one for each image (or each material without one) of the file; "one" for
    all of them together.
    Raises UsageError for other values, MeshError where UVs that are to be kept are missing, or no atlas can be made.
    """
    if uv not in MODES:
        raise UsageError(f"uv must be one of {', '.join(MODES)}, got {str(uv)[:40]!r}")
    if textures not in TEXTURES:
        raise UsageError(f"textures must be one of {', '.join(TEXTURES)}, got {str(textures)[:40]!r}")
    before = mesh
    mesh = together(mesh) if textures == "one" and len(mesh.textures) > 1 else mesh
    for number, texture in enumerate(mesh.textures):
        report = examine_uvs(mesh, number)
        if uv == "keep" and report.missing:
            raise MeshError(
                f"{mesh.name}: {report.missing:,} of {report.faces:,} triangles of {texture.name[:40]!r} have no UVs "
                "to keep"
            )
        if uv == "unwrap" or (uv == "auto" and unfit(report, texture)):
            mesh = unwrapped(mesh, number, size)
    return mesh if mesh is before else with_alphas(mesh, before, size)


def with_alphas(mesh: ImportedMesh, before: ImportedMesh, size: int) -> ImportedMesh:
    """The mesh, in whose textures with new UVs, or instead of several, is the alpha of those of `before`."""
    textures = [
        replace(one, alpha=start_alpha(before, mesh, number, size)) if one.unwrapped or one.image is None else one
        for number, one in enumerate(mesh.textures)
    ]
    return replace(mesh, textures=tuple(textures))


def unfit(report: UvReport, texture: Texture) -> bool:
    """Whether these UVs cannot hold a texture of their own."""
    shared = report.overlap > OVERLAP or report.tiled > OVERLAP * report.faces
    beyond = texture.wrap != "repeat" and report.outside > OVERLAP * report.faces
    return report.missing > 0 or shared or beyond


def together(mesh: ImportedMesh) -> ImportedMesh:
    """The mesh with one texture for all materials."""
    wrap = next((texture.wrap for texture in mesh.textures if texture.wrap != "repeat"), "repeat")
    return replace(
        mesh, textures=(Texture("all", None, wrap),), materials=tuple(replace(m, texture=0) for m in mesh.materials)
    )


def unwrapped(mesh: ImportedMesh, texture: int, size: int) -> ImportedMesh:
    """The mesh with a new atlas for one of its textures, whose UVs are appended. Raises MeshError."""
    rows = np.flatnonzero(mesh.triangles_of(texture))
    if len(rows) > MAX_FACES:
        raise MeshError(
            f"{mesh.name}: {len(rows):,} triangles of {mesh.textures[texture].name[:40]!r} are too many to be "
            f"unwrapped (at most {MAX_FACES:,}); give it UVs or fewer triangles where it was made"
        )
    part = welded(mesh, rows)
    normals = vertex_normals(part).astype(np.float32)
    try:
        source, faces, uv, count = make_atlas(part.vertices, part.faces.astype(np.uint32), normals, size)
    except AtlasError as error:
        raise MeshError(
            f"{mesh.name}: no UV atlas for {len(rows):,} triangles: {error}; give it UVs or fewer "
            "triangles where it was made"
        ) from None
    whole = faces.shape == part.faces.shape and np.array_equal(source[faces], part.faces)
    if count != 1 or not whole or not np.isfinite(uv).all():
        raise MeshError(
            f"{mesh.name}: the UV atlas of {len(rows):,} triangles does not fit one texture of {size} texels"
        )
    uv_faces = mesh.uv_faces.copy()
    uv_faces[rows] = faces.astype(np.int32) + len(mesh.uv)
    copy_uvs(mesh, uv_faces, texture)
    textures = list(mesh.textures)
    textures[texture] = replace(textures[texture], unwrapped=True, wrap="clamp")
    return replace(
        mesh,
        uv=np.concatenate([mesh.uv, uv.clip(0, 1).astype(np.float32)]),
        uv_faces=uv_faces,
        textures=tuple(textures),
    )


def welded(mesh: ImportedMesh, rows: np.ndarray) -> Mesh:
    """Some triangles of a mesh, with vertices at the same point merged: xatlas finds the same charts either way, but
    gives every vertex a UV, which would be three per triangle for an STL."""
    corners = mesh.vertices[mesh.faces[rows].ravel()]
    place = weld(corners, float(np.abs(corners).max()))
    first = np.full(place.max() + 1, len(corners))
    np.minimum.at(first, place, np.arange(len(corners)))
    return Mesh(corners[first], place.reshape(-1, 3))


def copy_uvs(mesh: ImportedMesh, uv_faces: np.ndarray, texture: int) -> None:
    """Give instanced parts the UVs of their originals, in place."""
    for rows, first, corners in mesh.copies():
        if mesh.materials[mesh.face_material[rows.start]].texture == texture:
            uv_faces[rows] = uv_faces[first][:, corners]
