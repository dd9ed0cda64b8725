"""Writes a mesh back with new images; everything else in its file stays as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..base.errors import ExportError, UsageError
from ..base.files import write_together
from ..scene.imported import ImportedMesh
from .gltf_write import glb_bytes
from .images import checked_image
from .obj_read import ObjSource
from .obj_write import obj_files


def suffix_of(mesh: ImportedMesh) -> str:
    """The suffix with which a mesh is written back: ".obj" for an OBJ, ".glb" for all others, as PLY and STL hold no
    texture, and a .gltf becomes one file."""
    return ".obj" if isinstance(mesh.source, ObjSource) else ".glb"


def suffix_for(path: Path) -> str:
    """`suffix_of` the mesh of a file, by the file's name."""
    return ".obj" if path.suffix.lower() == ".obj" else ".glb"


def mesh_files(mesh: ImportedMesh, images: dict[int, np.ndarray], stem: str) -> dict[str, bytes]:
    """The files of a mesh by name, the mesh last. images: (H, W, 3 or 4) uint8 sRGB by texture number; the other
    textures keep their images, unless they were unwrapped. Raises ValueError for other images."""
    if bad := [number for number in images if number not in range(len(mesh.textures))]:
        raise ValueError(f"the mesh has {len(mesh.textures)} textures, no number {bad[0]}")
    if bare := [number for number, one in enumerate(mesh.textures) if one.unwrapped and number not in images]:
        raise ValueError(f"texture {bare[0]} has new UVs, which its old image does not fit: give it an image")
    images = {number: checked_image(image) for number, image in sorted(images.items())}
    if isinstance(mesh.source, ObjSource):
        files = obj_files(mesh, images, stem)
        return {name: files[name] for name in sorted(files, key=lambda name: name == f"{stem}.obj")}
    return {f"{stem}.glb": glb_bytes(mesh, images)}


def write_mesh(mesh: ImportedMesh, path, images: dict[int, np.ndarray]) -> list[str]:
    """Write a mesh back in its own format (`suffix_of`), with new images by texture number. Returns the absolute paths,
    the mesh last. Vertices, triangles, their order, names, nodes, place and size are those of the file that was read;
    UVs too, unless they were unwrapped.

    The files are written all or none. Raises UsageError for another suffix, ExportError where a file cannot be written,
    ValueError for images of another kind.
    """
    path = Path(path)
    if path.suffix.lower() != suffix_of(mesh):
        raise UsageError(
            f"{mesh.name} is written back as {suffix_of(mesh)}, not as {path.suffix or 'a file without suffix'}"
        )
    files = mesh_files(mesh, images, path.stem)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = path.parent.resolve()
        write_together(folder, files)
    except OSError as error:
        raise ExportError(f"cannot write to {path.parent}: {error.strerror or error}") from None
    return [str(folder / name) for name in files]
