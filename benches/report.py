"""benches/RESULTS.md and its plots from the JSON files of `dreamfusion-ngp bench`.

    dreamfusion-ngp bench --json benches/results/NAME.json     measure (idle machine)
    python benches/report.py                                   write benches/RESULTS.md and benches/plots/*.svg

Nothing is typed into the report by hand: a machine's columns are there if its JSON file is.
"""

from __future__ import annotations

import argparse
import json
import math
from html import escape
from pathlib import Path

HERE = Path(__file__).resolve().parent
OURS = "dreamfusion_ngp"
FIELDS = {"paper": "16 levels x 2, 2^19 rows, hidden 64, linear",
          "fast": "8 levels x 2, 2^15 rows, hidden 32, smoothstep", "small": "4 levels x 2, 2^10 rows, hidden 16"}
COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b", "#ff7f0e", "#17becf", "#7f7f7f")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 420, 70, 190, 40, 50


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, without an exponent in the range of milliseconds and megabytes."""
    if value is None:
        return ""
    if value and not 1e-3 <= abs(value) < 1e7:
        return f"{value:.1e}"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value) or 1)))}f}"


class Axes:
    """A plot with logarithmic axes, as SVG."""

    def __init__(self, title: str, x_label: str, y_label: str, xs: list[float], ys: list[float]):
        self.x, self.y = self.limits(xs), self.limits(ys)
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" '
            f'font-size="12"><rect width="100%" height="100%" fill="white"/>',
            self.text(LEFT, 22, title, "start", 14), self.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, x_label),
            f'<g transform="rotate(-90 16 {HEIGHT / 2})">{self.text(16, HEIGHT / 2, y_label)}</g>']
        for power in range(self.x[0], self.x[1] + 1):
            x = self.at(10.0 ** power, 1.0)[0]
            self.parts += [self.line((x, TOP), (x, HEIGHT - BOTTOM), "#ddd"),
                           self.text(x, HEIGHT - BOTTOM + 16, f"1e{power}")]
        for power in range(self.y[0], self.y[1] + 1):
            y = self.at(1.0, 10.0 ** power)[1]
            self.parts += [self.line((LEFT, y), (WIDTH - RIGHT, y), "#ddd"),
                           self.text(LEFT - 6, y + 4, f"1e{power}", "end")]
        self.entries = 0

    @staticmethod
    def limits(values: list[float]) -> tuple[int, int]:
        low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        return low, max(high, low + 1)

    def at(self, x: float, y: float) -> tuple[float, float]:
        def place(v, limits, start, end):
            return start + (math.log10(v) - limits[0]) / (limits[1] - limits[0]) * (end - start)
        return place(x, self.x, LEFT, WIDTH - RIGHT), place(y, self.y, HEIGHT - BOTTOM, TOP)

    @staticmethod
    def text(x: float, y: float, text: str, anchor: str = "middle", size: int = 12) -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>'

    @staticmethod
    def line(a: tuple[float, float], b: tuple[float, float], color: str, width: float = 1) -> str:
        return (f'<line x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}" stroke="{color}" '
                f'stroke-width="{width}"/>')

    def add(self, name: str, points: list[tuple[float, float]], joined: bool = True) -> None:
        """A series with its name in the legend."""
        color, placed = COLORS[self.entries % len(COLORS)], [self.at(*p) for p in sorted(points)]
        self.parts += [self.line(a, b, color, 2) for a, b in zip(placed, placed[1:]) if joined]
        self.parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}"/>' for x, y in placed]
        y = TOP + 10 + 18 * self.entries
        self.parts += [f'<circle cx="{WIDTH - RIGHT + 16}" cy="{y}" r="4" fill="{color}"/>',
                       self.text(WIDTH - RIGHT + 26, y + 4, name, "start")]
        self.entries += 1

    def roof(self, points: list[tuple[float, float]]) -> None:
        placed = [self.at(*p) for p in points]
        self.parts += [self.line(a, b, "black", 2) for a, b in zip(placed, placed[1:])]

    def svg(self) -> str:
        return "\n".join([*self.parts, "</svg>"]) + "\n"


def time_plot(rows: list[dict], title: str) -> str | None:
    """Time against samples: one line per op of ours, one point per peer."""
    rows = [r for r in rows if r["op"] in ("encode forward", "encode backward", "field step")]
    if not rows:
        return None
    axes = Axes(title, "samples", "milliseconds", [r["size"] for r in rows], [r["median_ms"] for r in rows])
    for op, who in dict.fromkeys((r["op"], r["who"]) for r in rows):
        points = [(r["size"], r["median_ms"]) for r in rows if (r["op"], r["who"]) == (op, who)]
        axes.add(op if who == OURS else f"{op}, {who}", points)
    return axes.svg()


def roofline(rows: list[dict], rates: dict, title: str) -> str | None:
    """Operations per byte against operations per second, below the measured roof."""
    rows = [r for r in rows if r.get("counts", {}).get("flops") and r["counts"]["bytes"]]
    if not rows:
        return None
    points = {r["op"]: (r["counts"]["flops"] / r["counts"]["bytes"], r["counts"]["flops"] / r["median_ms"] * 1e3)
              for r in rows}
    ridge = rates["fma"] / rates["copy"]
    xs, ys = [x for x, _ in points.values()] + [ridge * 2], [y for _, y in points.values()] + [rates["fma"]]
    axes = Axes(title, "floating-point operations per streamed byte", "operations per second", xs, ys)
    left, right, bottom = 10.0 ** axes.x[0], 10.0 ** axes.x[1], 10.0 ** axes.y[0]
    start = max(left, bottom / rates["copy"])
    axes.roof([(start, start * rates["copy"]), (ridge, rates["fma"]), (right, rates["fma"])])
    for op, point in points.items():
        axes.add(op, [point])
    return axes.svg()


def op_table(rows: list[dict]) -> list[str]:
    lines = ["| op | who | size | median ms (fastest-slowest) | ns each | x our time | bound by | share of it | error "
             "| peak MB |", "|---|---|---:|---:|---:|---:|---|---:|---:|---:|"]
    for r in rows:
        share = f"{100 * r['share']:.0f} %" if "share" in r else ""
        peak = None if r["peak_bytes"] is None else r["peak_bytes"] / 1e6
        lines.append(
            f"| {r['op']} | {r['who']} | {r['size']} | {number(r['median_ms'])} ({number(r['min_ms'])}-"
            f"{number(r['max_ms'])}) | {number(1e6 * r['median_ms'] / max(r['size'], 1))} | {number(r.get('ratio'))} | "
            f"{r.get('bound_by', '')} | {share} | {'' if r['error'] is None else format(r['error'], '.0e')} | "
            f"{number(peak)} |")
    return lines


def machine_section(name: str, result: dict, plots: Path) -> list[str]:
    """Text of one JSON file; writes its plots."""
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items() if v)
    absent = ", ".join(k for k, v in result["versions"].items() if not v) or "none"
    rates = result["ceilings"]
    lines = [f"## {result['gpu'] or result['machine']}: {name}", "",
             f"{result['machine']}, {result['threads']} threads, kernels {result['simd']}; {result['date']}, commit "
             f"{result['commit']}, load average {result['load_average']}. {versions}. Peers that were not installed: {absent}.", "",
             "Ceilings of this run: " + ", ".join(f"{k} {number(v / 1e9)} G/s" for k, v in rates.items())
             + " (copy: bytes read and written; fma: floating-point operations; gather, reduction: table entries of "
             "two floats, random in 4 MB).", ""]
    for field in dict.fromkeys(r["field"] for r in result["rows"]):
        rows = [r for r in result["rows"] if r["field"] == field]
        for kind, svg in (("time", time_plot(rows, f"{FIELDS[field]}: time")),
                          ("roofline", roofline([r for r in rows if r["resolution"] == rows[0]["resolution"]], rates,
                                                f"{FIELDS[field]}: roofline"))):
            if svg:
                (plots / f"{name}-{field}-{kind}.svg").write_text(svg)
                lines += [f"![{kind}](plots/{name}-{field}-{kind}.svg)"]
        for resolution in dict.fromkeys(r["resolution"] for r in rows):
            lines += ["", f"### {FIELDS[field]}; {resolution} x {resolution} rays", "",
                      *op_table([r for r in rows if r["resolution"] == resolution])]
        lines.append("")
    return lines


HEAD = """# Measurements

