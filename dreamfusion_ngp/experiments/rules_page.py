"""`dreamfusion-ngp experiments rules`: the distillation rules beside one another, as one page with plots."""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from ..base import markdown, template
from ..base.errors import writing
from ..base.files import write_atomically
from ..bench.plots import new_plot, svg
from .ablation import ablate, parsed
from .groups import GROUPS, RULE_GROUPS
from .metrics import SPREADS
from .report import origin
from .results import read_results
from .tables import arms_table, error_of, paired, values

PLOTTED = (
    ("volumetric_iou", "volumetric IoU"),
    ("silhouette_iou", "silhouette IoU"),
    ("r_precision_geo", "R-Precision Geo"),
    ("chroma", "chroma to the truth's"),
)


def rules_plot(group: dict) -> str:
    """Plot of every figure for every rule, with standard errors."""
    pairs = paired(group)
    plot = new_plot(group["title"], "", "mean over prompts and seeds")
    for key, title in PLOTTED:
        measured = {number: runs for number, (_, runs) in enumerate(pairs) if values(runs, key)}
        if measured:
            means = [statistics.fmean(values(runs, key)) for runs in measured.values()]
            errors = [error_of(runs, key) or 0.0 for runs in measured.values()]
            plot.errorbar(list(measured), means, errors, label=title, marker="o", capsize=3, linestyle="none")
    plot.set_xticks(range(len(pairs)), [arm["name"] for arm, _ in pairs])
    return svg(plot)


def write_page(results: Path, out: Path) -> list[str]:
    """Write rules.md and index.html into `out` from a file of results. Returns the lines of rules.md."""
    groups = read_results(results)["groups"]
    lines, sections = ["# Distillation rules", "", SPREADS, ""], []
    for name in RULE_GROUPS:
        definition, group = GROUPS[name], groups.get(name)
        table = arms_table(name, group) if group else []
        source = origin(group, None) if group else ["Not measured yet.", ""]
        plot = rules_plot(group) if group and any(runs for _, runs in paired(group)) else ""
        lines += [f"## {definition.title}", "", definition.why, "", *source, *table, ""]
        sections.append(
            {"title": definition.title, "why": definition.why, "source": source[0], "rows": cells(table), "plot": plot}
        )
    page = template.render(__package__, "rules.html.j2", note=SPREADS, sections=sections)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "rules.md", markdown.wrapped("\n".join(lines)).encode())
        write_atomically(out / "index.html", page.encode())
    return lines


def cells(table: list[str]) -> list[list[str]]:
    """The cells of a Markdown table, without its rule of dashes."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table if not set(line) <= set("|-: ")]


def compare_rules(args: argparse.Namespace) -> int:
    """Make the missing runs and write the page. Returns 1 if some could not be made, else 0. args: those of
    `experiments rules`. Raises UsageError."""
    flags = [("prompts", args.prompts), ("seeds", args.seeds), ("steps", args.steps), ("hours", args.hours)]
    flags += [("threads", args.threads), ("processes", args.processes)]
    options = [part for name, value in flags if value is not None for part in (f"--{name}", str(value))]
    results, runs = args.out / "rules.json", args.runs or args.out / "runs"
    where = ["--only", *(args.groups or RULE_GROUPS), "--device", args.device, "--runs", str(runs), "-o", str(results)]
    failures = ablate(parsed([*where, *options]))
    write_page(results, args.out)
    return failures
