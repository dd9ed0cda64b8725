"""PLY files, text and binary, of either byte order: vertices with colours and UVs, polygons as triangles.

Header and types: Turk, The PLY Polygon File Format (1994); names of UVs and textures as MeshLab and Blender write them.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from ..base.errors import MeshError
from .files import excerpt
from .polygons import triangulated
from .text import parse_numbers, words_per_line

KINDS = {
    "char": "i1",
    "uchar": "u1",
    "short": "i2",
    "ushort": "u2",
    "int": "i4",
    "uint": "u4",
    "float": "f4",
    "double": "f8",
}
KINDS |= {"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"}
KINDS |= {"float32": "f4", "float64": "f8", "int64": "i8", "uint64": "u8"}
LENGTHS = {name: kind for name, kind in KINDS.items() if kind[0] != "f"}
MAX_HEADER = 1 << 16  # bytes
UV_NAMES = (("u", "v"), ("s", "t"), ("texture_u", "texture_v"))
INDEX_NAMES = ("vertex_indices", "vertex_index")


class Property(NamedTuple):
    """length: the type of a list's length, or None for a single value."""

    name: str
    kind: str
    length: str | None


class Element(NamedTuple):
    name: str
    count: int
    properties: list[Property]


class Ply(NamedTuple):
    """vertices (V, 3) float32, faces (F, 3) int64, uv (V, 2) float32 with its origin at the bottom left or None, colors
    (V, 4) float32 sRGB in [0, 1] or None, texture: the name of its file or None."""

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray | None
    colors: np.ndarray | None
    texture: str | None


def read_ply(data: bytes) -> Ply:
    """Raises MeshError."""
    elements, order, texture, body = header(data)
    values = text_values(data[body:], elements) if order is None else binary_values(data, body, elements, order)
    vertex = {name: one for name, one in values.get("vertex", {}).items() if not isinstance(one, tuple)}
    if not {"x", "y", "z"} <= vertex.keys():
        raise MeshError("has no vertices")
    face = values.get("face", {})
    vertices = np.stack([vertex[name] for name in "xyz"], -1).astype(np.float32)
    index = next((face[name] for name in INDEX_NAMES if name in face), None)
    if index is None or not isinstance(index, tuple) or not len(index[0]):
        raise MeshError("has no triangles" + ("; triangle strips are not read" if "tristrips" in values else ""))
    counts, corners = index
    if counts.min() < 3:
        raise MeshError(f"has a face of {counts.min()} corners")
    if not ((corners >= 0) & (corners < len(vertices))).all():
        raise MeshError(f"is damaged: a face names a vertex that is none of its {len(vertices):,}")
    uv = next((np.stack([vertex[a], vertex[b]], -1) for a, b in UV_NAMES if {a, b} <= vertex.keys()), None)
    colors = colors_of(vertex, {e.name: e for e in elements}["vertex"])
    corners = corners.astype(np.int64)
    places, _ = triangulated(vertices[corners], counts)
    faces = corners[places]
    if isinstance(face.get("texcoord"), tuple) and np.array_equal(face["texcoord"][0], 2 * counts):
        each = face["texcoord"][1].reshape(-1, 2)[places].astype(np.float32)
        vertices, faces, uv, colors = split(vertices, faces, each, colors)
    return Ply(vertices, faces, None if uv is None else uv.astype(np.float32), colors, texture)


def split(vertices: np.ndarray, faces: np.ndarray, uv: np.ndarray, colors: np.ndarray | None):
    """The mesh with one vertex per distinct pair of vertex and corner UV (F, 3, 2), in the order of their first
    corners."""
    rows = np.stack([faces.ravel(), np.ascontiguousarray(uv).view(np.int64).ravel()])
    order = np.lexsort(rows[::-1])
    new = np.concatenate([[True], (np.diff(rows[:, order]) != 0).any(0)])
    first = order[new]
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    number = np.empty(faces.size, np.int64)
    number[order] = rank[np.cumsum(new) - 1]
    at = np.sort(first)
    source = faces.ravel()[at]
    return vertices[source], number.reshape(-1, 3), uv.reshape(-1, 2)[at], None if colors is None else colors[source]


