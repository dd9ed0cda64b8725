"""What the verbs of the command line do: generate, resume, render, export, evaluate."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import torch

from .base.console import tolerant
from .base.devices import choose_device, set_threads
from .base.errors import DreamfusionError, ExportError, OutputError, UsageError, writing
from .base.files import write_atomically
from .config.prompts import clean_prompt
from .config.schema import RunConfig, check_config, clean_texts, resolution_at
from .hub.fetch import pinned
from .hub.names import TOYBOX_NAME
from .optimise.loop import State, train
from .runs.checkpoint import load_checkpoint
from .runs.folder import CHECKPOINT, DEPTH, checkpoint_of, create_run, find_runs, lock_run, reopen_run, turntable_frames
from .runs.interrupt import Interrupt
from .runs.progress import Conveniences, Observer, progress_bar, shares
from .runs.saver import Saver

LARGE_FOR_A_CPU = 1 << 30  # bytes of a UNet's weights
MAX_FRAMES, MAX_PIXELS = 3600, 2048


def check_prompt(config: RunConfig) -> RunConfig:
    """The config with its texts in normal form and its values checked. A prompt for the embedded prior must be made of
    words that it knows, and becomes the caption that it was trained with: "Mug, red!" is "a red mug"."""
    config = clean_texts(replace(config, prompt=clean_prompt(config.prompt)))
    check_config(config)
    if config.guidance.model == TOYBOX_NAME:
        from .toybox.world.captions import known_words, parse_prompt, subject

        config = replace(
            config,
            prompt=subject(*parse_prompt(config.prompt)),
            guidance=replace(config.guidance, negative=known_words(config.guidance.negative, "the negative prompt")),
        )
    return config


def pin_model(config: RunConfig) -> RunConfig:
    """The config with models that mean the same from anywhere and later on; fetches what is on the hub only."""
    guidance = config.guidance
    return replace(config, guidance=replace(guidance, model=pinned(guidance.model), vae=pinned(guidance.vae)))


def optimise(state: State, guidance, folder: Path, formats: tuple[str, ...], **placing) -> int:
    """Run `state` to its end (or to Ctrl-C) and leave everything in `folder`, which is locked. formats,
    placing: as for `export.export_mesh`. Returns the exit code."""
    saver = Saver(state, folder)
    saver.save()
    with tolerant("stdout", "stderr"), Interrupt(saver.rescue) as interrupt:
        with progress_bar() as bar:
            observer = Observer(state, folder, saver, interrupt, bar)
            with saver.kept():
                train(state, guidance, observer)
        failures = []
        try:
            saver.save()
        except OutputError as error:  # what else can be made is, from the state in memory
            failures.append(error)
        interrupt.ending = True
        if not interrupt.hurried:
            print_summary(state, observer)
            failures += results(state, folder, formats, **placing)
    if len(failures) > 1 and isinstance(failures[1], DreamfusionError):
        raise OutputError("; ".join(map(str, failures)))
    if failures:
        raise failures[-1]
    return interrupt.exit_code


def results(state: State, folder: Path, formats: tuple[str, ...], **placing) -> list[Exception]:
    """Make the mesh, and the pictures, which a run can do without, whatever becomes of the others: where there is no
    mesh they show why. Returns the mesh's error, if any."""
    failures = []
    try:
        export_run(state, folder, formats, **placing)
    except Exception as error:
        failures.append(error)
    Conveniences()(render_run, state, folder)
    print(f"checkpoint  {folder / CHECKPOINT}\npreviews    {folder / 'previews'}")
    return failures


def print_summary(state: State, observer: Observer) -> None:
    print(
        f"optimised {state.step - observer.first} steps in {time.monotonic() - observer.began:.0f} s: "
        f"{shares(observer.totals)}"
    )
    device = state.device
    if device.type == "cuda":
        print(
            f"GPU memory  {torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB of tensors at most, "
            f"{torch.cuda.max_memory_reserved(device) / 1e9:.2f} GB reserved"
        )
    if lost := int(state.adam.nonfinite):
        print(
            f"note        {lost} updates of single numbers were left out, because they would not have been finite; "
            "try a lower optim.lr_grid"
        )


