"""OBJ files: positions, UVs and polygons with the file's own indices; the text is kept for writing it back.

Polygons become triangles. Vertices are not merged or split; faces keep the order of the file. Format:
Wavefront, Object Files (.obj), appendix B1 of its Advanced Visualizer manual.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..base.errors import MeshError
from ..scene.imported import ImportedMesh, Material, Part, Texture, normalisation, transform_points, used_vertices
from .document import linear
from .files import beside, excerpt, read_beside
from .gltf_read import MAX_FACES, MAX_MATERIALS, MAX_VERTICES
from .images import Decoder
from .mtl import MAX_MTL, MtlMaterial, materials_of, mtl_lines
from .polygons import triangulated
from .text import Lines, parse_numbers, words_per_line

GREY = (0.8, 0.8, 0.8)


@dataclass
class ObjSource:
    """What is needed to write the file back. text: its bytes. lines: their lines. face_lines: (P,) line numbers of the
    polygons, with `corners` (P,) corners each. indices: (C, 3) int64 of every corner: position, UV, normal, from 0, -1
    for none. places: (F, 3) the triangles' corners. polygon: (F,) the polygon of each triangle. mtl: the lines of the
    libraries. folder: where they were."""

    text: bytes
    lines: Lines
    face_lines: np.ndarray
    corners: np.ndarray
    indices: np.ndarray
    places: np.ndarray
    polygon: np.ndarray
    mtl: list[str]
    folder: Path


def read_obj(data: bytes, folder: Path, name: str, up: str, front: str, side: float) -> ImportedMesh:
    """The mesh of an OBJ file whose libraries and images lie in `folder`. Raises MeshError."""
    if b"\0" in data[:4096]:
        raise MeshError("is no OBJ file: it is not text")
    text = data if b"\n" in data else data.replace(b"\r", b"\n")
    lines = Lines(text.replace(b"\\\r\n", b"   ").replace(b"\\\n", b"  "))
    points, uv, colors = vertices_of(lines)
    face_lines, corners, indices = polygons(lines, len(points), len(uv))
    places, polygon = triangulated(points[indices[:, 0]], corners)
    faces, uv_faces = (indices[:, k].astype(np.int32)[places] for k in (0, 1))
    uv_faces[(uv_faces < 0).any(1)] = -1
    mtl = libraries(lines, folder)
    names, of_line = spans(lines, [b"usemtl"], face_lines)
    materials, textures = colouring(materials_of(mtl), names, folder)
    parts, part_of_line = spans(lines, [b"o", b"g"], face_lines)
    matrix = normalisation(points[used_vertices(len(points), faces)], up, front, side)
    if any(texture.image is not None for texture in textures):
        colors = None  # programs that show both are rare
    return ImportedMesh(
        name=name,
        vertices=transform_points(points, matrix).astype(np.float32),
        faces=faces,
        uv=uv,
        uv_faces=uv_faces,
        colors=colors,
        materials=materials,
        face_material=of_line[polygon],
        textures=textures,
        parts=tuple(Part(part) for part in parts),
        face_part=part_of_line[polygon],
        matrix=matrix,
        source=ObjSource(text, lines, face_lines, corners, indices, places, polygon, mtl, folder),
    )


def columns(lines: Lines, keyword: bytes, least: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    """(L, at most 8) float64, the numbers on the lines of a keyword, padded with zeros, and (L,) how many each has."""
    text = lines.joined(lines.starting(keyword), len(keyword))
    counts = words_per_line(text) if text else np.zeros(0, np.int64)
    if len(counts) and not least <= counts.min() <= counts.max() <= 8:
        raise MeshError(f"is cut short or damaged: {what} has {counts[(counts < least) | (counts > 8)][0]} numbers")
    if len(counts) > MAX_VERTICES:
        raise MeshError(f"has more than {MAX_VERTICES:,} vertices or UVs")
    values = parse_numbers(text, np.float64, int(counts.sum()), what)
    if len(counts) and counts.min() == counts.max():
        return values.reshape(len(counts), -1), counts
    row = np.repeat(np.arange(len(counts)), counts)
    table = np.zeros((len(counts), 8))
    table[row, np.arange(len(row)) - (np.cumsum(counts) - counts)[row]] = values
    return table, counts


def vertices_of(lines: Lines) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Positions (V, 3) float64, UVs (U, 2) float32, colours (V, 4) float32 linear or None. Raises MeshError."""
    table, counts = columns(lines, b"v", 3, "a vertex")
    if not len(table):
        raise MeshError("has no vertices; is it an OBJ file?")
    colors = None
    if (counts >= 6).all():  # x y z r g b, as ZBrush and MeshLab write it
        rgb = np.where(np.isfinite(table[:, 3:6]), table[:, 3:6], 0.0)
        rgb = linear((rgb / (255.0 if rgb.max() > 1 else 1.0)).clip(0, 1))
        colors = np.concatenate([rgb, np.ones((len(rgb), 1), np.float32)], 1)
    uv, _ = columns(lines, b"vt", 1, "a UV")
    uv = np.concatenate([uv, np.zeros((len(uv), 1))], 1)[:, :2]
    with np.errstate(over="ignore"):
        uv = uv.astype(np.float32)
    if not np.isfinite(table[:, :3]).all() or not np.isfinite(uv).all():
        raise MeshError("has numbers that are not finite")
    return np.ascontiguousarray(table[:, :3]), uv, colors


