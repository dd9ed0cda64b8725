"""Plots as SVG and tables as Markdown, for the reports of benches/. Standard library only."""

from __future__ import annotations

import math
from html import escape
from itertools import pairwise

COLORS = (
    "#1f77b4",
    "#d62728",
    "#2ca02c",
    "#9467bd",
    "#8c564b",
    "#ff7f0e",
    "#17becf",
    "#7f7f7f",
    "#e377c2",
    "#bcbd22",
    "#000000",
    "#98df8a",
    "#aec7e8",
    "#ffbb78",
)
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 420, 70, 190, 40, 50


def markdown(head: list[str], rows: list[list[str]], align: str = "") -> list[str]:
    """Lines of a table. align: one letter a column, "r" for right; missing ones are left."""
    rule = ["---:" if letter == "r" else "---" for letter in align.ljust(len(head), "l")]
    return [f"| {' | '.join(head)} |", f"|{'|'.join(rule)}|", *(f"| {' | '.join(row)} |" for row in rows)]


def grid(columns: list[str], rows: list[tuple[str, list[tuple[str, str]]]], side: int = 128) -> str:
    """Pictures in rows: columns are headings, a row is its title and (address, caption) of each picture, an empty
    address for none. side: of a picture, in pixels."""
    left, top, step_x, step_y = 10 + 8 * max(len(title) for title, _ in rows), 24, side + 8, side + 24
    width = left + step_x * max(len(columns), *(len(cells) for _, cells in rows))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top + step_y * len(rows)}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    parts += [Axes.text(left + step_x * i + side / 2, 16, name) for i, name in enumerate(columns)]
    for j, (title, cells) in enumerate(rows):
        y = top + step_y * j
        parts.append(Axes.text(6, y + side / 2, title, "start"))
        for i, (address, caption) in enumerate(cells):
            x = left + step_x * i
            if address:
                parts.append(f'<image x="{x}" y="{y}" width="{side}" height="{side}" href="{escape(address)}"/>')
            parts.append(Axes.text(x + side / 2, y + side + 13, caption))
    return "\n".join([*parts, "</svg>"]) + "\n"


class Log:
    """A logarithmic axis over whole powers of ten around the values."""

    def __init__(self, values: list[float]):
        self.low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        self.high = max(high, self.low + 1)

    def at(self, value: float) -> float:
        return (math.log10(value) - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        return [(10.0**power, f"1e{power}") for power in range(self.low, self.high + 1)]


class Share:
    """A linear axis from 0 to 1."""

    def at(self, value: float) -> float:
        return value

    def ticks(self) -> list[tuple[float, str]]:
        return [(tick / 5, f"{tick / 5:.1f}") for tick in range(6)]


class Names:
    """An axis of named places: the values are their numbers."""

    def __init__(self, names: list[str]):
        self.names = names

    def at(self, value: float) -> float:
        return (value + 0.5) / len(self.names)

    def ticks(self) -> list[tuple[float, str]]:
        return list(enumerate(self.names))


class Axes:
    """A plot on two axes, each of them with at(value) -> place in [0, 1] and ticks() -> [(value, label)]."""

    def __init__(self, title: str, x_label: str, y_label: str, x, y):
        self.x, self.y, self.entries = x, y, 0
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" '
            f'font-size="12"><rect width="100%" height="100%" fill="white"/>',
            self.text(LEFT, 22, title, "start", 14),
            self.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, x_label),
            f'<g transform="rotate(-90 16 {HEIGHT / 2})">{self.text(16, HEIGHT / 2, y_label)}</g>',
        ]
        for value, label in x.ticks():
            place = LEFT + x.at(value) * (WIDTH - RIGHT - LEFT)
            self.parts += [
                self.line((place, TOP), (place, HEIGHT - BOTTOM), "#ddd"),
                self.text(place, HEIGHT - BOTTOM + 16, label),
            ]
        for value, label in y.ticks():
            place = HEIGHT - BOTTOM + y.at(value) * (TOP - HEIGHT + BOTTOM)
            self.parts += [
                self.line((LEFT, place), (WIDTH - RIGHT, place), "#ddd"),
                self.text(LEFT - 6, place + 4, label, "end"),
            ]

    def at(self, x: float, y: float) -> tuple[float, float]:
        return (LEFT + self.x.at(x) * (WIDTH - RIGHT - LEFT), HEIGHT - BOTTOM + self.y.at(y) * (TOP - HEIGHT + BOTTOM))

    @staticmethod
    def text(x: float, y: float, text: str, anchor: str = "middle", size: int = 12) -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'

    @staticmethod
    def line(a: tuple[float, float], b: tuple[float, float], color: str, width: float = 1) -> str:
        return (
            f'<line x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}" stroke="{color}" '
            f'stroke-width="{width}"/>'
        )

    def add(
        self, name: str, points: list[tuple[float, float]], joined: bool = True, spreads: list[float | None] = ()
    ) -> None:
        """A series with its name in the legend. spreads: half the length of a bar at each of the points."""
        color, placed = COLORS[self.entries % len(COLORS)], [self.at(*p) for p in sorted(points)]
        self.parts += [self.line(a, b, color, 2) for a, b in pairwise(placed) if joined]
        self.parts += [
            self.line(self.at(x, max(0.0, y - s)), self.at(x, min(1.0, y + s)), color)
            for (x, y), s in zip(points, spreads, strict=False)
            if s
        ]
        self.parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}"/>' for x, y in placed]
        y = TOP + 10 + 18 * self.entries
        self.parts += [
            f'<circle cx="{WIDTH - RIGHT + 16}" cy="{y}" r="4" fill="{color}"/>',
            self.text(WIDTH - RIGHT + 26, y + 4, name, "start"),
        ]
        self.entries += 1

    def roof(self, points: list[tuple[float, float]]) -> None:
        placed = [self.at(*p) for p in points]
        self.parts += [self.line(a, b, "black", 2) for a, b in pairwise(placed)]

    def svg(self) -> str:
        return "\n".join([*self.parts, "</svg>"]) + "\n"