def print_memory_plan(guidance, state: State) -> None:
    """What a run with a model of one's own will take, before it starts. Nothing for the embedded prior."""
    config, device = state.config, state.device
    if config.guidance.model == TOYBOX_NAME:
        return
    from .guidance.memory import plan, plan_text

    tensors = state.tensors()
    learnt = [t for name, t in tensors.items() if name.startswith(("field", "background"))]  # these have gradients too
    field = sum(t.numel() * t.element_size() for t in (*tensors.values(), *learnt))
    try:
        parts = {"field and optimiser": field, **plan(guidance, resolution_at(config.render, 1.0))}
    except (NotImplementedError, RuntimeError) as error:  # an op without a meta kernel: the run does not depend on it
        print(f"memory plan not known: {str(error).splitlines()[0]}", flush=True)
        return
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_allocated(device) if device.type == "cuda" else None
    print(f"{plan_text(parts, free)} (besides {config.render.budget} samples at most)", flush=True)
    if device.type == "cpu" and parts["UNet"] > LARGE_FOR_A_CPU:
        print("note        a step of a model of this size takes minutes on a CPU; it is meant for a GPU", flush=True)


def generate(
    config: RunConfig,
    root: Path,
    *,
    device: str = "auto",
    threads: int | None = None,
    formats: tuple[str, ...] = ("glb",),
    **placing,
) -> int:
    """Make a new run under `root`. formats, placing: of the mesh, as for `export.export_mesh`. Returns the exit
    code."""
    config = pin_model(check_prompt(config))
    set_threads(threads)
    where = choose_device(device)
    from .guidance import origin
    from .guidance.load import load_guidance

    guidance = load_guidance(config, where)
    state = State(config, where)
    state.weights = origin.weights_of(config)
    folder = create_run(root, config)
    with lock_run(folder), tolerant("stdout"):
        print(
            f"{config.prompt!r}: {config.steps} steps, preset {config.preset}, seed {config.seed}, "
            f"prior {config.guidance.model}, on {where}\nwriting to {folder}",
            flush=True,
        )
        print_memory_plan(guidance, state)
        return optimise(state, guidance, folder, formats, **placing)


def resume(
    run: Path,
    *,
    steps: int | None = None,
    guidance: str | None = None,
    vae: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    formats: tuple[str, ...] = ("glb",),
    **placing,
) -> int:
    """Go on with a run. guidance, vae: where its models lie now, as `GuidanceConfig.model` and `.vae`, if no longer
    where they were. formats, placing: of the mesh, as for `export.export_mesh`. Raises PriorError for models with
    other weights than those that the run was started with."""
    set_threads(threads)
    if steps is not None and steps < 1:
        raise UsageError(f"--steps must be at least 1, got {steps}")
    path = checkpoint_of(run)
    folder = path.parent.resolve()
    with lock_run(folder), tolerant("stdout"):
        state = load_checkpoint(path, choose_device(device), steps=steps)
        if state.config.steps < state.step:
            raise UsageError(f"--steps {steps}: the run has made {state.step} steps already")
        from .guidance import origin
        from .guidance.load import load_guidance

        state.config = origin.moved(state.config, guidance, vae)
        state.weights = origin.check_weights(state.config, state.weights)
        loaded = load_guidance(state.config, state.device)
        reopen_run(folder, state)
        print(f"{state.config.prompt!r}: resuming at step {state.step} of {state.config.steps}", flush=True)
        return optimise(state, loaded, folder, formats, **placing)


def load_state(run: Path, device: str = "auto", threads: int | None = None) -> tuple[State, Path]:
    set_threads(threads)
    path = checkpoint_of(run)
    return load_checkpoint(path, choose_device(device)), path.parent.resolve()


