"""Scores of single runs and of several: figures, means and spreads, a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from ..base import markdown
from ..base.errors import ExportError, PromptError, UsageError
from ..export.isosurface import Mesh, extract_mesh
from ..optimise.mesh import SolidStage
from ..runs.handover import present_mesh
from ..runs.texture import TextureStage
from ..scene.field import Field
from ..scene.solid import sample_triangles
from ..toybox.world.captions import parse_prompt
from .figures import DEFINITIONS, open_figures, toy_figures
from .metrics.closed_mesh import MeshDensity
from .metrics.surface import read_mesh, tree_of
from .pictures import Pictures, field_pictures, lit_pictures, true_pictures
from .retrieval import Pool, Retrieval, pool_of, r_precision

SAMPLES = 200_000  # points of a textured surface at which colours are looked up
LARGE = 256  # pixels a side of the pictures for PSNR
KINDS = ("color", "geo", "albedo")  # of pictures by which captions are retrieved
NO_RETRIEVAL = dict.fromkeys(("judge", *(f"{key}_{kind}" for kind in KINDS for key in ("r_precision", "retrieved"))))
# Columns of the table: figure, heading, digits.
COLUMNS = (
    ("volumetric_iou", "IoU", 2),
    ("silhouette_iou", "silhouette IoU", 2),
    ("chamfer", "Chamfer", 3),
    ("normal_angle", "normals", 1),
    ("psnr_256", "PSNR", 1),
    ("color_error", "colour error", 2),
    ("extra_faces", "extra faces", 0),
    ("views_astray", "views astray", 0),
    ("floaters", "floaters", 3),
    ("watertight", "watertight", 0),
    ("r_precision_color", "R-Prec. Colour", 2),
    ("r_precision_geo", "R-Prec. Geo", 2),
)


def load_retrieval(clip: str | None, judge: Path | None, device: torch.device | str = "cpu") -> Retrieval | None:
    """The CLIP called `clip`, else the judge at `judge`, else the embedded judge; None where that is missing."""
    from .judge import EMBEDDED, load_judge

    if clip:
        from .clip import ClipRetrieval

        return ClipRetrieval(clip, device)
    return load_judge(judge or EMBEDDED) if judge or EMBEDDED.is_file() else None


def retrieval_figures(retrieval: Retrieval | None, pictures: Pictures, pool: Pool | None) -> dict:
    if retrieval is None or pool is None:
        return dict(NO_RETRIEVAL)
    return {"judge": retrieval.name, **r_precision(retrieval, pictures, pool)}


def solid_of(state) -> tuple[Callable, Callable, Mesh | None]:
    """The density and the albedo of a run's scene as functions of points on the CPU, and its surface if it has one."""
    where = state.device
    if isinstance(state, TextureStage) and not state.is_generated:
        raise UsageError("a refined mesh has no figures: its shape is the one that was imported")
    if not isinstance(state, (SolidStage, TextureStage)):
        return volume_of(state.field, where)
    solid = present_mesh(state)
    if not len(solid.faces):
        raise ExportError("the scene is empty: its surface has no triangle")
    albedo = painted(state, solid) if isinstance(state, TextureStage) else state.surface.color
    return MeshDensity(solid, state.config.field.bound), no_gradient(albedo, where), solid


def no_gradient(function: Callable, device) -> Callable:
    """Wrap a function of points on `device` as one of points on the CPU, without gradients."""

    @torch.no_grad()
    def on_cpu(x):
        return function(x.to(device)).cpu()

    return on_cpu


def painted(state: TextureStage, solid: Mesh) -> Callable:
    """A function of points (N, 3) that gives the texture's colours (N, 3) at the nearest of SAMPLES surface points."""
    samples = sample_triangles(solid.vertices, solid.faces, SAMPLES, 0)
    tree = tree_of(samples.position)

    def color(x):
        row = tree.query(x.cpu().numpy())[1]
        on, face, place = (
            torch.from_numpy(values[row]).to(x.device)
            for values in (samples.position, samples.face, samples.barycentric)
        )
        return state.surface.paint(on.to(x), face.int(), place.to(x))

    return color


def volume_of(field: Field, device) -> tuple[Callable, Callable, Mesh | None]:
    """`solid_of` a field, with a surface where its level is known."""
    solid = no_gradient(field.solid, device)
    surface = None if field.level is None else extract_mesh(solid, field.bound, level=field.level)[0]
    return solid, no_gradient(field.albedo, device), surface