Written by `python benches/report.py` from the JSON files in `benches/results/`, which `dreamfusion-ngp bench --json`
leaves; do not edit. One view of R x R rays, 32 samples along each, pixel after pixel (march, composite and "step
without guidance": one view of a ball in the occupancy grid). Everything in float32. Times are medians of calls that
took turns with their peers'. "share": the least time that the ceilings measured in the same run allow for the counted
bytes, table entries and operations, over the median time; above 100 % the samples' neighbourhood beats random access.
"error": root mean square of the difference from float64 over that of the truth, on 4096 samples. "peak MB": memory
beyond that before the call, with nothing kept from earlier ones. "field step": forward, Lambert shading, first- and second-order backward, Adam; "torch,
composed" does the same with a torch hash grid, nn.Linear, autograd.grad(create_graph=True) and torch.optim.Adam. The
machine's load average during a run stands with its section: what else ran took from all columns alike, in turns.
"""
NO_GPU = """## CUDA

No GPU was at hand: nothing here was measured on one, and there are no estimates. On a GPU machine the same two commands
add its section.
"""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("-o", "--out", type=Path, default=HERE, help="folder for RESULTS.md and plots/")
    args = parser.parse_args(argv)
    plots = args.out / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    results = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted(args.results.glob("*.json"))}
    results = {name: r for name, r in results.items() if "ceilings" in r}  # other tools leave JSON files here, too
    lines = [HEAD]
    for name, result in results.items():
        lines += machine_section(name, result, plots)
    if not any(r["device"] == "cuda" for r in results.values()):
        lines.append(NO_GPU)
    (args.out / "RESULTS.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
