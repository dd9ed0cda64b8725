"""The optimisation of a run from its prompt, or from its checkpoint, to its mesh and pictures."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..base.devices import choose_device
from ..base.errors import DreamfusionError, OutputError, UsageError
from ..config.checks import check_config, clean_texts
from ..config.prompts import clean_prompt
from ..config.schema import RunConfig, resolution_at
from ..export.formats import check_files
from ..hub.fetch import pinned
from ..hub.names import TOYBOXES
from ..optimise.loop import train
from ..optimise.stage import Stage
from .checkpoint import load_checkpoint
from .folder import CHECKPOINT, checkpoint_of, create_run, lock_run, remembered_files, reopen_run
from .interrupt import Interrupt
from .outputs import DEFAULT_FORMATS, check_options, export_run, render_run
from .recorder import BestEffort, Observer, Recorder
from .saver import Saver
from .stages import check_models, follow, next_config, stage_configs, start, steps_in_all
from .texture import log_new_uvs

log = logging.getLogger(__name__)

LARGE_FOR_A_CPU = 1 << 30  # bytes of a UNet's weights


@dataclass(frozen=True)
class RunResult:
    """What a run left behind and how it went.

    folder: absolute path. step: steps that the run has made in all; made: in this call, in `seconds`, of which `times`
    says how many went into the guidance, the field and elsewhere ("other"). meshes: absolute path of each format; "obj"
    adds "mtl" and "png". pictures: paths of "turntable" and "sheet", {} where they could not be made. signal: the
    number of the signal that ended the run early, None where it made all its steps.
    """

    folder: Path
    step: int
    made: int
    seconds: float
    times: dict[str, float]
    meshes: dict[str, Path]
    pictures: dict[str, Path]
    signal: int | None = None


def check_prompt(config: RunConfig) -> RunConfig:
    """The config with its texts in normal form and its values checked. A prompt for the embedded prior must be made of
    words that it knows, and becomes the caption that it was trained with: "Mug, red!" is "a red mug"."""
    config = clean_texts(replace(config, prompt=clean_prompt(config.prompt)))
    check_config(config)
    if following := next_config(config):
        config = replace(config, then=check_prompt(following))
    if config.guidance.model in TOYBOXES:
        from ..toybox.world.captions import known_words, parse_prompt, subject

        config = replace(
            config,
            prompt=subject(*parse_prompt(config.prompt)),
            guidance=replace(config.guidance, negative=known_words(config.guidance.negative, "the negative prompt")),
        )
    return config


def pin_model(config: RunConfig) -> RunConfig:
    """The config with its models pinned to fixed revisions and absolute paths; fetches those that are only on the
    hub."""
    guidance = config.guidance
    from ..guidance.inversions import read_inversion
    from ..guidance.styles import read_entry

    models = {name: pinned(getattr(guidance, name)) for name in ("model", "vae", "control")}
    loras = tuple(str(read_entry(entry)) for entry in guidance.loras)
    embeddings = tuple(str(read_inversion(entry)) for entry in guidance.embeddings)
    guidance = replace(guidance, **models, loras=loras, embeddings=embeddings)
    return replace(config, guidance=guidance, then=config.then and pin_model(config.then))


def optimise(
    state: Stage,
    guidance,
    folder: Path,
    formats: tuple[str, ...] = DEFAULT_FORMATS,
    *,
    observer: Observer | None = None,
    catch_signals: bool = False,
    **placing,
) -> RunResult:
    """Run `state` to its end (or to a signal) and leave everything in `folder`, which is locked. The other arguments
    and the errors are those of `generate`."""
    saver = Saver(state, folder)
    saver.save()
    failures, meshes, pictures = [], {}, {}
    with Interrupt(saver.rescue, catch_signals) as interrupt:
        with saver.saved_on_error():
            recorder = Recorder(state, folder, saver, interrupt, observer)
            state = train_all(state, guidance, recorder, saver)
        seconds = time.monotonic() - recorder.began
        try:
            saver.save()
        except OutputError as error:  # mesh and pictures are still made, from the state in memory
            failures.append(error)
        interrupt.ending = True
        if not interrupt.hurried:
            log_summary(state, recorder, seconds)
            try:
                meshes = export_run(state, folder, formats, **placing)
            except Exception as error:  # the pictures, which a run can do without, show why there is no mesh
                failures.append(error)
            pictures = BestEffort()(render_run, state, folder) or {}
            log.info("checkpoint  %s\npreviews    %s", folder / CHECKPOINT, folder / "previews")
    raise_failures(failures)
    step = state.before + state.step
    made = step - recorder.first
    return RunResult(folder, step, made, seconds, recorder.times, meshes, pictures, interrupt.signal or None)


def train_all(stage: Stage, guidance, recorder: Recorder, saver: Saver) -> Stage:
    """Run `stage` to its end and then those that follow, each with a guidance of its own. Returns the last that was
    begun."""
    from ..guidance import origin as weights
    from ..guidance.load import load_guidance

    while True:
        train(stage, guidance, recorder)
        if stage.step < stage.config.steps or (following := follow(stage)) is None:
            return stage
        stage, guidance = following, None  # before the next model is loaded, the one before goes
        stage.weights = weights.weights_of(stage.config)
        guidance = load_guidance(stage.config, stage.device)
        log.info(
            "stage       %s: %d steps, prior %s", stage.config.kind, stage.config.steps, stage.config.guidance.model
        )
        saver.follow(stage)
        recorder.follow(stage)


def raise_failures(failures: list[Exception]) -> None:
    """Raise the last of `failures`, if any; two that are both known errors, as one OutputError."""
    if len(failures) > 1 and isinstance(failures[1], DreamfusionError):
        raise OutputError("; ".join(map(str, failures)))
    if failures:
        raise failures[-1]


def log_summary(state: Stage, recorder: Recorder, seconds: float) -> None:
    steps = state.before + state.step - recorder.first
    log.info("optimised %d steps in %.0f s: %s", steps, seconds, shares(recorder.times))
    if state.device.type == "cuda":
        log.info(
            "GPU memory  %.2f GB of tensors at most, %.2f GB reserved",
            torch.cuda.max_memory_allocated(state.device) / 1e9,
            torch.cuda.max_memory_reserved(state.device) / 1e9,
        )
    if lost := sum(int(v) for name, v in state.tensors().items() if name.startswith("adam.nonfinite")):
        log.info(
            "note        %d updates of single numbers were left out, because they would not have been finite; "
            "try a lower optim.lr_grid",
            lost,
        )


def shares(times: dict[str, float]) -> str:
    """ "prior 41 %, field 55 %, elsewhere 4 %"."""
    whole = max(sum(times.values()), 1e-9)
    names = {"prior": "guidance", "field": "field", "elsewhere": "other"}
    return ", ".join(f"{name} {100 * times[key] / whole:.0f} %" for name, key in names.items())


def log_memory_plan(guidance, state: Stage) -> None:
    """Log the memory that a run with the user's own model will take, before it starts; nothing for the embedded
    prior."""
    config, device = state.config, state.device
    if config.guidance.model in TOYBOXES or config.guidance.kind == "clip":
        return
    from ..guidance.memory import plan, plan_text

    tensors = state.tensors()
    learnt = [t for name, t in tensors.items() if name.startswith(("field", "background"))]  # these have gradients too
    field = sum(t.numel() * t.element_size() for t in (*tensors.values(), *learnt))
    try:
        sizes = {
            "field and optimiser": field,
            **plan(guidance.denoiser, config.views, resolution_at(config.render, 1.0)),
        }
    except (NotImplementedError, RuntimeError) as error:  # an op without a meta kernel: the run does not depend on it
        log.info("memory plan not known: %s", str(error).splitlines()[0])
        return
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_allocated(device) if device.type == "cuda" else None
    log.info("%s (plus %d samples at most)", plan_text(sizes, free), config.render.budget)
    if device.type == "cpu" and sizes["UNet"] > LARGE_FOR_A_CPU:
        log.info("note        a step of a model of this size takes minutes on a CPU; it is meant for a GPU")


def generate(
    config: RunConfig,
    root: str | Path = "outputs",
    *,
    device: str | torch.device = "auto",
    formats: tuple[str, ...] | None = None,
    size: float | None = None,
    origin: str | None = None,
    observer: Observer | None = None,
    catch_signals: bool = False,
) -> RunResult:
    """Make a new run under `root`: optimise a scene for `config.prompt`, then write its mesh and pictures.

    device: "auto", "cpu", "cuda" or "cuda:N". formats, size (of an STL, in millimetres), origin: of the mesh, as for
    `outputs.export`. observer: called with a `Progress` before the first step, every ten steps and at the
    end; what it raises is logged once. catch_signals: let Ctrl-C, SIGTERM and the like end the run early, saved and
    exported (`RunResult.signal`), a second one save and end the process; for programs that are such a run and nothing
    else. Otherwise KeyboardInterrupt comes through, with the steps saved.

    Raises UsageError (PromptError) for a config or an argument that cannot be used, PriorError for a model that is not
    there or not understood, NativeError for a device that is not there, before anything is written; DivergenceError,
    OutputError, ExportError for what goes wrong later.
    """
    files = check_files(formats, size, origin)
    config = pin_model(check_prompt(config))
    check_options(stage_configs(config)[-1], files)
    if config.kind == "mesh":
        raise UsageError("a mesh goes on from a volume; it cannot be the first stage")
    if config.kind == "texture" and not config.texture.source:
        raise UsageError("a texture needs a mesh: dreamfusion-ngp refine MESH PROMPT")
    where = choose_device(device)
    from ..guidance import origin as weights
    from ..guidance.load import load_guidance
    from ..guidance.painter import check_painters

    check_models(config)
    check_painters(stage_configs(config), where)
    guidance = load_guidance(config, where)
    state = start(config, where)
    state.weights = weights.weights_of(config)
    folder = create_run(Path(root), config, files)
    with lock_run(folder):
        log.info(
            "%r: %d steps, preset %s, seed %d, prior %s, on %s\nwriting to %s",
            *(config.prompt, steps_in_all(config), config.preset, config.seed, config.guidance.model, where, folder),
        )
        log_new_uvs(state)
        log_memory_plan(guidance, state)
        return optimise(state, guidance, folder, observer=observer, catch_signals=catch_signals, **files)


def resume(
    run: str | Path,
    *,
    steps: int | None = None,
    guidance: str | None = None,
    vae: str | None = None,
    control: str | None = None,
    device: str | torch.device = "auto",
    formats: tuple[str, ...] | None = None,
    size: float | None = None,
    origin: str | None = None,
    observer: Observer | None = None,
    catch_signals: bool = False,
) -> RunResult:
    """Go on with a run from its checkpoint. steps: new total number of steps of the stage that it is in. guidance, vae,
    control: where its models lie now, as `GuidanceConfig.model`, `.vae` and `.control`, if no longer where they were.
    formats, size, origin: None is what the run was asked for. The other arguments and the errors are those of
    `generate`; CheckpointError for a folder without a sound checkpoint, PriorError for models with other weights than
    those that the run was started with."""
    files = check_files(formats, size, origin)
    if steps is not None and steps < 1:
        raise UsageError(f"--steps must be at least 1, got {steps}")
    path = checkpoint_of(Path(run))
    folder = path.parent.resolve()
    with lock_run(folder):
        state = load_checkpoint(path, choose_device(device), steps=steps)
        if state.config.steps < state.step:
            raise UsageError(f"--steps {steps}: the stage that the run is in has made {state.step} steps already")
        files = remembered_files(folder) | files
        check_options(stage_configs(state.config)[-1], files)
        from ..guidance import origin as weights
        from ..guidance.load import load_guidance

        state.config = weights.moved(state.config, guidance, vae, control)
        state.weights = weights.check_weights(state.config, state.weights)
        loaded = load_guidance(state.config, state.device)
        reopen_run(folder, state, files)
        done, total = state.before + state.step, state.before + steps_in_all(state.config)
        log.info("%r: resuming at step %d of %d", state.config.prompt, done, total)
        return optimise(state, loaded, folder, observer=observer, catch_signals=catch_signals, **files)