def header(data: bytes) -> tuple[list[Element], str | None, str | None, int]:
    """(elements, byte order or None for text, the texture's name or None, where the body begins). Raises MeshError."""
    if data[:3] != b"ply":
        raise MeshError(f"is not a PLY file: it begins with {excerpt(data[:8])}")
    end = re.compile(rb"(?m)^end_header\s*?(\r\n|\n|\r)").search(data, 0, MAX_HEADER)
    if not end:
        raise MeshError("is cut short or damaged: its header does not end")
    lines = [line.split() for line in data[: end.start()].decode("utf-8", "replace").splitlines()[1:] if line.strip()]
    orders = {"ascii": None, "binary_little_endian": "<", "binary_big_endian": ">"}
    if not lines or lines[0][0] != "format" or len(lines[0]) < 2 or lines[0][1] not in orders:
        raise MeshError("is damaged: its header names no format")
    elements, texture = [], None
    for words in lines[1:]:
        try:
            if words[0] == "element":
                elements.append(Element(words[1], int(words[2]), []))
                if not 0 <= elements[-1].count <= len(data):
                    raise MeshError(
                        f"is damaged or cut short: {elements[-1].count:,} of {excerpt(words[1])} in {len(data):,} bytes"
                    )
            elif words[0] == "property" and words[1] == "list":
                elements[-1].properties.append(Property(words[4], KINDS[words[3]], LENGTHS[words[2]]))
            elif words[0] == "property":
                elements[-1].properties.append(Property(words[2], KINDS[words[1]], None))
            elif words[0] == "comment" and words[1:2] and words[1].lower() == "texturefile":
                texture = " ".join(words[2:])
        except (IndexError, KeyError, ValueError):
            raise MeshError(f"is damaged: its header has the line {excerpt(' '.join(words))}") from None
    if len({element.name for element in elements}) != len(elements):
        raise MeshError("is damaged: its header names an element twice")
    return elements, orders[lines[0][1]], texture, end.end()


def binary_values(data: bytes, at: int, elements: list[Element], order: str) -> dict:
    """Columns of the elements by name: arrays (N,), or for lists (lengths (N,), all values). Raises MeshError."""
    columns = {}
    for element in elements:
        columns[element.name], at = binary_element(data, at, element, order)
    return columns


def binary_element(data: bytes, at: int, element: Element, order: str) -> tuple[dict, int]:
    """The columns of an element and where the next begins. Lists of the same length in every row are read at once."""
    if not element.count or not element.properties:
        return {
            p.name: np.zeros(0) if p.length is None else (np.zeros(0, np.int64), np.zeros(0))
            for p in element.properties
        }, at
    lengths, where = {}, at  # lengths of the lists in the first row, assumed for all rows
    for p in element.properties:
        kinds = np.dtype(order + (p.length or p.kind)), np.dtype(order + p.kind)
        if p.length is not None:
            lengths[p.name] = int(np.frombuffer(whole(data, where, kinds[0].itemsize), kinds[0])[0])
            if not 0 <= lengths[p.name] <= len(data):
                raise MeshError("is damaged: a list has a length that cannot be")
        where += kinds[0].itemsize + lengths.get(p.name, 0) * kinds[1].itemsize * (p.length is not None)
    if at + (where - at) * element.count <= len(data):
        fields = []
        for k, p in enumerate(element.properties):
            fields += [(f"n{k}", order + p.length)] if p.length else []
            fields += [(f"v{k}", order + p.kind, (lengths[p.name],) if p.length else ())]
        table = np.frombuffer(data, np.dtype(fields), element.count, at)
        if all((table[f"n{k}"] == lengths[p.name]).all() for k, p in enumerate(element.properties) if p.length):
            columns = {}
            for k, p in enumerate(element.properties):
                column = table[f"v{k}"]
                columns[p.name] = (table[f"n{k}"].astype(np.int64), column.ravel()) if p.length else column
            return columns, at + table.nbytes
    return ragged_element(data, at, element, order)


