"""STL files, binary and text: triangles only, with three separate vertices each, as in the file."""

from __future__ import annotations

import re

import numpy as np

from ..base.errors import MeshError
from .text import Lines, parse_numbers

RECORD = np.dtype([("normal", "<f4", 3), ("vertices", "<f4", (3, 3)), ("attribute", "<u2")])
HEADER = 80


def read_stl(data: bytes) -> np.ndarray:
    """(F, 3, 3) float32 corners of the triangles. Raises MeshError."""
    if len(data) >= HEADER + 4:
        count = int.from_bytes(data[HEADER : HEADER + 4], "little")
        if len(data) == HEADER + 4 + count * RECORD.itemsize:
            return np.frombuffer(data, RECORD, count, HEADER + 4)["vertices"].copy()
    if data[:512].lstrip().lower().startswith(b"solid") and b"\0" not in data[:512]:
        return read_text(data)
    if len(data) >= HEADER + 4:
        needed = HEADER + 4 + count * RECORD.itemsize
        raise MeshError(
            f"is no STL file or is cut short: {count:,} triangles take {needed:,} bytes, it has {len(data):,}"
        )
    raise MeshError("is no STL file or is cut short")


def read_text(data: bytes) -> np.ndarray:
    """(F, 3, 3) float32 corners of the triangles of all solids of a text STL. Raises MeshError."""
    if not re.search(rb"endsolid[^\n]*\s*\Z", data[-4096:].lower()):
        raise MeshError("is cut short: it does not end with endsolid")
    lines = Lines(data.lower())
    vertices, facets, loops = (lines.starting(word) for word in (b"vertex", b"facet", b"outer"))
    ends = [lines.starting(word) for word in (b"endloop", b"endfacet")]
    if len(vertices) != 3 * len(facets) or {len(loops), *map(len, ends)} != {len(facets)}:
        raise MeshError("is damaged: not every facet has three vertices")
    text = lines.joined(vertices, len(b"vertex"))
    return parse_numbers(text, np.float64, 3 * len(vertices), "a vertex").astype(np.float32).reshape(-1, 3, 3)
