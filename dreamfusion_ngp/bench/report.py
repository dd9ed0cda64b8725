"""benches/RESULTS.md and its plots from the JSON files of `dreamfusion-ngp bench`.

    dreamfusion-ngp bench --json benches/results/NAME.json     measure (idle machine)
    python benches/report.py                                   write benches/RESULTS.md and benches/plots/*.svg

Nothing is typed into the report by hand: a machine's columns are there if its JSON file is.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from ..base import markdown
from .plots import new_plot, svg
from .targets import OURS, section

FIELDS = {
    "paper": "16 levels x 2, 2^19 rows, hidden 64, linear",
    "fast": "8 levels x 2, 2^15 rows, hidden 32, smoothstep",
    "small": "4 levels x 2, 2^10 rows, hidden 16",
    "mesh": "A ball with bumps, about 50,000 triangles",
}


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, without an exponent in the range of milliseconds and megabytes."""
    if value is None:
        return ""
    if value and not 1e-3 <= abs(value) < 1e7:
        return f"{value:.1e}"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value) or 1)))}f}"


def is_half(row: dict) -> bool:
    """Whether a float16 copy of the table was read."""
    return row.get("precision") == "float16"


def time_plot(rows: list[dict], title: str) -> str | None:
    """Time against samples: one line per op of ours, one point per peer."""
    rows = [r for r in rows if r["op"] in ("encode forward", "encode backward", "field step") and not is_half(r)]
    if not rows:
        return None
    plot = new_plot(title, "samples", "milliseconds")
    for op, who in dict.fromkeys((r["op"], r["who"]) for r in rows):
        points = sorted((r["size"], r["median_ms"]) for r in rows if (r["op"], r["who"]) == (op, who))
        plot.loglog(*zip(*points, strict=True), label=op if who == OURS else f"{op}, {who}", marker="o")
    return svg(plot)


def roofline(rows: list[dict], rates: dict, title: str) -> str | None:
    """Operations per byte against operations per second, below the measured roof."""
    rows = [r for r in rows if r.get("counts", {}).get("flops") and r["counts"]["bytes"] and not is_half(r)]
    if not rows:
        return None
    points = {
        r["op"]: (r["counts"]["flops"] / r["counts"]["bytes"], r["counts"]["flops"] / r["median_ms"] * 1e3)
        for r in rows
    }
    plot = new_plot(title, "floating-point operations per streamed byte", "operations per second")
    for op, (intensity, rate) in points.items():
        plot.loglog([intensity], [rate], label=op, marker="o", linestyle="none")
    ridge = rates["fma"] / rates["copy"]
    left, right = min(x for x, _ in points.values()) / 2, max(2 * ridge, *(2 * x for x, _ in points.values()))
    left = min(left, ridge / 2)
    plot.plot([left, ridge, right], [left * rates["copy"], rates["fma"], rates["fma"]], color="black")
    return svg(plot)


def op_table(rows: list[dict], device: str) -> list[str]:
    body = []
    for r in rows:
        share = f"{100 * r['share']:.0f} %" if "share" in r else ""
        peak = None if r["peak_bytes"] is None else r["peak_bytes"] / 1e6
        counts = r.get("counts", {})
        syncs = r.get("host_syncs")
        chunk = r.get("chunk")
        notes = [r.get("note") or "", f"{chunk} samples at a time" if chunk and chunk < r["size"] else ""]
        body.append(
            [
                r["op"],
                r["who"],
                str(r["size"]),
                f"{number(r['median_ms'])} ({number(r['min_ms'])}-{number(r['max_ms'])})",
                number(1e6 * r["median_ms"] / max(r["size"], 1)),
                number(r.get("ratio")),
                number(counts["bytes"] / 1e6) if counts else "",
                number(counts["flops"] / 1e6) if counts else "",
                r.get("bound_by", ""),
                share,
                "" if r["error"] is None else format(r["error"], ".0e"),
                number(peak),
                "n/a" if device == "cpu" else "" if syncs is None else str(syncs),
                "; ".join(filter(None, notes)),
            ]
        )
    head = [
        "op",
        "who",
        "size",
        "median ms (fastest-slowest)",
        "ns each",
        "x our time",
        "MB",
        "MFLOP",
        "bound by",
        "share of it",
        "error",
        "peak MB",
        "host syncs",
        "note",
    ]
    return markdown.table(head, body, "llrrrrrrlrrrrl")


def machine_section(name: str, result: dict, plots: Path) -> list[str]:
    """Text of one JSON file; writes its plots."""
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items() if v)
    absent = ", ".join(k for k, v in result["versions"].items() if not v) or "none"
    rates = result["ceilings"]
    lines = [
        f"## {result['gpu'] or result['machine']}: {name}",
        "",
        f"{result['machine']}, {result['threads']} threads, kernels {result['simd']}; {result['date']}, commit "
        f"{result['commit']}, load average {result['load_average']}. {versions}. Peers that were not installed: "
        f"{absent}.",
        "",
        "Ceilings of this run: "
        + ", ".join(f"{k} {number(v / 1e9)} G/s" for k, v in rates.items())
        + " (copy: bytes read and written; fma: floating-point operations; gather, reduction: table entries of "
        "two floats, random in 4 MB).",
        "",
        *section(result),
    ]
    for field in dict.fromkeys(r["field"] for r in result["rows"]):
        rows = [r for r in result["rows"] if r["field"] == field]
        for kind, picture in (
            ("time", time_plot(rows, f"{FIELDS[field]}: time")),
            (
                "roofline",
                roofline(
                    [r for r in rows if r["resolution"] == rows[0]["resolution"]], rates, f"{FIELDS[field]}: roofline"
                ),
            ),
        ):
            if picture:
                (plots / f"{name}-{field}-{kind}.svg").write_text(picture)
                lines += [f"![{kind}](plots/{name}-{field}-{kind}.svg)"]
        for resolution, half in dict.fromkeys((r["resolution"], is_half(r)) for r in rows):
            table_rows = [r for r in rows if (r["resolution"], is_half(r)) == (resolution, half)]
            lines += [
                "",
                f"### {FIELDS[field]}; {resolution} x {resolution} {'pixels' if field == 'mesh' else 'rays'}"
                f"{'; float16 table' if half else ''}",
                "",
                *op_table(table_rows, result["device"]),
            ]
        lines.append("")
    if result.get("left_out"):
        lines += ["Left out:", "", *(f"- {reason}" for reason in result["left_out"]), ""]
    return lines