def polygons(lines: Lines, vertices: int, uvs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(P,) the polygons' line numbers, (P,) their numbers of corners, (C, 3) int64 indices of position, UV and normal
    of every corner, from 0, -1 for none. Raises MeshError."""
    face_lines = lines.starting(b"f")
    text = lines.joined(face_lines, 1)
    if not len(face_lines):
        raise MeshError("has no triangles")
    corners = words_per_line(text)
    if corners.min() < 3:
        raise MeshError(f"is cut short or damaged: a face has {corners.min()} corners")
    if (corners - 2).sum() > MAX_FACES:
        raise MeshError(f"has more than {MAX_FACES:,} triangles")
    text = text.replace(b"//", b"/0/")
    slashes = slashes_per_word(text, int(corners.sum()))
    if slashes.max() > 2:
        raise MeshError("is damaged: a corner of a face has more than three numbers")
    text = text.replace(b"/", b" ")
    numbers = parse_numbers(text, np.int64, int((slashes + 1).sum()), "a face")
    first = np.cumsum(slashes + 1) - (slashes + 1)
    indices = np.zeros((len(slashes), 3), np.int64)
    for k in range(3):
        has = slashes >= k
        indices[has, k] = numbers[first[has] + k]
    limits = (vertices, uvs, len(lines.starting(b"vn")))
    for k, (keyword, limit) in enumerate(zip((b"v", b"vt", b"vn"), limits, strict=True)):
        resolve(indices[:, k], lines, keyword, face_lines, corners, limit)
    if indices[:, 0].min() < 0:
        raise MeshError("is damaged: a face names vertex 0; the first is 1")
    return face_lines, corners, indices


def slashes_per_word(text: bytes, words: int) -> np.ndarray:
    """(W,) the number of slashes in each word."""
    data = np.frombuffer(text, np.uint8)
    word = data > 32
    start = word.copy()
    start[1:] &= ~word[:-1]
    which = np.cumsum(start, dtype=np.int32)[data == ord("/")]
    return np.bincount(which - 1, minlength=words)


def resolve(index: np.ndarray, lines: Lines, keyword: bytes, face_lines, corners, limit: int) -> None:
    """Convert indices from OBJ's (from 1, or negative, counted back from their line) to indices from 0, in place; 0,
    which stands for none, becomes -1. Raises MeshError."""
    back = np.flatnonzero(index < 0)
    if len(back):
        before = np.searchsorted(lines.starting(keyword), face_lines)
        index[back] += np.repeat(before, corners)[back] + 1
        if (index[back] < 1).any():
            raise MeshError(f"is damaged: a face counts back beyond the first line of {keyword.decode()}")
    if index.max(initial=0) > limit:
        raise MeshError(f"is cut short or damaged: a face names {keyword.decode()} {index.max():,} of {limit:,}")
    index -= 1


def spans(lines: Lines, keywords: list[bytes], face_lines: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The text of the last line with one of these keywords before each polygon, "" if there is none: the texts in the
    order of their first polygons, and (P,) int32 the text of each polygon."""
    marks = sorted((int(line), len(word)) for word in keywords for line in lines.starting(word))
    texts = [""] + [lines.rest(line, skip).decode("utf-8", "surrogateescape") for line, skip in marks]
    last = np.searchsorted(np.array([line for line, _ in marks], np.int64), face_lines)
    names, of_text = {}, np.zeros(len(texts), np.int32)
    for k in np.unique(last):
        of_text[k] = names.setdefault(texts[k], len(names))
    return list(names), of_text[last]


def libraries(lines: Lines, folder: Path) -> list[str]:
    """The lines of all libraries that the file names. Raises MeshError."""
    library, names = [], []
    for line in lines.starting(b"mtllib"):
        text = lines.rest(line, len(b"mtllib")).decode("utf-8", "surrogateescape")
        several = len(text.split()) > 1 and not (folder / text).is_file()  # names, or one with spaces in it
        names += text.split() if several else [text]
    for name in dict.fromkeys(names):
        try:
            library += mtl_lines(read_beside(folder, name, MAX_MTL))
        except MeshError as error:
            raise MeshError(f"{error} (its line mtllib; without that line it is read in one grey)") from None
    return library


def colouring(
    library: dict[str, MtlMaterial], names: list[str], folder: Path
) -> tuple[tuple[Material, ...], tuple[Texture, ...]]:
    """The materials `names`, looked up in `library`, and their textures. Materials with the same image share a texture.
    A material with an image has no other colour, as in most programs. Raises MeshError."""
    if len(names) > MAX_MATERIALS:
        raise MeshError(f"has more than {MAX_MATERIALS:,} materials")
    decode, slots, materials, textures = Decoder(), {}, [], []
    for name in names:
        one = library.get(name, MtlMaterial(name, -1, GREY))
        path = beside(folder, one.map) if one.map else None
        key = path or ("material", name)
        if key not in slots:
            slots[key] = len(textures)
            image = decode(read_beside(folder, one.map), f"image {excerpt(one.map)}") if one.map else None
            textures.append(Texture(name or "no material", image, "clamp" if one.clamp else "repeat"))
        rgb = (1.0, 1.0, 1.0) if path else one.color
        materials.append(Material(name, slots[key], np.append(linear(rgb), np.float32(one.alpha))))
    return tuple(materials), tuple(textures)
