"""Tables of a group of runs: one row per arm, or one per prompt with the bars below."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict

from ..base import markdown
from .arms import config_of, evaluations
from .groups import GROUPS, RULE_GROUPS

RETRIEVAL = (
    ("r_precision_color", "R-Precision Colour"),
    ("r_precision_geo", "R-Precision Geo"),
    ("r_precision_albedo", "R-Precision unlit"),
)
SHAPE = (("volumetric_iou", "volumetric IoU"), ("silhouette_iou", "silhouette IoU"))
# Figure, heading, digits; shown where runs have them.
SURFACE = (("mesh_chamfer", "mesh Chamfer", 4), ("normal_angle", "normals, degrees", 1), ("psnr_256", "PSNR, dB", 1))
TOPOLOGY = (("pieces", "pieces", 1), ("genus_error", "genus off by", 1), ("faces_needed", "faces needed", 0))
COLOR = (("chroma", "chroma to the truth's", 2),)
OF_RULES = (("color_error", "colour error", 3),)
BARS = (  # heading, figure, how it is aggregated, bound, whether that is an upper bound
    ("mean volumetric IoU", "volumetric_iou", statistics.fmean, 0.65, False),
    ("lowest volumetric IoU", "volumetric_iou", min, 0.35, False),
    ("mean silhouette IoU", "silhouette_iou", statistics.fmean, 0.86, False),
    ("lowest silhouette IoU", "silhouette_iou", min, 0.70, False),
    ("R-Precision Colour", "r_precision_color", statistics.fmean, 0.95, False),
    ("R-Precision Geo", "r_precision_geo", statistics.fmean, 0.80, False),
    ("extra faces, of classes with a front", "extra_faces", sum, 0, True),
    ("longest wall time, seconds", "seconds", max, 300, True),
)


def number_text(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def with_spread(values: list[float], digits: int = 2) -> str:
    """ "mean ± standard deviation over the runs"."""
    if not values:
        return ""
    mean = number_text(statistics.fmean(values), digits)
    return mean if len(values) < 2 else f"{mean} ± {number_text(statistics.stdev(values), digits)}"


def error_of(runs: list[dict], key: str) -> float | None:
    """Standard error of the mean of a figure. Runs of one prompt are alike: each prompt counts as one sample, the mean
    of its runs; where there is one prompt alone, each run."""
    by_prompt = defaultdict(list)
    for run in runs:
        by_prompt[run["prompt"]] += values([run], key)
    means = [statistics.fmean(some) for some in by_prompt.values() if some]
    samples = means if len(means) > 1 else values(runs, key)
    return statistics.stdev(samples) / len(samples) ** 0.5 if len(samples) > 1 else None


def paired(group: dict) -> list[tuple[dict, list[dict]]]:
    """Every arm with its runs of the prompts and seeds that all arms have, in the same order. An arm that has no run at
    all takes none from the others."""
    keys = [{(run["prompt"], run["seed"]) for run in arm["runs"]} for arm in group["arms"] if arm["runs"]]
    common = set.intersection(*keys) if keys else set()
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
    if not others or not runs:
        return ""
    differences = [
        {"prompt": a["prompt"], "iou": a["volumetric_iou"] - b["volumetric_iou"]}
        for a, b in zip(runs, others, strict=True)
    ]
    error = error_of(differences, "iou")
    return f"{statistics.fmean(values(differences, 'iou')):+.3f}" + (f" ± {error:.3f}" if error is not None else "")


def diversities(arm: dict, runs: list[dict]) -> list[float]:
    """The diversity of every prompt of which all of an arm's runs are among `runs`."""
    counts = [Counter(run["prompt"] for run in some) for some in (arm["runs"], runs)]
    return [value for prompt, value in arm.get("diversity", {}).items() if counts[0][prompt] == counts[1][prompt]]


def evaluations_of(name: str, group: dict) -> dict[str, str]:
    """Evaluations of the network in a run of every arm of a group that compares rules; {} for other groups."""
    arms = GROUPS[name].arms if name in RULE_GROUPS else ()
    steps = group["shortened"].get("steps")
    return {arm.name: f"{evaluations(config_of(arm, GROUPS[name].prompts[0], 0, steps)):,}" for arm in arms}


