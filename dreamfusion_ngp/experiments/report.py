"""docs/evaluation.md and its figure from the JSON file of benches/ablation.py.

    python benches/evaluation_report.py                write docs/evaluation.md and docs/evaluation/ablation.svg

Nothing is typed into the report by hand: a group has figures if the JSON has them, and says so if not.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from ..bench.svg import Axes, Names, Share, grid, markdown
from ..evaluation.report import DEFINITIONS
from .groups import GROUPS
from .metrics import HEAD, METRICS

LOOK = (
    "From the front right and from the opposite side, lit above, textureless below; the number is the volumetric IoU."
)
OUTDATED = (
    "**The volumetric IoU of these runs was counted on 64^3 cell centres, to which the pose was fitted. Five "
    "such runs counted exactly had .04 less in the mean (.09 less to .01 more).** Compare within this table only."
)
RETRIEVAL = (
    ("r_precision_color", "R-Precision Colour"),
    ("r_precision_geo", "R-Precision Geo"),
    ("r_precision_albedo", "R-Precision unlit"),
)
SHAPE = (("volumetric_iou", "volumetric IoU"), ("silhouette_iou", "silhouette IoU"))
BARS = (  # heading, figure, how it is summed up, bound, whether it is an upper one
    ("mean volumetric IoU", "volumetric_iou", statistics.fmean, 0.65, False),
    ("lowest volumetric IoU", "volumetric_iou", min, 0.35, False),
    ("mean silhouette IoU", "silhouette_iou", statistics.fmean, 0.86, False),
    ("lowest silhouette IoU", "silhouette_iou", min, 0.70, False),
    ("R-Precision Colour", "r_precision_color", statistics.fmean, 0.95, False),
    ("R-Precision Geo", "r_precision_geo", statistics.fmean, 0.80, False),
    ("extra faces, of classes with a front", "extra_faces", sum, 0, True),
    ("longest wall time, seconds", "seconds", max, 300, True),
)


def shown(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def with_spread(values: list[float], digits: int = 2) -> str:
    """ "mean ± standard deviation over the runs"."""
    if not values:
        return ""
    mean = shown(statistics.fmean(values), digits)
    return mean if len(values) < 2 else f"{mean} ± {shown(statistics.stdev(values), digits)}"


def error_of(values: list[float]) -> float | None:
    """Standard error of the mean."""
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def paired(group: dict) -> list[tuple[dict, list[dict]]]:
    """Every arm with its runs of those prompts and seeds that all arms have, in one order."""
    keys = [{(run["prompt"], run["seed"]) for run in arm["runs"]} for arm in group["arms"]]
    common = set.intersection(*keys)
    return [
        (
            arm,
            sorted(
                (run for run in arm["runs"] if (run["prompt"], run["seed"]) in common),
                key=lambda run: (run["seed"], run["prompt"]),
            ),
        )
        for arm in group["arms"]
    ]


def values(runs: list[dict], key: str) -> list[float]:
    return [float(run[key]) for run in runs if run.get(key) is not None]


def change(runs: list[dict], others: list[dict] | None) -> str:
    """Mean difference of the volumetric IoU, prompt by prompt and seed by seed, and its standard error."""
    if others is None or not runs:
        return ""
    differences = [a["volumetric_iou"] - b["volumetric_iou"] for a, b in zip(runs, others, strict=True)]
    error = error_of(differences)
    return f"{statistics.fmean(differences):+.3f}" + (f" ± {error:.3f}" if error is not None else "")


def arms_table(name: str, group: dict) -> list[str]:
    """One row an arm. The paper's arms are compared with the one before, all others with the preset."""
    pairs, rows = paired(group), []
    preset = next((runs for arm, runs in pairs if arm["name"] == "preset"), None)
    for number, (arm, runs) in enumerate(pairs):
        other = (pairs[number - 1][1] if number else None) if name == "paper" else preset
        other = None if other is runs else other
        rows.append(
            [
                arm["name"],
                arm["why"],
                *(with_spread(values(runs, key)) for key, _ in RETRIEVAL + SHAPE),
                change(runs, other),
                shown(sum(values(runs, "extra_faces")), 0),
                shown(len(runs), 0),
                shown(statistics.fmean(values(runs, "seconds")), 0) if runs else "",
            ]
        )
    before = "IoU, change to the row above" if name == "paper" else "IoU, change to the preset"
    head = ["arm", "what it is", *(title for _, title in RETRIEVAL + SHAPE), before, "extra faces", "runs", "s a run"]
    if group["truth"]:
        rows.append(
            [
                "true toys",
                "what a perfect result would score",
                *(shown(group["truth"][key]) for key, _ in RETRIEVAL),
                "1",
                "1",
                "",
                "0",
                "",
                "",
            ]
        )
    return markdown(head, rows, "ll" + "r" * 9)


