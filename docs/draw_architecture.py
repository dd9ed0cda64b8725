"""Draws docs/architecture.svg: the folders of the package on the floors of tests/test_layers.py, and what they import.

    python docs/draw_architecture.py

An arrow means "imports". One that follows from others is left out: optimise uses scene, but through render as well.
"""

import ast
import re
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "dreamfusion_ngp"
PICTURE = HERE / "architecture.svg"
# Where a room stands, 0 (left) to 4 (right), and what is in it.
ROOMS = {
    "cli": (4, "the command line"),
    "experiments": (1.2, "what the reports are made of"),
    "bench": (0.6, "kernels beside their peers"),
    "evaluation": (2, "metrics, judge, tables"),
    "doctor": (4, "checks an installation"),
    "toybox": (3, "the embedded world, its prior"),
    "runs": (1.25, "the verbs, folder, checkpoint"),
    "importer": (0, "meshes of other programs"),
    "export": (0, "isosurface, atlas, files, video"),
    "optimise": (1.25, "stages, executors, loop"),
    "guidance": (3, "diffusion models: rules, families"),
    "render": (1.25, "volumes, meshes, losses"),
    "scene": (2, "cameras, fields, surfaces"),
    "hub": (3, "model names, fetching"),
    "ops": (4, "one file an op, slow twins"),
    "config": (1, "schema, presets, prompts"),
    "base": (2, "errors, files, devices, random numbers, native module, precision"),
}
WIDTH, FLOOR, BOX, STEP, LEFT = 1000, 72, (186, 40), 200, 100
TURN, TIP = 64, 8  # heights of an arrow's curve and of its head
HIDDEN = {"__init__", "__main__"}  # the doors of the package; they hold nothing


def floors() -> list[list[str]]:
    """LAYERS of tests/test_layers.py, the highest first."""
    text = (HERE.parent / "tests" / "test_layers.py").read_text(encoding="utf-8")
    lines = re.search(r'LAYERS = """\n(.*?)"""', text, re.DOTALL)[1].splitlines()
    rows = [[name for name in line.split() if name not in HIDDEN] for line in lines]
    return [row for row in rows if row][::-1]


def rooms() -> set[str]:
    """The folders and lone modules of the package."""
    names = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in PACKAGE.rglob("*.py")}
    return names - HIDDEN


def imports() -> dict[str, set[str]]:
    """What each room imports from other rooms, anywhere in its modules."""
    found = {room: set() for room in rooms()}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if parts[0] in found and isinstance(node, ast.ImportFrom) and node.level:
                package = [*parts[: len(parts) - node.level], *(node.module or "").split(".")]
                found[parts[0]] |= {package[0]} if package[0] else {alias.name for alias in node.names}
    return {room: (targets & found.keys()) - {room} for room, targets in found.items()}


def reduced(edges: dict[str, set[str]]) -> set[tuple[str, str]]:
    """The edges of a graph without circles that do not follow from others."""

    def below(room: str) -> set[str]:
        return edges[room].union(*(below(target) for target in edges[room]))

    return {
        (room, target)
        for room, targets in edges.items()
        for target in targets
        if not any(target in below(other) for other in targets - {target})
    }


def place(room: str, floor: int) -> tuple[float, float, float]:
    """Middle of a room, and its width; base carries all others."""
    return LEFT + STEP * ROOMS[room][0], 30 + FLOOR * floor, WIDTH - 40 if room == "base" else BOX[0]


def drawing() -> str:
    rows = floors()
    places = {room: place(room, floor) for floor, row in enumerate(rows) for room in row}
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {FLOOR * len(rows)}" font-family="sans-serif">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#567"/></marker></defs>',
        '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    for room, target in sorted(reduced(imports())):
        (x0, y0, _), (x1, y1, width) = places[room], places[target]
        if width > BOX[0]:
            x1 = x0
        y0, y1 = y0 + BOX[1] / 2, y1 - BOX[1] / 2
        # Outwards it turns at once, inwards at the end, so that it passes beside the rooms between.
        outwards = abs(x1 - WIDTH / 2) > abs(x0 - WIDTH / 2)
        start, end = (y0, min(y1 - TIP, y0 + TURN)) if outwards else (max(y0, y1 - TURN), y1 - TIP)
        middle = (start + end) / 2
        curve = f"V{start:g}C{x0:g} {middle:g} {x1:g} {middle:g} {x1:g} {end:g}V{y1:g}"
        out.append(
            f'<path class="{room}-{target}" d="M{x0:g} {y0:g}{curve}" fill="none" stroke="#567" stroke-width="1.5" '
            'marker-end="url(#tip)"/>'
        )
    for room, (x, y, width) in places.items():
        out.append(
            f'<g id="{room}"><rect x="{x - width / 2:g}" y="{y - BOX[1] / 2:g}" width="{width:g}" height="{BOX[1]}" '
            'rx="5" fill="#eef3f8" stroke="#567"/>'
            f'<text x="{x:g}" y="{y - 3:g}" text-anchor="middle" font-size="14" font-weight="bold">{room}</text>'
            f'<text x="{x:g}" y="{y + 12:g}" text-anchor="middle" font-size="11">{escape(ROOMS[room][1])}</text></g>'
        )
    return "\n".join([*out, "</svg>"]) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(drawing(), encoding="utf-8")
