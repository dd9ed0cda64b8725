"""The paper's table by one command: `dreamfusion-ngp experiments table`.

Every method makes every prompt with every seed, each in its own process (pool.py); every retrieval model scores every
run, from eight azimuths at 30 degrees of elevation. Finished runs are not made again; with another retrieval model they
are only scored again. Runs in table.json need not be in --runs: a table can begin on one machine and end on another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ..base.errors import DreamfusionError, UsageError
from ..config.io import to_dict
from ..config.presets import preset
from ..config.schema import RunConfig
from ..evaluation.retrieval import read_captions
from ..guidance.dual_encoder import encoder_folder, encoder_kind
from ..guidance.load import check_guidance
from ..guidance.origin import weights_digest
from ..hub.fetch import pinned
from ..hub.guided import guided, preset_of
from ..runs.generate import check_prompt, pin_model
from .groups import TWENTY_FOUR
from .paper_report import JUDGE as JUDGE_NAME
from .paper_report import Entries, write_table
from .paper_rows import ROWS, Plan, Request, Row
from .pool import Runner, check_hours
from .task import JUDGE, Task, digest, key_of, models_of

SEEDS = 3  # of every prompt, from 0 on
FLAGS = {"diffusion": "guidance"}  # Row.needs -> flag, where they differ
KINDS = {"mvdream": "multiview", "dreamfields": "clip"}  # preset of a model -> Row.needs
WHAT = {
    "multiview": "a model of several views at once",
    "clip": "a CLIP",
    "diffusion": "a diffusion model of one view at a time",
}


def config_of(row: Row, prompt: str, seed: int, request: Request) -> RunConfig:
    """The settings of a run. Raises UsageError and PriorError where the row cannot be run."""
    if request.captions is None:
        config = preset(row.preset)
    else:
        model, flag = dict(request.models).get(row.needs), f"--{FLAGS.get(row.needs, row.needs)}"
        if model is None:
            raise UsageError(f"give {flag} MODEL" if row.needs else "toys only")
        check_kind(row.needs, model, flag)
        name = preset_of(model) if row.public == "model" else row.public or row.preset
        config = guided(preset(name, toys=False), model)
    return pin_model(check_prompt(shortened(replace(config, prompt=prompt, seed=seed), request.shorten)))


def check_kind(needs: str, model: str, flag: str) -> None:
    """Raise UsageError unless a model given by `flag` is of the kind of Row.needs, so that no row is of another method.
    What is no CLIP is refused where one is loaded."""
    kind = KINDS.get(preset_of(model), "diffusion")
    if needs != kind and needs != "clip":
        raise UsageError(f"{flag} {model}: it is {WHAT[kind]}; wanted is {WHAT[needs]}")


def shortened(config: RunConfig, factor: float) -> RunConfig:
    """The config with `factor` times the steps in every stage, at least one."""
    then = config.then and shortened(config.then, factor)
    return replace(config, steps=max(1, round(config.steps * factor)), then=then)


def tasks_of(row: Row, pairs: Sequence[tuple[str, int]], request: Request, judge: str, **scoring) -> tuple[Task, ...]:
    """The runs of a row, one per pair of prompt and seed. Raises UsageError and PriorError where it cannot be run."""
    first = config_of(row, *pairs[0], request)
    if not row.oracle:
        for stage in first.stages():
            check_guidance(stage)
    guides = [row.oracle, judge] if row.oracle else models_of(first)
    tasks = []
    for prompt, seed in pairs:
        config = to_dict(check_prompt(replace(first, prompt=prompt, seed=seed)))
        label = f"{row.name}: {prompt}, seed {seed}"
        tasks.append(Task(prompt, seed, False, row.oracle, config, key_of(config, guides), label, **scoring))
    return tuple(tasks)


def plan(request: Request) -> list[Plan]:
    """The runs of all rows. Raises UsageError for rows that are unknown and files that cannot be read."""
    captions = read_captions(request.captions) if request.captions else []
    if request.captions and not request.retrieval:
        raise UsageError("prompts that are no toys are scored by a CLIP: give --retrieval MODEL")
    chosen = {name.lower() for name in request.rows}
    if unknown := chosen - {row.name.lower() for row in ROWS}:
        raise UsageError(f"--rows: no row is called {', '.join(sorted(unknown))}; there are {'; '.join(names())}")
    clips, judge = tuple((name, clip_digest(name)) for name in map(pinned, request.retrieval)), judge_digest(request)
    prompts, seeds = (captions or TWENTY_FOUR)[: request.prompts or None], range(request.seeds or SEEDS)
    plans = []
    for row in (row for row in ROWS if not chosen or row.name.lower() in chosen):
        try:
            pairs = [(prompt, seed) for seed in seeds for prompt in prompts]
            tasks = tasks_of(row, pairs, request, judge, captions=tuple(captions), clips=clips)
            plans.append(Plan(row, tasks, guides_of(row, tasks[0])))
        except DreamfusionError as error:
            plans.append(Plan(row, absent=str(error)))
    return plans


def guides_of(row: Row, task: Task) -> tuple[str, ...]:
    """The names of the models that guide a row, in the form of those that score."""
    guides, config = [JUDGE_NAME] if row.oracle == "judge" else [], task.config
    while config and not row.oracle:
        guides.append(config["guidance"]["model"])
        config = config["then"]
    return tuple(guides)


def names() -> list[str]:
    return [row.name for row in ROWS]


def clip_digest(name: str) -> str:
    """The digest of the weights of a retrieval model. Raises PriorError where there is none."""
    folder = encoder_folder(name)
    encoder_kind(folder, name)
    return weights_digest(folder)[:12]


def judge_path(request: Request) -> Path | None:
    """The judge of toys; None where the prompts are no toys."""
    if request.captions is not None:
        return None
    path = request.judge or JUDGE
    if not path.is_file():
        raise UsageError(f"--judge {path}: there is no such file")
    return path


def judge_digest(request: Request) -> str:
    path = judge_path(request)
    return digest(path) if path else ""


def make_table(request: Request, say: Callable[[str], None] = print) -> dict:
    """Make the missing runs of the table and write table.json, table.md and index.html into `request.out` after every
    run. Returns the content of table.json. Raises UsageError, PriorError and OutputError before anything is made; the
    row of a failed run says what went wrong. say: takes one line per run."""
    check_request(request)
    plans, path = plan(request), judge_path(request)
    judge_id = digest(path) if path else None
    judge = {"path": str(path.resolve()), "digest": judge_id} if path else None
    tasks = {task.key: task for row in plans for task in row.tasks}
    entries = Entries(request, judge_id)
    todo = [task for task in in_turn(plans) if not entries.of(task)]
    say(f"{len(tasks)} runs, {len(tasks) - len(todo)} done")
    for row in plans:
        if row.absent:
            say(f"{row.row.name}: not measured: {row.absent}")

    def write() -> dict:
        return write_table(plans, request, judge_id)

    write()  # a folder that cannot be written is known at once
    runner = Runner(request, judge, write, say)
    if not runner.make_all(todo, len(tasks)):
        say("the time is over; the same command goes on")
    return write()


def in_turn(plans: Sequence[Plan]) -> list[Task]:
    """Every run once, prompt by prompt over all rows, so that complete comparisons exist when it is stopped
    half-way."""
    columns = [row.tasks for row in plans if row.tasks]
    return list({task.key: task for column in zip(*columns, strict=True) for task in column}.values())


def check_request(request: Request) -> None:
    check_hours(request.hours)
    if not 0 < request.shorten <= 1:
        raise UsageError(f"--shorten must be above 0 and at most 1, got {request.shorten}")
    for name in ("prompts", "seeds"):
        if getattr(request, name) < 0:
            raise UsageError(f"--{name} must be at least 1, got {getattr(request, name)}")
    for name in ("threads", "processes"):
        if getattr(request, name) < 1:
            raise UsageError(f"--{name} must be at least 1, got {getattr(request, name)}")
