"""One run of `ablation`, in a process of its own: python -m dreamfusion_ngp.experiments.run_task FOLDER

FOLDER/task.json says what is wanted, and when it began. First comes the optimisation, which leaves made.json beside its
checkpoint, then the scores, which go to run.json: with another judge a run is scored again without being made again.
What is not finished is made anew.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

from ..base.devices import choose_device, set_threads
from ..base.errors import DivergenceError, ExportError
from ..base.files import write_atomically
from ..bench.machine import facts
from ..config.io import from_dict
from ..config.schema import RunConfig
from ..evaluation import scoring
from ..evaluation.judge import load_judge
from ..evaluation.report import DEFINITIONS
from ..evaluation.sheet import thumbnails
from ..guidance.load import load_guidance
from ..optimise.loop import train
from ..runs.checkpoint import load_checkpoint, save_checkpoint
from ..runs.folder import CHECKPOINT
from ..runs.generate import generate
from ..runs.stages import follow, start
from ..toybox.world.captions import parse_prompt

SHOWN = (1, 5)  # of the eight views: from the front right, and from the opposite side
# Of the figures, what is said elsewhere, and lists.
LEFT_OUT = ("run", "views", "prompt", "seed", "steps", "definitions", "mean_color")


def end_with_the_caller() -> None:
    """No run outlives the program that asked for it: the next one would make the same run beside it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def write(path: Path, record: dict) -> None:
    write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())


def oracle(config: RunConfig, kind: str):
    """True pictures instead of the prior; on the CPU only."""
    from ..toybox.oracle import Oracle

    return Oracle(config, *parse_prompt(config.prompt), camera=kind == "camera")


def optimise(config: RunConfig, folder: Path, device: torch.device, by: str = "") -> None:
    """The optimisation alone, of all stages: no previews, no mesh, no turntable. by: a kind of oracle, for them all."""
    state = start(config, device)
    while True:
        train(state, oracle(state.config, by) if by else load_guidance(state.config, device), lambda record: None)
        if (following := follow(state)) is None:
            break
        state = following
    save_checkpoint(folder / CHECKPOINT, state)


def cpu_seconds() -> float:
    """Of this process and those that it waited for: other programs on the machine hardly change them."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def make(task: dict, folder: Path) -> dict:
    """The optimisation that `task` asks for: where its checkpoint lies, how long it took and on what."""
    config, place, failed = from_dict(RunConfig, task["config"]), folder / "result", ""
    device = choose_device("cpu" if task["oracle"] else task["device"])
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        if not task["whole"]:
            optimise(config, place, device, task["oracle"])
        else:
            generate(config, place, device=task["device"])
    except (DivergenceError, ExportError) as error:
        failed = str(error)
    seconds = time.time() - task["began"]  # with the start of Python: a user waits for it, too
    found = next(place.rglob(CHECKPOINT), None)
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds(), 1),
        "failed": failed,
        "threads": task["threads"],
        "processes": task["processes"],
        "machine": facts(device),
        "checkpoint": found and found.relative_to(folder).as_posix(),
    }


def scored(made: dict, task: dict, folder: Path) -> dict:
    """What `made` is worth, and what the true toy of its prompt is to the same judge."""
    path = task["judge"] and Path(task["judge"]["path"])
    judge = load_judge(path) if path else None
    try:
        if made["checkpoint"] is None:
            raise ExportError(made["failed"])
        place = folder / made["checkpoint"]
        figures, views = scoring.score(load_checkpoint(place, choose_device(task["device"])), place.parent, judge)
        picture = thumbnails(views[list(SHOWN)])
    except ExportError as error:
        made, picture = {**made, "failed": made["failed"] or str(error)}, ""
        figures = scoring.nothing(task["config"]["prompt"], judge)
    figures = {
        key: round(value, 4) if isinstance(value, float) else value
        for key, value in figures.items()
        if key not in LEFT_OUT
    }
    known = judge and {
        "name": judge.name,
        "digest": hashlib.sha256(path.read_bytes()).hexdigest()[:12],
        "held_out": judge.log.get("held_out"),
        "images": judge.log.get("images"),
    }
    truth = judge and scoring.truth(judge, [task["config"]["prompt"]])
    return {**made, "judge": known, "truth": truth, "definitions": DEFINITIONS, "figures": figures, "picture": picture}


def main(folder: Path) -> None:
    end_with_the_caller()
    task, made = json.loads((folder / "task.json").read_text()), folder / "made.json"
    set_threads(task["threads"])
    if not made.exists():
        write(made, make(task, folder))
    write(folder / "run.json", scored(json.loads(made.read_text()), task, folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
