"""The optimisation of a run from its prompt, or from its checkpoint, to its mesh and pictures."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch

from ..base.console import tolerant
from ..base.devices import choose_device, set_threads
from ..base.errors import DreamfusionError, OutputError, UsageError
from ..config.prompts import clean_prompt
from ..config.schema import RunConfig, check_config, clean_texts, resolution_at
from ..hub.fetch import pinned
from ..hub.names import TOYBOX_NAME
from ..optimise.loop import State, train
from .checkpoint import load_checkpoint
from .folder import CHECKPOINT, checkpoint_of, create_run, lock_run, reopen_run
from .interrupt import Interrupt
from .outputs import export_run, render_run
from .progress import Conveniences, Observer, progress_bar, shares
from .saver import Saver

LARGE_FOR_A_CPU = 1 << 30  # bytes of a UNet's weights


def check_prompt(config: RunConfig) -> RunConfig:
    """The config with its texts in normal form and its values checked. A prompt for the embedded prior must be made of
    words that it knows, and becomes the caption that it was trained with: "Mug, red!" is "a red mug"."""
    config = clean_texts(replace(config, prompt=clean_prompt(config.prompt)))
    check_config(config)
    if config.guidance.model == TOYBOX_NAME:
        from ..toybox.world.captions import known_words, parse_prompt, subject

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
    from ..guidance.memory import plan, plan_text

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
    from ..guidance import origin
    from ..guidance.load import load_guidance

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
        from ..guidance import origin
        from ..guidance.load import load_guidance

        state.config = origin.moved(state.config, guidance, vae)
        state.weights = origin.check_weights(state.config, state.weights)
        loaded = load_guidance(state.config, state.device)
        reopen_run(folder, state)
        print(f"{state.config.prompt!r}: resuming at step {state.step} of {state.config.steps}", flush=True)
        return optimise(state, loaded, folder, formats, **placing)
