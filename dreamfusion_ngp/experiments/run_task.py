"""One run of `ablation`, in its own process: python -m dreamfusion_ngp.experiments.run_task FOLDER

FOLDER/task.json holds the task and its start time. The optimisation comes first and writes made.json beside its
checkpoint, then the scores, which go to run.json: with another judge a run is only scored again. An unfinished run
starts again from the beginning.
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
from ..evaluation.clip_scores import diverged
from ..evaluation.figures import DEFINITIONS
from ..evaluation.judge import load_judge
from ..evaluation.pictures import Pictures
from ..evaluation.retrieval import pool_of, r_precision
from ..evaluation.sheet import thumbnails
from ..guidance.load import load_guidance
from ..optimise.loop import train
from ..optimise.stage import Stage
from ..runs.checkpoint import load_checkpoint, save_checkpoint
from ..runs.folder import CHECKPOINT, lock_run
from ..runs.generate import generate
from ..runs.stages import follow, start
from ..toybox.world.captions import parse_prompt
from . import first_stages
from .first_stages import Cost
from .task import captions_digest

SHOWN = (1, 5)  # of the eight views: from the front right, and from the opposite side
# Figures that are recorded elsewhere, and lists.
LEFT_OUT = ("run", "views", "prompt", "seed", "steps", "definitions", "mean_color")


def end_with_the_caller() -> None:
    """Let this process end with the program that started it: started again, that would make the same run beside it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def write(path: Path, record: dict) -> None:
    write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())


def oracle(config: RunConfig, kind: str, judge: Path | None = None):
    """True pictures instead of the prior, or the judge at `judge` as the guide; on the CPU only."""
    if kind == "judge":
        from ..evaluation.judge_guide import guided_by_the_judge

        return guided_by_the_judge(config, judge)
    from ..toybox.oracle import Oracle

    return Oracle(config, *parse_prompt(config.prompt), camera=kind == "camera")


def optimise(task: dict, folder: Path, device: torch.device, runs: Path | None = None) -> Cost:
    """Only the optimisation, of all stages: no previews, mesh or turntable. runs: the folder of the runs with which a
    first stage is shared. Returns what the first stage took if another run made it."""
    config = from_dict(RunConfig, task["config"])
    shared = first_stages.place_of(runs, config, device) if runs and not task["oracle"] else None
    taken = first_stages.take(shared, config, device) if shared else None
    state, cost = taken or (start(config, device), Cost())
    if not taken:
        began, used = time.time(), cpu_seconds()
        advance(state, task)
        if shared:
            spent = Cost(time.time() - began, cpu_seconds() - used, peak_memory(device))
            first_stages.keep(shared, state, spent)
    while (following := follow(state)) is not None:
        state = following
        advance(state, task)
    save_checkpoint(folder / CHECKPOINT, state)
    return cost


def advance(stage: Stage, task: dict) -> None:
    """Train one stage to its end."""
    by, judge = task["oracle"], task.get("judge")
    guidance = (
        oracle(stage.config, by, judge and Path(judge["path"])) if by else load_guidance(stage.config, stage.device)
    )
    train(stage, guidance, lambda record: None)


def cpu_seconds() -> float:
    """CPU time of this process and its children, which other programs on the machine hardly change."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def peak_memory(device: torch.device) -> int:
    """Bytes at most: of tensors on a GPU, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if (status := Path("/proc/self/status")).is_file():  # getrusage's begins with that of the process that forked it
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def make(task: dict, folder: Path) -> dict:
    """Run the optimisation of `task`, in a folder of the runs. Returns the place of its checkpoint, its time and its
    machine. shared_seconds: of that time, what the run took that made the first stage of both."""
    place, failed, cost = folder / "result", "", Cost()
    device = choose_device("cpu" if task["oracle"] else task["device"])
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        if not task["whole"]:
            cost = optimise(task, place, device, folder.parent)
        else:
            generate(from_dict(RunConfig, task["config"]), place, device=task["device"])
    except (DivergenceError, ExportError) as error:
        failed = str(error)
    seconds = time.time() - task["began"]  # includes the start of Python, for which a user waits too
    checkpoint = next(place.rglob(CHECKPOINT), None)
    return {
        "seconds": round(seconds + cost.seconds, 1),
        "cpu_seconds": round(cpu_seconds() + cost.cpu_seconds, 1),
        "peak_memory": max(peak_memory(device), cost.peak_memory),
        "shared_seconds": round(cost.seconds, 1),
        "failed": failed,
        "threads": task["threads"],
        "processes": task["processes"],
        "machine": facts(device),
        "checkpoint": checkpoint and checkpoint.relative_to(folder).as_posix(),
    }


def score_run(result: dict, task: dict, folder: Path) -> dict:
    """Score a run and the true toy of its prompt by the same judge. result: as `make` returns it."""
    path = task["judge"] and Path(task["judge"]["path"])
    judge, views = load_judge(path) if path else None, None
    prompt, captions = task["config"]["prompt"], task.get("captions", ())
    try:
        if result["failed"] or result["checkpoint"] is None:  # a run that diverged leaves its last good checkpoint
            raise ExportError(result["failed"])
        place = folder / result["checkpoint"]
        state = load_checkpoint(place, choose_device(task["device"]))
        figures, views = scoring.score(state, place.parent, judge, captions)
        picture = thumbnails(views[list(SHOWN)])
    except ExportError as error:
        result, picture = {**result, "failed": result["failed"] or str(error)}, ""
        figures = scoring.nothing(prompt, judge)
    figures = {
        key: round(value, 4) if isinstance(value, float) else value
        for key, value in figures.items()
        if key not in LEFT_OUT
    }
    judge_record = judge and {
        "name": judge.name,
        "digest": hashlib.sha256(path.read_bytes()).hexdigest()[:12],
        "held_out": judge.log.get("held_out"),
        "images": judge.log.get("images"),
    }
    truth = judge and scoring.truth(judge, [prompt], captions)
    record = {**result, "judge": judge_record, "truth": truth, "definitions": DEFINITIONS, "figures": figures}
    record["captions"] = captions_digest(captions)
    clips = {name: by_clip(name, weights, task, views) for name, weights in task.get("clips", ())}
    return {**record, "clips": clips, "diverged": bool(result["failed"]) or diverged(views), "picture": picture}


def by_clip(name: str, digest: str, task: dict, views: Pictures | None) -> dict:
    """The figures of a run by a CLIP whose weights have this digest; the worst for a run without a result."""
    from ..evaluation.clip import ClipRetrieval
    from ..evaluation.clip_scores import clip_figures

    prompt, captions = task["config"]["prompt"], task["captions"]
    clip = ClipRetrieval(name, choose_device(task["device"]))
    figures: dict = {f"r_precision_{kind}": 0.0 for kind in scoring.KINDS}
    if views is not None:
        figures = r_precision(clip, views, pool_of(prompt, captions)) | clip_figures(clip, views, prompt)
    return {"digest": digest, "truth": scoring.truth(clip, [prompt], captions), **figures}


def main(folder: Path) -> None:
    end_with_the_caller()
    task, path = json.loads((folder / "task.json").read_text()), folder / "made.json"
    set_threads(task["threads"])
    with lock_run(folder):  # the same command may run twice
        if not path.exists():
            write(path, make(task, folder))
        write(folder / "run.json", score_run(json.loads(path.read_text()), task, folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
