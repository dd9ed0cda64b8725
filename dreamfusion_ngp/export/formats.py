"""The mesh formats: which axes and units each has, how big an STL is and where the origin lies."""

from __future__ import annotations

import math
from typing import NamedTuple

from ..base.errors import UsageError


class Convention(NamedTuple):
    """What programs that read the format assume. A length of 1 in the scene is 1 metre."""

    up: str
    front: str  # the direction that the object's front faces
    unit: str


# Every format as its readers expect it, so that all files open upright, facing the viewer in the front view, and not
# mirrored. glTF prescribes its axes and metres. OBJ prescribes nothing; importers assume +Y up. Blender and slicers
# read PLY and STL as they are, in their own axes: +Z up, and Blender's front view looks along +Y, at what faces -Y.
# Slicers read the numbers of an STL as millimetres.
CONVENTIONS = {
    "glb": Convention("+Y", "+Z", "metres"),
    "obj": Convention("+Y", "+Z", "metres"),
    "ply": Convention("+Z", "-Y", "metres"),
    "stl": Convention("+Z", "-Y", "millimetres"),
}
FORMATS = tuple(CONVENTIONS)

STL_SIZE = 100.0  # millimetres, the longest side
STL_SIZES = (0.1, 10_000.0)
ORIGINS = ("scene", "base", "centre")


def check_formats(formats) -> tuple[str, ...]:
    """The formats, each once, in the order given. Raises UsageError."""
    formats = (formats,) if isinstance(formats, str) else tuple(dict.fromkeys(formats))
    unknown = [f for f in formats if f not in FORMATS]
    if unknown or not formats:
        problem = f"unknown mesh format {unknown[0]!r}" if unknown else "no mesh format given"
        raise UsageError(f"{problem}; choose from {', '.join(FORMATS)}")
    return formats


def check_size(size: float) -> float:
    """The longest side of an STL in millimetres. Raises UsageError."""
    low, high = STL_SIZES
    if not (math.isfinite(size) and low <= size <= high):
        raise UsageError(f"the size of an STL, its longest side, must be from {low:g} to {high:g} mm, got {size:g}")
    return float(size)


def check_origin(origin: str) -> str:
    """The origin; "center" is "centre". Raises UsageError."""
    origin = "centre" if origin == "center" else origin
    if origin not in ORIGINS:
        raise UsageError(f"unknown origin {origin!r}; choose from {', '.join(ORIGINS)}")
    return origin


def check_files(formats=None, size: float | None = None, origin: str | None = None) -> dict:
    """Those of the three that are not None, checked, by name. Raises UsageError."""
    given: dict = {} if formats is None else {"formats": check_formats(formats)}
    given |= {} if size is None else {"size": check_size(size)}
    return given | ({} if origin is None else {"origin": check_origin(origin)})


def conventions_text() -> str:
    """ "glb, obj: metres, +Y up, front +Z; ..."."""
    kinds = {}
    for name, convention in CONVENTIONS.items():
        kinds.setdefault(convention, []).append(name)
    return "; ".join(f"{', '.join(names)}: {c.unit}, {c.up} up, front {c.front}" for c, names in kinds.items())
