"""Figures of a group of runs as SVG: the plot of the ablation, and the pictures of the runs in rows."""

from __future__ import annotations

import statistics

from ..base import template
from ..bench.plots import new_plot, svg
from .tables import RETRIEVAL, SHAPE, error_of, number_text, paired, values

SIDE = 128  # of a picture, pixels


def ablation_plot(group: dict) -> str:
    """The paper's figure 6: every metric along the arms, with standard errors."""
    pairs = paired(group)
    plot = new_plot("What each part of the method is worth", "", "mean over prompts and seeds")
    for key, title in RETRIEVAL + SHAPE:
        measured = {number: runs for number, (_, runs) in enumerate(pairs) if values(runs, key)}
        if measured:
            means = [statistics.fmean(values(runs, key)) for runs in measured.values()]
            errors = [error_of(runs, key) or 0.0 for runs in measured.values()]
            plot.errorbar(list(measured), means, errors, label=title, marker="o", capsize=3)
    plot.set_xticks(range(len(pairs)), [arm["name"] for arm, _ in pairs])
    plot.set_ylim(0, 1.03)  # a marker at 1 is whole
    return svg(plot)


def picture_grid(heads: list[str], rows: list[tuple[str, list[tuple[str, str]]]]) -> str:
    """Pictures in rows. heads: of the columns. A row is its title and (address, caption) of each picture, with an
    empty address for none."""
    return template.render(
        __package__,
        "pictures.svg.j2",
        heads=heads,
        rows=rows,
        columns=max(len(heads), *(len(cells) for _, cells in rows)),
        side=SIDE,
        left=10 + 8 * max(len(title) for title, _ in rows),
        top=24,
        step_x=SIDE + 8,
        step_y=SIDE + 24,
    )


def run_pictures(name: str, group: dict) -> str | None:
    """The pictures of a group: one row per arm, or all prompts of its only arm; None where there are none."""
    pairs = [(arm["name"], {run["prompt"]: run for run in arm["runs"] if "picture" in run}) for arm in group["arms"]]
    prompts = list(dict.fromkeys(prompt for _, runs in pairs for prompt in runs))
    if not prompts:
        return None
    if name == "paper":
        absent = {"picture": "", "volumetric_iou": None}
        rows = [(arm, [runs.get(prompt, absent) for prompt in prompts]) for arm, runs in pairs]
        return picture_grid(
            prompts,
            [(arm, [(run["picture"], number_text(run["volumetric_iou"])) for run in runs]) for arm, runs in rows],
        )
    cells = [(run["picture"], f"{prompt}, {number_text(run['volumetric_iou'])}") for prompt, run in pairs[0][1].items()]
    return picture_grid([], [("", cells[k : k + 6]) for k in range(0, len(cells), 6)])
