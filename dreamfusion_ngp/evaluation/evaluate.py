"""Scores runs, singly and together, into files or as lines of text."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..base.devices import choose_device
from ..base.errors import CheckpointError, DreamfusionError, MeshError, OutputError, UsageError, writing
from ..base.files import write_atomically
from ..runs.folder import DEPTH, find_runs
from ..runs.outputs import load_state
from . import scoring, sheet
from .retrieval import Retrieval, read_captions


def evaluate(
    runs: str | Path | Sequence[str | Path],
    *,
    clip: str | None = None,
    judge: str | Path | None = None,
    captions: str | Path | None = None,
    out: str | Path | None = None,
    depth: int = DEPTH,
    device: str | torch.device = "auto",
    show: Callable[[str], None] = lambda line: None,
) -> dict:
    """Score the runs that `runs`, one path or several, are or hold, at most `depth` folders below; every one gets its
    evaluation.json.
    With `out` that folder gets evaluation.json (the judge's score on true renderings, means and spreads, all runs),
    table.md and index.html. show: called with a line per run. Of several runs one without a result, an empty scene,
    counts as zero. One that cannot be read, written or scored (a refined mesh, also one whose file is gone, a prompt
    that names no toy) is left out, as "unread" of the result says. Alone they raise ExportError, CheckpointError,
    OutputError, MeshError and UsageError."""
    paths = [Path(path) for path in ([runs] if isinstance(runs, (str, Path)) else runs)]
    folders, distractors = find_runs(paths, depth), read_captions(Path(captions)) if captions else []
    out = None if out is None else Path(out)
    if out is not None:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
    retrieval = scoring.load_retrieval(clip, Path(judge) if judge else None, choose_device(device))
    score, records, pictures = scoring.score if len(folders) == 1 else scoring.attempt, [], []
    unread: list[DreamfusionError] = []
    for path in folders:
        try:
            state, folder = load_state(path, device)
            record, views = score(state, folder, retrieval, distractors)
            write_text(folder / "evaluation.json", json.dumps(record, indent=1))
        except (CheckpointError, MeshError, OutputError, UsageError) as error:
            if len(folders) == 1:
                raise
            unread.append(UsageError(f"{path}: {error}") if isinstance(error, (MeshError, UsageError)) else error)
            show(f"left out: {unread[-1]}")
            continue
        records.append(record)
        pictures.append(sheet.thumbnails(views) if views else "")
        show(f"{record['prompt']}, seed {record['seed']}: {folder} {record.get('failed', '')}".rstrip())
    if not records:
        raise unread[0]
    prompts = [record["prompt"] for record in records]
    judged = retrieval and judge_record(retrieval, prompts, distractors)
    result = {"judge": judged, "figures": scoring.summary(records), "runs": records}
    result["unread"] = [str(error) for error in unread]
    if out is not None:
        write_all(out, result, pictures)
    return result


def judge_record(retrieval: Retrieval, prompts: list[str], captions: list[str]) -> dict:
    """How well the model of R-Precision does on true renderings."""
    return {
        "name": retrieval.name,
        "held_out": getattr(retrieval, "log", {}).get("held_out"),
        "truth": scoring.truth(retrieval, prompts, captions),
    }


def write_all(out: Path, result: dict, pictures: list[str]) -> None:
    """Write the result of `evaluate` into the folder `out`. pictures: as for `sheet.html_sheet`."""
    write_text(out / "evaluation.json", json.dumps(result, indent=1))
    write_text(out / "table.md", scoring.table(result["runs"], result["figures"]))
    write_text(out / "index.html", sheet.html_sheet(result, pictures))


def write_text(path: Path, text: str) -> None:
    with writing(path):
        write_atomically(path, (text.rstrip() + "\n").encode())


def evaluation_text(result: dict) -> str:
    """The figures of one run as lines of text, of several as a table, with the judge's accuracy on true toys."""
    if len(result["runs"]) > 1:
        return f"{sheet.judge_text(result['judge'])}\n{scoring.table(result['runs'], result['figures'])}"
    lines = [
        f"{key:<24} {value:.3f}" if isinstance(value, float) else f"{key:<24} {value}"
        for key, value in result["runs"][0].items()
        if not isinstance(value, (dict, list))
    ]
    return "\n".join([*lines, sheet.judge_text(result["judge"])])