def bars_table(group: dict) -> list[str]:
    """One row a prompt, with its mean and spread over the seeds, then the bars."""
    runs = group["arms"][0]["runs"]
    columns = (
        *SHAPE,
        ("chamfer", "Chamfer"),
        ("color_error", "colour error"),
        ("extra_faces", "extra faces"),
        *RETRIEVAL[:2],
        ("seconds", "seconds"),
    )
    digits = {"extra_faces": 0, "seconds": 0, "chamfer": 3}
    rows = []
    for prompt in dict.fromkeys(run["prompt"] for run in runs):
        same = [run for run in runs if run["prompt"] == prompt]
        failed = sum(bool(run["failed"]) for run in same)
        rows.append(
            [
                prompt + (f" ({failed} without a result)" if failed else ""),
                shown(len(same), 0),
                *(with_spread(values(same, key), digits.get(key, 2)) for key, _ in columns),
            ]
        )
    rows.append(
        [
            "**mean**",
            shown(len(runs), 0),
            *(with_spread(values(runs, key), digits.get(key, 2) or 1) for key, _ in columns),
        ]
    )
    return [
        *markdown(["prompt", "seeds", *(title for _, title in columns)], rows, "lr" + "r" * len(columns)),
        "",
        *markdown(["bar", "wanted", "measured", ""], verdicts(group), "lrrl"),
    ]


def why_open(group: dict, key: str, measured: list[float]) -> str:
    """Why a bar cannot be judged; "" where it can."""
    runs = group["arms"][0]["runs"]
    if group["shortened"]:
        return "not judged: shortened"
    if len(runs) < group["planned"]:
        return f"not judged: {len(runs)} of {group['planned']} runs"
    if not measured:
        return "not judged: no judge"
    if key == "seconds" and group["threads"] > 2:
        return "not judged: a run had more than two cores"
    return ""


def verdicts(group: dict) -> list[list[str]]:
    rows = []
    for title, key, total, bound, upper in BARS:
        measured = values(group["arms"][0]["runs"], key)
        value = total(measured) if measured else None
        met = value is not None and (value <= bound if upper else value >= bound)
        wanted = f"at most {bound}" if upper else f"at least {bound:.2f}"
        rows.append(
            [
                title,
                wanted,
                shown(value, 0 if upper else 3),
                why_open(group, key, measured) or ("met" if met else "**missed**"),
            ]
        )
    return rows


def judged(judge: dict | None) -> str:
    """How good the retrieval model is on true renderings, which comes before what it says of results."""
    if judge is None:
        return "No judge was there: R-Precision was not measured."
    found = judge["held_out"]
    return f"Retrieval: {judge['name']} {judge['digest']}" + (
        f", trained on {judge['images']:,} pictures, which finds {found['color']:.1%} of true toys by lit and "
        f"{found['geo']:.1%} by textureless views."
        if found
        else ", of unknown accuracy."
    )


