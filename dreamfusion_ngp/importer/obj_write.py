"""Writes an OBJ back: its text with only the necessary lines changed, one MTL and the images."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import numpy as np

from ..base.errors import MeshError
from ..scene.imported import ImportedMesh
from .files import read_beside
from .images import png_bytes, with_alpha
from .mtl import MAPS, map_options, materials_of, statement
from .obj_read import ObjSource

SURFACE = "surface"  # name of the material of polygons without one


def obj_files(mesh: ImportedMesh, images: dict[int, np.ndarray], stem: str) -> dict[str, bytes]:
    """The files of an OBJ by name: `stem`.obj, `stem`.mtl, the new images, and the other maps of its materials that lie
    beside the old file. images: (H, W, 3 or 4) uint8 by texture number."""
    file_names = {texture: f"{stem}_{texture}.png" if len(images) > 1 else f"{stem}.png" for texture in images}
    files = {
        name: png_bytes(with_alpha(images[texture], mesh.textures[texture].next_alpha()))
        for texture, name in file_names.items()
    }
    source = mesh.source
    surface = SURFACE
    while surface in materials_of(source.mtl):
        surface += "_"
    renamed = {one.name: one.name or surface for one in mesh.materials}
    image_names = {renamed[one.name]: file_names[one.texture] for one in mesh.materials if one.texture in file_names}
    unwrapped = {renamed[one.name] for one in mesh.materials if mesh.textures[one.texture].unwrapped}
    library, maps = new_library(source, image_names, unwrapped, stem)
    edits = library_edits(source, stem)
    if any(texture.unwrapped for texture in mesh.textures):
        edits += face_edits(mesh)
    if "" in renamed and image_names.get(surface):
        edits.append((start_of(source, source.face_lines[0]), 0, f"usemtl {surface}\n".encode()))
    return {f"{stem}.obj": edited(source.text, edits), f"{stem}.mtl": library} | maps | files


def edited(text: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """The text with edits (place, length, replacement) applied; edits at the same place stay in order."""
    out, at = [], 0
    for place, length, new in sorted(edits, key=lambda one: (one[0], one[1])):
        out += [text[at:place], new]
        at = place + length
    return b"".join([*out, text[at:]])


def start_of(source: ObjSource, line: int) -> int:
    """Where a line begins in the text."""
    return 0 if line == 0 else int(source.lines.end[line - 1]) + 1


def library_edits(source: ObjSource, stem: str) -> list[tuple[int, int, bytes]]:
    """Edits that name the new library where the first one was named, and comment out the others."""
    lines, name = source.lines.starting(b"mtllib"), f"mtllib {stem}.mtl".encode("utf-8", "surrogateescape")
    if not len(lines):
        return [(0, 0, name + b"\n")]
    edits = []
    for k, line in enumerate(lines):
        start, end = int(source.lines.start[line]), int(source.lines.end[line])
        length = len(source.text[start:end].rstrip(b"\r"))
        edits.append((start, length, name if k == 0 else b"# " + name))
    return edits


def new_library(
    source: ObjSource, image_names: dict[str, str], unwrapped: set[str], stem: str
) -> tuple[bytes, dict[str, bytes]]:
    """One MTL of all libraries, and the other maps that it names, by their new file names. image_names: file names of
    the new images by material. Unwrapped materials lose their other maps, which were made for the old UVs."""
    materials, out, maps, now = materials_of(source.mtl), [], {}, None
    for number, line in enumerate(source.mtl):
        key, rest = statement(line)
        if key == "newmtl":
            now = rest
            out.append(line)
            if now in image_names and materials[now].line == number:
                out += ["Kd 1 1 1", f"map_Kd {image_names[now]}"]
            continue
        if now in image_names and (key in ("kd", "map_kd") or (key == "map_ka" and same_map(rest, materials[now].map))):
            continue
        if key.startswith(MAPS):
            if now in unwrapped:
                continue
            line = moved_map(source, line, rest, maps, stem)
        out.append(line)
    for name in image_names.keys() - materials.keys():
        out += [f"newmtl {name}", "Kd 1 1 1", f"map_Kd {image_names[name]}"]
    text = "\n".join(out) + "\n"
    return text.encode("utf-8", "surrogateescape"), dict(maps.values())


def same_map(rest: str, name: str | None) -> bool:
    return name is not None and map_options(rest.strip())[1] == name


def moved_map(source: ObjSource, line: str, rest: str, maps: dict[str, tuple[str, bytes]], stem: str) -> str:
    """The line of a map with the new name of its file, which is added to `maps`. A map whose file is not beside the old
    OBJ keeps its name."""
    name = map_options(rest.strip())[1]
    if name not in line:
        return line
    if name not in maps:
        try:
            data = read_beside(source.folder, name)
        except MeshError:
            return line
        plain = re.sub(r"[^\w.-]", "_", PurePosixPath(name.replace("\\", "/")).name)
        maps[name] = f"{stem}_map{len(maps)}_{plain}", data
    head = line[: line.rindex(name)]
    return head + maps[name][0]


def face_edits(mesh: ImportedMesh) -> list[tuple[int, int, bytes]]:
    """Edits that insert the new UVs before the first polygon and rewrite every polygon with absolute indices: those of
    unwrapped textures as triangles, whose corners may lie apart in the atlas, the others as they were."""
    source = mesh.source
    first_face = int(source.face_lines[0])
    uv_lines = source.lines.starting(b"vt")
    before = int(np.searchsorted(uv_lines, first_face))
    old = len(uv_lines)
    new = mesh.uv[old:]
    block = "".join(f"vt {u!s} {v!s}\n" for u, v in new).encode()

    def uv_number(index: np.ndarray) -> np.ndarray:
        """Indices from 1, once the new UVs are inserted between the old ones; 0 for none."""
        return np.where(
            index < 0,
            0,
            np.where(index < before, index, np.where(index < old, index + len(new), before + index - old)) + 1,
        )

    changed = np.array([texture.unwrapped for texture in mesh.textures])[mesh.face_texture()]
    corner = source.indices + 1
    corner[:, 1] = uv_number(source.indices[:, 1])
    triangle = corner[source.places]  # (F, 3, 3)
    triangle[changed, :, 1] = uv_number(mesh.uv_faces[changed])
    of_polygon = np.searchsorted(source.polygon, np.arange(len(source.corners) + 1))
    first_corner = np.cumsum(source.corners) - source.corners
    edits = [(start_of(source, first_face), 0, block)]
    for k, line in enumerate(source.face_lines):
        start, end = int(source.lines.start[line]), int(source.lines.end[line])
        length = len(source.text[start:end].rstrip(b"\r"))
        rows = slice(of_polygon[k], of_polygon[k + 1])
        polygon = corner[None, first_corner[k] : first_corner[k] + source.corners[k]]
        edits.append((start, length, face_text(triangle[rows] if changed[rows.start] else polygon)))
    return edits


def face_text(polygons: np.ndarray) -> bytes:
    """The lines of polygons (P, C, 3) of absolute indices, 0 for none."""

    def word(v: int, vt: int, vn: int) -> str:
        return f"{v}/{vt or ''}/{vn}" if vn else f"{v}/{vt}" if vt else str(v)

    return "\n".join("f " + " ".join(word(*one) for one in polygon) for polygon in polygons.tolist()).encode()