def check_section(result: dict) -> list[str]:
    """Text of a JSON file that says what was checked on a GPU (benches/gpu_check.sh and benches/gpu/)."""
    steps, ops = result["toybox_step"], result["ops"]
    checks = [[c["what"], f"`{c['command']}`", c["result"]] for c in result["checks"]]
    commands = [[g["settings"], str(g["optimised_s"]), str(g["whole_s"]), g["note"]] for g in result["generate"]]
    training = "; ".join(f"{t['what']}: {t['pictures_a_second']} pictures a second" for t in result["training"])
    return [
        f"## {result['gpu']}: checks and whole steps",
        "",
        f"{result['machine']}, driver {result['driver']}, nvcc {result['nvcc']}, torch {result['torch']}; "
        f"{result['date']}.",
        "",
        *markdown.table(["check", "command", "result"], checks),
        "",
        f"Steps with the embedded prior, 4 views of 64 x 64 (`{steps['command']}`; {steps['note']}). Parts are "
        "measured with waits between them, steps a second without:",
        "",
        *step_table(steps["rows"]),
        "",
        f"The whole command, `{result['generate_command']}`:",
        "",
        *markdown.table(["settings", "optimisation s", "command s", "note"], commands, "lrrl"),
        "",
        f"Single ops ({ops['note']}):",
        "",
        *short_op_table(ops["rows"]),
        "",
        f"Training: {training}.",
        "",
    ]


def step_table(rows: list[dict]) -> list[str]:
    """Whole steps with the embedded prior."""
    first = rows[0]["whole_ms"]
    body = [
        [
            r["preset"],
            r["variant"],
            number(r["steps_a_second"]),
            number(r["whole_ms"]),
            number(first / r["whole_ms"]),
            number(r["guidance_ms"]),
            number(r["field_ms"]),
        ]
        for r in rows
    ]
    head = ["preset", "variant", "steps a second", "ms a step", "as fast as the first", "guidance ms", "field ms"]
    return markdown.table(head, body, "llrrrrr")


def short_op_table(rows: list[dict]) -> list[str]:
    """Single ops: times and errors alone."""
    body = [
        [
            r["op"],
            r["who"],
            str(r["size"]),
            f"{number(r['median_ms'])} ({number(r['min_ms'])}-{number(r['max_ms'])})",
            number(r.get("ratio")),
            format(r["error"], ".0e"),
        ]
        for r in rows
    ]
    return markdown.table(["op", "who", "size", "median ms (fastest-slowest)", "x our time", "error"], body, "llrrrr")


HEAD = """# Measurements

Written by `python benches/report.py` from the JSON files in `benches/results/`, which `dreamfusion-ngp bench --json`
leaves; do not edit. One view of R x R rays, 32 samples along each, pixel after pixel (march, composite and "step
without guidance": one view of a ball in the occupancy grid). Everything in float32, unless a heading says that the
table's copy in float16 is read (sums stay in float32). Times are medians of calls that took turns with their peers'.
"MB", "MFLOP": counted by hand (dreamfusion_ngp/bench/counts.py). "share": the least time that the ceilings measured in
the same run allow for the counted bytes, table entries and operations, over the median time; above 100 % the samples'
neighbourhood beats random access. "error": root mean square of the difference from float64 over that of the truth, on
4096 samples (rays, for march and composite). "peak MB": memory beyond that before the call, with nothing kept from
earlier ones. "host syncs": how often a call waits for the device, as torch's debug mode sees it; not applicable on a
CPU. "field step": forward, Lambert shading, first- and second-order backward, Adam; "torch, composed" does the same
with a torch hash grid, nn.Linear, autograd.grad(create_graph=True) and torch.optim.Adam, in pieces where memory wants
it. A peer takes part at 131072 samples, and at a larger size if by its figures at the size before a call takes at most
3 s and half of the free memory; what was left out stands below the tables. The machine's load average during a run
stands with its section: what else ran took from all columns alike, in turns.
"""
NO_GPU = """## CUDA

No table of all ops was measured on a GPU yet, and there are no estimates. On a GPU machine the same two commands add
its section.
"""


def main(argv: list[str] | None = None, repository: Path = Path()) -> None:
    """repository: the folder that has benches/, unless argv names others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=repository / "benches" / "results")
    parser.add_argument(
        "-o", "--out", type=Path, default=repository / "benches", help="folder for RESULTS.md and plots/"
    )
    args = parser.parse_args(argv)
    plots = args.out / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    results = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted(args.results.glob("*.json"))}
    checks = [r for r in results.values() if "checks" in r]
    results = {name: r for name, r in results.items() if "ceilings" in r}  # other tools leave JSON files here, too
    lines = [HEAD]
    for name, result in results.items():
        lines += machine_section(name, result, plots)
    for result in checks:
        lines += check_section(result)
    if not any(r["device"] == "cuda" for r in results.values()):
        lines.append(NO_GPU)
    (args.out / "RESULTS.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