def origin(group: dict, newest: str | None) -> list[str]:
    """Where the figures of a group come from. newest: the prior that the bars were measured with."""
    earlier = ", **not the weights of the twenty-four toys**" if newest not in (None, group["prior"]) else ""
    steps = group["shortened"]
    how = ", ".join(f"{key} {value}" for key, value in steps.items())
    made = sum(len(arm["runs"]) for arm in group["arms"])
    failed = sum(bool(run["failed"]) for arm in group["arms"] for run in arm["runs"])
    where = "; ".join(group["machines"])
    return [
        f"{made} of {group['planned']} runs"
        + (f", {failed} of them without a result (they count as zero)" if failed else "")
        + f"; {where}; threads of a run: {group['threads']}, runs at a time: {group['processes']}; "
        f"{group['date']}, commit {', '.join(group['commits'])}; prior {group['prior']}{earlier}. "
        + (f"**Shortened** ({how}). " if steps else "Not shortened. ")
        + judged(group["judge"])
        + (f" {OUTDATED}" if outdated(group) else ""),
        "",
        f"`{group['command']}`",
        "",
    ]


def outdated(group: dict) -> bool:
    """Whether some figures are by an earlier definition than `dreamfusion-ngp evaluate` has."""
    return any(run.get("definitions", 1) != DEFINITIONS for arm in group["arms"] for run in arm["runs"])


def figure(group: dict) -> str:
    """The paper's figure 6: every metric along the arms, with standard errors."""
    pairs = paired(group)
    axes = Axes(
        "What each part of the method is worth",
        "",
        "mean over prompts and seeds",
        Names([arm["name"] for arm, _ in pairs]),
        Share(),
    )
    for key, title in RETRIEVAL + SHAPE:
        found = [(number, values(runs, key)) for number, (_, runs) in enumerate(pairs)]
        found = [(number, v) for number, v in found if v]
        if found:
            axes.add(title, [(n, statistics.fmean(v)) for n, v in found], spreads=[error_of(v) for _, v in found])
    return axes.svg()


def shown_runs(name: str, group: dict) -> str | None:
    """The pictures of a group as SVG: a row an arm, or all prompts of the one arm; None where there are none."""
    pairs = [(arm["name"], {run["prompt"]: run for run in arm["runs"] if "picture" in run}) for arm in group["arms"]]
    prompts = list(dict.fromkeys(prompt for _, runs in pairs for prompt in runs))
    if not prompts:
        return None
    if name == "paper":
        absent = {"picture": "", "volumetric_iou": None}
        return grid(
            prompts,
            [
                (
                    arm,
                    [
                        (run["picture"], shown(run["volumetric_iou"]))
                        for run in (runs.get(prompt, absent) for prompt in prompts)
                    ],
                )
                for arm, runs in pairs
            ],
        )
    cells = [(run["picture"], f"{prompt}, {shown(run['volumetric_iou'])}") for prompt, run in pairs[0][1].items()]
    return grid([], [("", cells[k : k + 6]) for k in range(0, len(cells), 6)])


def pictures_section(name: str, group: dict, folder: Path) -> list[str]:
    """Write the figures of a group, and what shows them."""
    lines = []
    drawn = {"ablation.svg": figure(group)} if name == "paper" and all(runs for _, runs in paired(group)) else {}
    if svg := shown_runs(name, group) if name in ("bars", "paper") else None:
        drawn[f"{name}.svg"] = svg
    captions = {
        "ablation.svg": "Bars: standard errors over the runs.",
        "bars.svg": LOOK,
        "paper.svg": LOOK + " First seed.",
    }
    for file, text in drawn.items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text, encoding="utf-8")
        lines += [captions[file], "", f"![{GROUPS[name].title}](evaluation/{file})", ""]
    return lines


def section(name: str, group: dict | None, pictures: Path, newest: str | None) -> list[str]:
    known = GROUPS[name]
    lines = [f"## {known.title}", "", known.why, ""]
    if group is None:
        command = f"python benches/ablation.py --only {name}" + (" --threads 2" if known.whole else "")
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
    found = json.loads(args.results.read_text(encoding="utf-8"))["groups"] if args.results.exists() else {}
    lines, newest = [HEAD], found["bars"]["prior"] if "bars" in found else None
    for name in GROUPS:
        lines += section(name, found.get(name), args.out / "evaluation", newest)
    args.out.mkdir(parents=True, exist_ok=True)
    text = "\n".join([*lines, *metrics_section()]).rstrip() + "\n"
    (args.out / "evaluation.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
