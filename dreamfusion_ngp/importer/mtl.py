"""MTL files: the materials of an OBJ. Only the diffuse colour and its map are read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..base.errors import MeshError
from .files import excerpt

MAX_MTL = 1 << 24  # bytes
# How many words follow each option of a map. VECTORS: options with up to three numbers, the first required.
OPTIONS = {
    "-blendu": 1,
    "-blendv": 1,
    "-cc": 1,
    "-clamp": 1,
    "-texres": 1,
    "-imfchan": 1,
    "-bm": 1,
    "-boost": 1,
    "-type": 1,
    "-mm": 2,
}
VECTORS = {"-o": (0.0, 0.0, 0.0), "-s": (1.0, 1.0, 1.0), "-t": (0.0, 0.0, 0.0)}
MAPS = ("map_", "bump", "disp", "decal", "norm", "refl")


@dataclass
class MtlMaterial:
    """color: (3,) sRGB as written. alpha: in [0, 1]. map: the name of its image, as written, or None. line: of its
    newmtl, in the text of all libraries."""

    name: str
    line: int
    color: tuple[float, float, float] = (0.8, 0.8, 0.8)
    alpha: float = 1.0
    map: str | None = None
    clamp: bool = False


def mtl_lines(data: bytes) -> list[str]:
    """The lines of a library, without their ends; bytes that are not UTF-8 are kept for writing."""
    return data.decode("utf-8", "surrogateescape").lstrip("\ufeff").splitlines()


def statement(line: str) -> tuple[str, str]:
    """The keyword of a line, in small letters, and what follows it after spaces or tabs."""
    word, *rest = line.split(None, 1) or [""]
    return word.lower(), rest[0].strip() if rest else ""


def materials_of(lines: list[str]) -> dict[str, MtlMaterial]:
    """The materials by name; the later of two with one name. Raises MeshError."""
    materials, now = {}, None
    for number, line in enumerate(lines):
        key, rest = statement(line)
        if key == "newmtl":
            now = materials[rest] = MtlMaterial(rest, number)
        elif now is None:
            continue
        elif key == "kd":
            now.color = color(rest) or now.color
        elif key in ("d", "tr"):
            value = number_of(rest.split()[-1] if rest.split() else "")
            now.alpha = now.alpha if value is None else min(max(value if key == "d" else 1 - value, 0.0), 1.0)
        elif key == "map_kd":
            options, now.map = map_options(rest)
            if options.get("-o", VECTORS["-o"]) != VECTORS["-o"] or options.get("-s", VECTORS["-s"]) != VECTORS["-s"]:
                raise MeshError(
                    f"has a map of {excerpt(now.name)} that is moved or scaled (-o, -s); put that into its UVs"
                )
            now.clamp = options.get("-clamp") == "on"
    return materials


def number_of(word: str) -> float | None:
    try:
        value = float(word)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def color(text: str) -> tuple[float, float, float] | None:
    """Three numbers in [0, 1], or one for all three; None for a spectrum or another kind."""
    words = text.split()[:3]
    values = [value for word in words if (value := number_of(word)) is not None]
    if not values or len(values) < len(words):
        return None
    r, g, b = (min(max(v, 0.0), 1.0) for v in (values * 3 if len(values) < 3 else values)[:3])
    return r, g, b


def map_options(text: str) -> tuple[dict, str]:
    """The options of a map and the name of its file, which may have spaces."""
    words, options = text.split(), {}
    while words and words[0] in OPTIONS | VECTORS:
        option = words.pop(0)
        if option in OPTIONS:
            options[option] = " ".join(words[: OPTIONS[option]])
            del words[: OPTIONS[option]]
            continue
        values = list(VECTORS[option])
        for k in range(3):
            value = number_of(words[0]) if words else None
            if value is None or len(words) == 1:
                break
            values[k] = value
            del words[0]
        options[option] = tuple(values)
    return options, text[text.find(words[0]) :] if not options and words else " ".join(words)
