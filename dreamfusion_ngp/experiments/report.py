"""docs/evaluation.md and its figure from the JSON file of benches/ablation.py.

    python benches/evaluation_report.py                write docs/evaluation.md and docs/evaluation/ablation.svg

Nothing is typed into the report by hand: a group has figures if the JSON has them, and says so if not.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..base import markdown
from ..evaluation.figures import DEFINITIONS
from ..evaluation.judge import SIZE
from .figures import ablation_plot, run_pictures
from .groups import GROUPS
from .metrics import HEAD, METRICS
from .tables import arms_table, bars_table, paired

LOOK = (
    "From the front right and from the opposite side, lit above, textureless below; the number is the volumetric IoU."
)
OUTDATED = (
    "**The volumetric IoU of these runs was counted on 64^3 cell centres, to which the pose was fitted. Five "
    "such runs counted exactly had .04 less in the mean (.09 less to .01 more).** Compare within this table only."
)


def judge_text(judge: dict | None) -> str:
    """How good the retrieval model is on true renderings, which puts its scores of results into perspective."""
    if judge is None:
        return "No judge was there: R-Precision was not measured."
    accuracy = judge["held_out"]
    return f"Retrieval: {judge['name']} {judge['digest']}" + (
        f", trained on {judge['images']:,} pictures, which finds {accuracy['color']:.1%} of all true toys by lit and "
        f"{accuracy['geo']:.1%} by textureless views of {SIZE} pixels."
        if accuracy
        else ", of unknown accuracy."
    )


def origin(group: dict, newest: str | None) -> list[str]:
    """How the figures of a group were measured. newest: the prior with which the bars were measured."""
    earlier = ", **not the weights of the twenty-four toys**" if newest not in (None, group["prior"]) else ""
    steps = group["shortened"]
    how = ", ".join(f"{key} {value}" for key, value in steps.items())
    count = sum(len(arm["runs"]) for arm in group["arms"])
    failed = sum(bool(run["failed"]) for arm in group["arms"] for run in arm["runs"])
    where = "; ".join(group["machines"])
    return [
        f"{count} of {group['planned']} runs"
        + (f", {failed} of them without a result (they count as zero)" if failed else "")
        + f"; {where}; threads of a run: {of_runs(group, 'threads')}, runs at a time: {of_runs(group, 'processes')}; "
        f"{group['date']}, commit {', '.join(group['commits'])}; prior {group['prior']}{earlier}. "
        + (f"**Shortened** ({how}). " if steps else "Not shortened. ")
        + judge_text(group["judge"])
        + (f" {OUTDATED}" if outdated(group) else ""),
        "",
        f"`{group['command']}`",
        "",
    ]


def of_runs(group: dict, key: str) -> str:
    """A number of the runs of a group, all its values; that of the last call where a run has none of its own."""
    found = {run.get(key, group[key]) for arm in group["arms"] for run in arm["runs"]} or {group[key]}
    return " or ".join(map(str, sorted(found)))


def outdated(group: dict) -> bool:
    """Whether some figures follow an earlier definition than that of `dreamfusion-ngp evaluate`."""
    return any(run.get("definitions", 1) != DEFINITIONS for arm in group["arms"] for run in arm["runs"])


def pictures_section(name: str, group: dict, folder: Path) -> list[str]:
    """Write the figures of a group. Returns the lines that show them."""
    lines = []
    drawn = {"ablation.svg": ablation_plot(group)} if name == "paper" and all(runs for _, runs in paired(group)) else {}
    if svg := run_pictures(name, group) if name in ("bars", "paper") else None:
        drawn[f"{name}.svg"] = svg
    captions = {
        "ablation.svg": "Bars: standard errors over the prompts.",
        "bars.svg": LOOK,
        "paper.svg": LOOK + " First seed.",
    }
    for file, text in drawn.items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text, encoding="utf-8")
        lines += [captions[file], "", f"![{GROUPS[name].title}](evaluation/{file})", ""]
    return lines


def section(name: str, group: dict | None, pictures: Path, newest: str | None) -> list[str]:
    definition = GROUPS[name]
    lines = [f"## {definition.title}", "", definition.why, ""]
    if group is None:
        command = f"python benches/ablation.py --only {name}" + (" --threads 2" if definition.whole else "")
        return [*lines, f"Not measured yet. `{command}` does it.", ""]
    lines += origin(group, newest)
    table = bars_table(group) if name == "bars" else arms_table(name, group)
    return [*lines, *table, "", *pictures_section(name, group, pictures)]


def metrics_section() -> list[str]:
    lines = ["## The metrics", ""]
    for name, definition, source, limits in METRICS:
        lines += [f"**{name}.** {definition} *Source:* {source} *Limits:* {limits}", ""]
    return lines


def main(argv: list[str] | None = None, repository: Path = Path()) -> None:
    """repository: the folder that has benches/ and docs/, unless argv names others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=repository / "benches" / "results" / "ablation.json")
    parser.add_argument(
        "-o", "--out", type=Path, default=repository / "docs", help="folder for evaluation.md and evaluation/"
    )
    args = parser.parse_args(argv)
    groups = json.loads(args.results.read_text(encoding="utf-8"))["groups"] if args.results.exists() else {}
    lines, newest = [HEAD], groups["bars"]["prior"] if "bars" in groups else None
    for name in GROUPS:
        lines += section(name, groups.get(name), args.out / "evaluation", newest)
    args.out.mkdir(parents=True, exist_ok=True)
    text = markdown.wrapped("\n".join([*lines, *metrics_section()]))
    (args.out / "evaluation.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