def score(
    state, folder: Path, retrieval: Retrieval | None = None, captions: Sequence[str] = ()
) -> tuple[dict, Pictures]:
    """The figures of a run (`figures.FIGURES`) and the pictures by which it was judged. state: as its checkpoint holds
    it. captions: distractors; none: all toys in all colours.

    Raises PromptError for a prompt that names no toy, unless there are captions; ExportError for an empty or not finite
    field.
    """
    prompt, bound = state.config.prompt, state.config.field.bound
    pool = pool_of(prompt, captions) if retrieval else None
    exported = Path(folder) / "mesh.glb"
    mesh = read_mesh(exported) if exported.is_file() else None
    density, albedo, surface = solid_of(state)
    pictures = field_pictures(state)
    if (pool or captions) and not is_toy(prompt):
        figures = open_figures(prompt, density, bound, mesh=mesh)
    else:
        from ..runs.display import render_opacity

        lit = lit_pictures(state, LARGE)
        figures = toy_figures(
            prompt, density, render_opacity(state), albedo, bound, pictures, mesh=mesh, surface=surface, lit=lit
        )
    head = {
        "run": str(folder),
        "seed": state.config.seed,
        "steps": state.before + state.step,
        "definitions": DEFINITIONS,
    }
    return {**head, **figures, **retrieval_figures(retrieval, pictures, pool)}, pictures


def nothing(prompt: str, retrieval: Retrieval | None) -> dict:
    """The worst possible figures, for a run without a result (an empty scene): to leave it out of a mean would make the
    others look better."""
    zeros = dict.fromkeys(("volumetric_iou", "silhouette_iou") if is_toy(prompt) else (), 0.0)
    return zeros | dict(NO_RETRIEVAL) | {f"r_precision_{kind}": 0.0 for kind in KINDS if retrieval}


def attempt(
    state, folder: Path, retrieval: Retrieval | None = None, captions: Sequence[str] = ()
) -> tuple[dict, Pictures | None]:
    """`score`; for a run without a result the figures of `nothing`, the reason, and no pictures."""
    try:
        return score(state, folder, retrieval, captions)
    except ExportError as error:
        return {
            "run": str(folder),
            "seed": state.config.seed,
            "steps": state.before + state.step,
            "definitions": DEFINITIONS,
            "prompt": state.config.prompt,
            "failed": str(error),
            **nothing(state.config.prompt, retrieval),
        }, None


def is_toy(prompt: str) -> bool:
    try:
        parse_prompt(prompt)
    except PromptError:
        return False
    return True


def truth(retrieval: Retrieval, prompts: list[str], captions: Sequence[str] = ()) -> dict | None:
    """R-Precision of the true toys that the prompts name, in their canonical proportions: what a perfect result would
    score with this retrieval model (the paper's row "GT images"). None where no prompt names a toy and a colour."""
    scores = []
    for prompt in dict.fromkeys(prompts):
        color = parse_prompt(prompt)[1] if is_toy(prompt) else ""
        if color:
            pictures = true_pictures(parse_prompt(prompt)[0], color)
            scores.append(r_precision(retrieval, pictures, pool_of(prompt, captions)))
    if not scores:
        return None
    return {
        "prompts": len(scores),
        **{key: float(np.mean([f[key] for f in scores])) for key in (f"r_precision_{kind}" for kind in KINDS)},
    }


def spread(values: list[float]) -> float | None:
    """Sample standard deviation; None for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def summary(records: list[dict]) -> dict:
    """{figure: {"n", "mean", "worst", "spread_runs", "spread_seeds"}} over the runs that have the figure.

    worst: of one run. spread_runs: standard deviation over all runs. spread_seeds: that of the means of each seed over
    its prompts; null for a single seed.
    """
    figures = {}
    for key, _, _ in COLUMNS:
        pairs = [(float(r[key]), r["seed"]) for r in records if r.get(key) is not None]
        if pairs:
            values = [value for value, _ in pairs]
            seeds = [float(np.mean([v for v, s in pairs if s == seed])) for seed in sorted({s for _, s in pairs})]
            low_is_bad = key.endswith("iou") or key.startswith(("r_precision", "psnr")) or key == "watertight"
            worst = min(values) if low_is_bad else max(values)
            figures[key] = {
                "n": len(values),
                "mean": float(np.mean(values)),
                "worst": worst,
                "spread_runs": spread(values),
                "spread_seeds": spread(seeds),
            }
    return figures


def cell(value, digits: int) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return ("yes" if value else "no") if isinstance(value, bool) else f"{value:.{digits}f}"


def rows(records: list[dict], means: dict) -> tuple[list[str], list[list[str]]]:
    """(headings, rows of text): one row per run, then the mean, its spread over seeds and over runs, and the worst."""
    head = ["prompt", "seed", *(title for _, title, _ in COLUMNS)]
    body = [[r["prompt"], str(r["seed"]), *(cell(r.get(key), digits) for key, _, digits in COLUMNS)] for r in records]
    for name, key in (
        ("mean", "mean"),
        ("± over seeds", "spread_seeds"),
        ("± over runs", "spread_runs"),
        ("worst", "worst"),
    ):
        values = [cell(means.get(figure, {}).get(key), max(digits, 2)) for figure, _, digits in COLUMNS]
        body.append([name, "", *values])
    return head, body


def table(records: list[dict], means: dict) -> str:
    """A Markdown table of `rows`."""
    return "\n".join(markdown.table(*rows(records, means)))