def arms_table(name: str, group: dict) -> list[str]:
    """One row per arm. The paper's arms are compared with the one before, all others with the preset."""
    pairs, rows = paired(group), []
    preset = next((runs for arm, runs in pairs if arm["name"] == "preset"), None)
    keys = {key for _, runs in pairs for run in runs for key in run}
    topology = TOPOLOGY if "genus_error" in keys else ()
    more = (*topology, *COLOR, *(OF_RULES if name in RULE_GROUPS else ()))
    surface = [column for column in (*SURFACE, *more) if column[0] in keys]
    spent = evaluations_of(name, group)
    diverse = any(arm.get("diversity") for arm, _ in pairs)
    costs = [("seconds", "s a run")]
    if all("cpu_seconds" in run for _, runs in pairs for run in runs):  # other work changes wall time by far more
        costs.append(("cpu_seconds", "processor s a run"))
    for number, (arm, runs) in enumerate(pairs):
        other = (pairs[number - 1][1] if number else None) if name == "paper" else preset
        other = None if other is runs else other
        rows.append(
            [
                arm["name"],
                arm["why"],
                *(with_spread(values(runs, key)) for key, _ in RETRIEVAL + SHAPE),
                *(with_spread(values(runs, key), digits) for key, _, digits in surface),
                *([with_spread(diversities(arm, runs), 3)] if diverse else []),
                change(runs, other),
                number_text(sum(values(runs, "extra_faces")), 0) if runs else "",
                *([spent.get(arm["name"], "")] if spent else []),
                number_text(len(runs), 0),
                *(number_text(statistics.fmean(values(runs, key)), 0) if runs else "" for key, _ in costs),
            ]
        )
    before = "IoU, change to the row above" if name == "paper" else "IoU, change to the preset"
    titles = [title for _, title, *_ in (*RETRIEVAL, *SHAPE, *surface)]
    head = ["arm", "what it is", *titles, *(["diversity"] if diverse else []), before, "extra faces"]
    head += [*(["evaluations a run"] if spent else []), "runs"]
    head += [title for _, title in costs]
    if group["truth"]:
        rows.append(truth_row(group["truth"], head))
    return markdown.table(head, rows, "ll" + "r" * (len(head) - 2))


def truth_row(truth: dict, head: list[str]) -> list[str]:
    """The row of the true toys under the titles of `head`."""
    known = {"arm": "true toys", "what it is": "what a perfect result would score", "extra faces": "0"}
    known |= {title: number_text(truth[key]) for key, title in RETRIEVAL} | {title: "1" for _, title in SHAPE}
    return [known.get(title, "") for title in head]


def bars_table(group: dict) -> list[str]:
    """One row per prompt, with mean and spread over the seeds, then the bars."""
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
                number_text(len(same), 0),
                *(with_spread(values(same, key), digits.get(key, 2)) for key, _ in columns),
            ]
        )
    rows.append(
        [
            "**mean**",
            number_text(len(runs), 0),
            *(with_spread(values(runs, key), digits.get(key, 2) or 1) for key, _ in columns),
        ]
    )
    return [
        *markdown.table(["prompt", "seeds", *(title for _, title in columns)], rows, "lr" + "r" * len(columns)),
        "",
        *markdown.table(["bar", "wanted", "measured", ""], verdicts(group), "lrrl"),
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
    if key == "seconds" and max(run.get("threads", group["threads"]) for run in runs) > 2:
        return "not judged: a run had more than two cores"
    return ""


def verdicts(group: dict) -> list[list[str]]:
    rows = []
    for title, key, total, bound, upper in BARS:
        measured = values(group["arms"][0]["runs"], key)
        value = total(measured) if measured else None
        met = value is not None and (value <= bound if upper else value >= bound)
        target = f"at most {bound}" if upper else f"at least {bound:.2f}"
        rows.append(
            [
                title,
                target,
                number_text(value, 0 if upper else 3),
                why_open(group, key, measured) or ("met" if met else "**missed**"),
            ]
        )
    return rows