def ragged_element(data: bytes, at: int, element: Element, order: str) -> tuple[dict, int]:
    """As `binary_element`, row by row."""
    kinds = [(p, np.dtype(order + (p.length or p.kind)), np.dtype(order + p.kind)) for p in element.properties]
    chunks, lengths = {p.name: [] for p in element.properties}, {p.name: [] for p in element.properties}
    for _ in range(element.count):
        for p, first, kind in kinds:
            size = first.itemsize
            if p.length is not None:
                count = int(np.frombuffer(whole(data, at, size), first)[0])
                if count < 0:
                    raise MeshError("is damaged: a list has a length that cannot be")
                lengths[p.name].append(count)
                at, size = at + size, count * kind.itemsize
            chunks[p.name].append(whole(data, at, size))
            at += size
    columns = {}
    for p, _, kind in kinds:
        values = np.frombuffer(b"".join(chunks[p.name]), kind)
        columns[p.name] = (np.array(lengths[p.name], np.int64), values) if p.length else values
    return columns, at


def whole(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise MeshError("is cut short or damaged: its elements end after the file")
    return data[at : at + size]


def text_values(body: bytes, elements: list[Element]) -> dict:
    """As `binary_values`, of a text body: one row a line. Raises MeshError."""
    text = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    words = words_per_line(text if text.endswith(b"\n") else text + b"\n")
    words = words[words > 0]
    numbers = parse_numbers(text, np.float64, int(words.sum()), "a row")
    columns, line, at = {}, 0, 0
    for element in elements:
        rows = words[line : line + element.count]
        if len(rows) < element.count:
            raise MeshError(f"is cut short: it has {len(rows):,} of {element.count:,} rows of {excerpt(element.name)}")
        values = numbers[at : at + rows.sum()]
        columns[element.name] = text_element(values, rows, element)
        line, at = line + element.count, at + int(rows.sum())
    return columns


def text_element(values: np.ndarray, rows: np.ndarray, element: Element) -> dict:
    """The columns of an element from its numbers and the count of numbers in each row."""
    columns, place = {}, np.cumsum(rows) - rows
    end = place + rows
    for p in element.properties:
        if len(place) and (place >= end).any():
            raise MeshError(f"is cut short or damaged: a row of {excerpt(element.name)} is too short")
        if p.length is None:
            columns[p.name], place = values[place], place + 1
            continue
        counts = values[place]
        if len(counts) and not ((counts >= 0) & (counts <= rows) & (counts % 1 == 0)).all():
            raise MeshError("is damaged: a list has a length that cannot be")
        counts = counts.astype(np.int64)
        if (place + 1 + counts > end).any():
            raise MeshError(f"is cut short or damaged: a row of {excerpt(element.name)} is too short")
        first = np.repeat(place + 1 - (np.cumsum(counts) - counts), counts)
        columns[p.name] = counts, values[first + np.arange(len(first))]
        place = place + 1 + counts
    return columns


def colors_of(vertex: dict, element: Element) -> np.ndarray | None:
    """(V, 4) float32 sRGB of a vertex element, or None. Integers are scaled by the largest of their type."""
    names = ["red", "green", "blue"] + (["alpha"] if "alpha" in vertex else [])
    if not set(names) <= vertex.keys():
        return None
    kinds = {p.name: p.kind for p in element.properties}
    full = [np.iinfo(kinds[name]).max if kinds[name][0] in "iu" else 1.0 for name in names]
    colors = np.stack([np.asarray(vertex[n], np.float32) / f for n, f in zip(names, full, strict=True)], -1)
    return np.concatenate([colors, np.ones((len(colors), 4 - colors.shape[1]), np.float32)], 1).clip(0, 1)