def export_run(state: State, folder: Path, formats: tuple[str, ...] = ("glb",), **options) -> dict:
    from .export.meshes import export_mesh

    device = state.device
    result = export_mesh(
        lambda x: state.field.density(x.to(device)).cpu(),
        lambda x: state.field.albedo(x.to(device)).cpu(),
        state.config.field.bound,
        folder,
        formats=formats,
        **options,
    )
    for name, path in result["paths"].items():
        print(f"{name:<11} {path}")
    if "stl" in result["paths"]:
        width, depth, height = result["stl_sides"]
        print(f"STL size    {width:.1f} x {depth:.1f} x {height:.1f} mm (width, depth, height); --size changes it")
    return result


def render_run(state: State, folder: Path, *, frames: int = 48, resolution: int = 192) -> Path:
    from .export.video import contact_sheet, write_turntable

    for name, value, low, high in (("frames", frames, 1, MAX_FRAMES), ("resolution", resolution, 8, MAX_PIXELS)):
        if not low <= value <= high:
            raise UsageError(f"--{name} must be from {low} to {high}, got {value}")
    pictures, path, failure = list(turntable_frames(state, frames, resolution)), None, None
    try:
        path = write_turntable(folder / "turntable.mp4", pictures, fps=16)
        print(f"turntable   {path}")
    except ExportError as error:  # the sheet may do all the same
        failure = error
    sheet = contact_sheet(folder / "contact_sheet.png", [pictures[i * frames // 8] for i in range(8)], columns=2)
    print(f"sheet       {sheet}")
    if failure is not None:
        raise failure
    return path


def evaluate_runs(
    paths: list[Path],
    *,
    clip: str | None = None,
    judge: Path | None = None,
    captions: Path | None = None,
    out: Path | None = None,
    depth: int = DEPTH,
    device: str = "auto",
    threads: int | None = None,
    show=print,
) -> dict:
    """Score the runs that `paths` are or hold, at most `depth` folders below; every one gets its evaluation.json.
    With `out` that folder gets evaluation.json (the judge's score on true renderings, means and spreads, all runs),
    table.md and index.html. show: called with a line per run. Of several runs one without a result, an empty scene,
    counts as zero; alone it raises ExportError."""
    from .evaluation import scoring, sheet
    from .evaluation.retrieval import read_captions

    runs, among = find_runs(paths, depth), read_captions(captions) if captions else []
    if out is not None:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
    retrieval = scoring.load_retrieval(clip, judge, choose_device(device))
    score, records, pictures = scoring.score if len(runs) == 1 else scoring.attempt, [], []
    for path in runs:
        state, folder = load_state(path, device, threads)
        record, views = score(state, folder, retrieval, among)
        write_text(folder / "evaluation.json", json.dumps(record, indent=1))
        records.append(record)
        pictures.append(sheet.thumbnails(views) if views else "")
        show(f"{record['prompt']}, seed {record['seed']}: {folder} {record.get('failed', '')}".rstrip())
    known = retrieval and {
        "name": retrieval.name,
        "held_out": getattr(retrieval, "log", {}).get("held_out"),
        "truth": scoring.truth(retrieval, [r["prompt"] for r in records], among),
    }
    result = {"judge": known, "figures": scoring.summary(records), "runs": records}
    if out is not None:
        write_text(out / "evaluation.json", json.dumps(result, indent=1))
        write_text(out / "table.md", scoring.table(records, result["figures"]))
        write_text(out / "index.html", sheet.html_sheet(result, pictures))
    return result


def write_text(path: Path, text: str) -> None:
    with writing(path):
        write_atomically(path, (text.rstrip() + "\n").encode())


def evaluation_text(result: dict) -> str:
    """The figures of one run as lines of text; of several as a table. First how good the judge is on true toys."""
    from .evaluation.scoring import table
    from .evaluation.sheet import judge_text

    if len(result["runs"]) > 1:
        return f"{judge_text(result['judge'])}\n{table(result['runs'], result['figures'])}"
    lines = [
        f"{key:<24} {value:.3f}" if isinstance(value, float) else f"{key:<24} {value}"
        for key, value in result["runs"][0].items()
        if not isinstance(value, (dict, list))
    ]
    return "\n".join([*lines, judge_text(result["judge"])])
