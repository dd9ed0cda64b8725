"""The command line. Imports nothing heavy before a verb is known, so that --help answers at once."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

from . import __version__
from .base.characters import clean_text, shown
from .base.console import STDOUT, named_errors, open_streams, settle, silence, tolerant
from .base.errors import DreamfusionError, UsageError
from .base.native import cores
from .config.presets import PRESETS, preset
from .config.prompts import clean_prompt
from .config.schema import check_config, clean_texts, from_dict, to_dict
from .export.formats import FORMATS, ORIGINS, STL_SIZE, check_origin, check_size, conventions_text
from .hub.names import ALIASES, TOYBOX_NAME, hub_id, on_the_hub, page_of, preset_name

# How the ValueErrors of ops begin, whose arguments are settings: "march: step is too small", "adam_step: eps must ...".
CHECKED = (
    "GridLayout",
    "hashgrid",
    "field",
    "density",
    "march",
    "cell",
    "occupancy",
    "composite",
    "shade",
    "adam",
    "render",
)
MAX_DEPTH = 16
PRINTS = ("doctor", "evaluate", "bench")  # verbs whose result is what they print; other lines are not worth a run


class Parser(argparse.ArgumentParser):
    """Wrong flags are UsageErrors, one line like all others, not the whole usage."""

    def error(self, message: str):
        verb = "" if " " in self.prog else " VERB"
        raise UsageError(f"{message}; see {self.prog}{verb} --help")


def place(text: str) -> Path:
    """A path of the command line. The shell leaves the ~ of --out=~/runs to us."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError("the path is empty" if not text.strip() else "a path cannot hold a null byte")
    path = os.path.expanduser(text)
    if path == text and text.split("/")[0] == "~":
        raise argparse.ArgumentTypeError(f"no home folder is known for {text!r}; give the path in full")
    return Path(path)


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="dreamfusion-ngp", description="A text prompt becomes a textured 3D mesh.")
    parser.add_argument("--version", action="version", version=f"dreamfusion-ngp {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    make = verbs.add_parser("generate", help="optimise a mesh for a prompt")
    make.add_argument("prompt", nargs="?", help='what to make, e.g. "a red mug"')
    make.add_argument("--prompt", dest="prompt_flag", metavar="TEXT", help="the same as a flag")
    make.add_argument("--preset", help=f"{', '.join(PRESETS)} (default: fast, or the model's own)")
    make.add_argument("--seed", type=int, default=0)
    make.add_argument("--steps", type=int, help="optimisation steps (default: the preset's)")
    make.add_argument(
        "--guidance",
        metavar="MODEL",
        help=f"text-to-image model: {', '.join(ALIASES)}, a hub id, or a folder in diffusers format "
        "(default: the embedded prior, which knows toys only)",
    )
    make.add_argument("--negative", metavar="TEXT", help="negative prompt")
    make.add_argument("--guidance-scale", type=float, help="uncond + scale (cond - uncond); default: the model's own")
    make.add_argument(
        "--low-memory",
        action="store_true",
        help="one view at a time through the model, its encoder "
        "computed anew in the backward, its UNet on the GPU only while it works",
    )
    make.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change one setting, e.g. --set render.step=0.01 (VALUE is JSON)",
    )
    make.add_argument(
        "-o", "--out", type=place, default=Path("outputs"), help="folder for the results (default: outputs)"
    )
    _machine(make), _files(make)

    get = verbs.add_parser("fetch", help="download a model once, to run offline afterwards")
    get.add_argument("model", help=f"{', '.join(ALIASES)}, or a hub id (owner/name or owner/name@revision)")

    again = verbs.add_parser("resume", help="go on with a stopped run")
    again.add_argument("run", type=place, help="folder of the run")
    again.add_argument("--steps", type=int, help="new total number of steps")
    again.add_argument("--guidance", metavar="MODEL", help="where the run's model is, if no longer where it was")
    again.add_argument("--vae", metavar="MODEL", help="the same for the VAE of its own (guidance.vae)")
    _machine(again), _files(again)

    show = verbs.add_parser("render", help="make the turntable of a run again")
    show.add_argument("run", type=place)
    show.add_argument("--frames", type=int, default=48)
    show.add_argument("--resolution", type=int, default=192, help="pixels a side of each of the three pictures")
    _machine(show)

    mesh = verbs.add_parser("export", help="make the mesh of a run again")
    mesh.add_argument("run", type=place)
    mesh.add_argument("--resolution", type=int, default=128, help="grid points a side of the marching cubes")
    mesh.add_argument("--texture", type=int, default=1024, help="pixels a side of the texture")
    mesh.add_argument("--faces", type=int, default=20000, help="triangles at most")
    mesh.add_argument("--keep-all", action="store_true", help="keep small loose pieces")
    _machine(mesh), _files(mesh)

    judge = verbs.add_parser("evaluate", help="compare runs with the true toys of their prompts; R-Precision")
    judge.add_argument("runs", type=place, nargs="+", metavar="RUN", help="folders of runs, or folders that hold some")
    judge.add_argument(
        "--depth",
        type=int,
        default=2,
        metavar="N",
        help="folders below RUN that are searched for runs (default: 2, as in outputs/PROMPT/TIME)",
    )
    judge.add_argument("--json", action="store_true", help="print everything as JSON")
    judge.add_argument(
        "-o",
        "--out",
        type=place,
        metavar="FOLDER",
        help="write evaluation.json, table.md and index.html (with pictures) there",
    )
    judge.add_argument(
        "--clip",
        metavar="MODEL",
        help="retrieval model of R-Precision: clip-b32, clip-b16, clip-l14, a hub id or a folder "
        "(default: the embedded judge, which knows toys only)",
    )
    judge.add_argument("--judge", type=place, metavar="FILE", help="a judge that train-judge wrote")
    judge.add_argument(
        "--captions",
        type=place,
        metavar="FILE",
        help="captions to choose among, one a line (default: all toys in all colours)",
    )
    _machine(judge)

    prior = verbs.add_parser("train-prior", help="train the embedded prior, from nothing or from saved weights")
    prior.add_argument("-o", "--out", type=place, default=Path("prior"), help="folder to write (default: prior)")
    prior.add_argument(
        "--resume", type=place, metavar="FOLDER", help='start from these weights; "embedded" for the shipped ones'
    )
    prior.add_argument("--images", type=int, help="training images of this run (default: 1.5 million; 8 on a GPU)")
    prior.add_argument("--minutes", type=float, default=0.0, help="end by time instead")
    prior.add_argument("--processes", type=int, default=0, help="CPU processes (default: one per core)")
    prior.add_argument("--learning-rate", type=float)
    prior.add_argument(
        "--text-phase",
        type=float,
        metavar="PART",
        help="part of the run, at its start, that mostly learns what the text alone says; 0 to go on "
        "with weights that know it",
    )
    prior.add_argument("--seed", type=int, default=0)
    prior.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")

    tutor = verbs.add_parser("train-judge", help="train the judge of toys that evaluate uses where no CLIP is given")
    tutor.add_argument(
        "-o", "--out", type=place, default=Path("judge.safetensors"), help="file to write (default: judge.safetensors)"
    )
    tutor.add_argument("--minutes", type=float, default=25.0, help="length of the training (default: 25)")
    tutor.add_argument("--images", type=int, default=0, help="end after so many training images instead")
    tutor.add_argument("--seed", type=int, default=0)
    tutor.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    tutor.add_argument("--threads", type=int, help="CPU threads (default: all cores)")

    doctor = verbs.add_parser("doctor", help="check this installation")
    doctor.add_argument("--json", action="store_true")

    bench = verbs.add_parser("bench", help="time the kernels and a whole step on this machine")
    bench.add_argument("--json", type=place, metavar="FILE", help="write the figures there as well")
    bench.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    bench.add_argument(
        "--resolutions",
        type=int,
        nargs="+",
        default=(),
        metavar="R",
        help="views of R x R rays (default: 64 128 256 512; peers take part up to 64)",
    )
    _machine(bench)
    return parser


def _machine(parser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")


def _files(parser) -> None:
    parser.add_argument(
        "--formats",
        default="glb",
        help=f"comma-separated, of {', '.join(FORMATS)} (default: glb). Units and axes: {conventions_text()}",
    )
    parser.add_argument(
        "--size",
        type=float,
        metavar="MM",
        help="longest side of an STL in millimetres (default: "
        f"{STL_SIZE:g}); the other formats keep the scene's size, in metres",
    )
    parser.add_argument(
        "--origin",
        default="scene",
        metavar="PLACE",
        help=f"{', '.join(ORIGINS)}: the point that the "
        "cameras circle, the middle of the object's bottom, or the middle of its bounding box "
        "(default: scene)",
    )


def parse_formats(text: str) -> tuple[str, ...]:
    formats = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    unknown = [f for f in formats if f not in FORMATS]
    if unknown or not formats:
        wrong = f"unknown format {', '.join(map(repr, unknown))}" if unknown else "no format given"
        raise UsageError(f"--formats: {wrong}; choose of {', '.join(FORMATS)}")
    return formats


def file_options(args) -> dict:
    """What mesh files are wanted and how they lie, checked before a run starts."""
    formats = parse_formats(args.formats)
    size, origin = check_size(STL_SIZE if args.size is None else args.size), check_origin(args.origin)
    if args.size is not None and "stl" not in formats:
        print("note: --size is the size of an STL, and --formats names none", file=sys.stderr)
    return dict(formats=formats, size=size, origin=origin)


def override(config, text: str):
    """The config with one setting changed by "group.key=JSON". Raises UsageError that lists the keys."""
    path, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set wants KEY=VALUE, got {text!r}")
    if path.strip() == "preset":
        raise UsageError("--set preset would only rename the settings; choose them with --preset")
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError):
        parsed = value
    data = to_dict(config)
    *groups, key = path.strip().split(".")
    group = data
    for name in groups:
        group = group.get(name) if isinstance(group, dict) else None
    if not isinstance(group, dict) or key not in group or isinstance(group[key], dict):
        here = group if isinstance(group, dict) else data
        raise UsageError(f"--set {path}: no such setting; here are: {', '.join(here)}")
    group[key] = parsed
    return from_dict(type(config), data)


def run_config(args):
    """The preset with the flags of `generate` applied."""
    prompt = args.prompt_flag if args.prompt_flag is not None else args.prompt
    if prompt is None or (args.prompt_flag is not None and args.prompt is not None):
        raise UsageError('give one prompt: dreamfusion-ngp generate "a red mug"')
    prompt = clean_prompt(prompt)  # before a model is fetched for it
    clean_text(args.negative or "", "the negative prompt")
    model = args.guidance if args.guidance is not None else TOYBOX_NAME
    name = args.preset if args.preset is not None else preset_name(model, pipeline_class(model))
    config = replace(preset(name), prompt=prompt, seed=args.seed)
    if model != TOYBOX_NAME:
        # View and mode words beyond the paper's four are known to the embedded prior only.
        config = replace(
            config,
            guidance=replace(config.guidance, model=model, view_words="paper", mode_words=False, keep_view=False),
        )
    for text in args.overrides:
        config = override(config, text)
    if args.steps is not None:
        if args.steps < 1:
            raise UsageError(f"--steps must be at least 1, got {args.steps}")
        config = replace(config, steps=args.steps)
    guidance = config.guidance
    if args.guidance_scale is not None:
        guidance = replace(guidance, scale=args.guidance_scale)
    if args.low_memory:
        guidance = replace(guidance, slice=1, checkpoint=True, offload=True)
    if args.negative is not None:
        guidance = replace(guidance, negative=args.negative)
    config = clean_texts(replace(config, guidance=guidance))
    check_config(config)
    if on_the_hub(guidance.model):
        from .hub.fetch import locate

        locate(guidance.model)  # a model that cannot be had is known before torch is loaded
    return config


def pipeline_class(model: str) -> str:
    """The class of a model's pipeline; "" for short names, whose preset is known, and for a folder that is none:
    whoever loads it says why. Fetches a hub id's model. Raises PriorError where it is not there."""
    from .hub.fetch import model_path, read_json

    if model in ALIASES or model == TOYBOX_NAME:
        return ""  # its preset is known
    return str(read_json(model_path(model) / "model_index.json").get("_class_name", ""))


def fetch_verb(model: str) -> int:
    from .hub.fetch import fetch

    if not on_the_hub(model):
        page = f", or for that of the hub {page_of(model)}" if hub_id(model) else ""
        raise UsageError(
            f"{model!r} is no model of the hub{' but a path here' if page else ''}; give one of "
            f"{', '.join(ALIASES)}, or owner/name{page}"
        )
    found = fetch(model, print)
    size = sum(entry["size"] for entry in found.files.values())
    licence = f"licence: {ALIASES[model].licence}; " if model in ALIASES else ""
    print(
        f"{found.name}\n{len(found.files)} files, {size / 1e6:.1f} MB, {found.checks()}, in {found.folder}\n{licence}"
        f'now: dreamfusion-ngp generate "a DSLR photo of a peacock on a surfboard" --guidance {model}'
    )
    return 0


def run_verb(args) -> int:
    if args.verb == "doctor":
        from .doctor import run

        return run(json_output=args.json)
    from .hub.client import check_timeouts

    check_timeouts()
    if args.verb == "fetch":
        return fetch_verb(args.model)
    if args.verb == "generate":
        files, config = file_options(args), run_config(args)  # what is cheap to check comes first
        from .runs.generate import generate

        return generate(config, args.out, device=args.device, threads=args.threads, **files)
    if args.verb == "train-prior":
        return train_prior_verb(args)
    if args.verb == "train-judge":
        return train_judge_verb(args)
    machine = dict(device=args.device, threads=args.threads)
    if args.verb == "resume":
        files = file_options(args)
        from .runs.generate import resume

        return resume(args.run, steps=args.steps, guidance=args.guidance, vae=args.vae, **files, **machine)
    if args.verb == "bench":
        if min(args.resolutions, default=1) < 1:
            raise UsageError(f"--resolutions must be at least 1, got {min(args.resolutions)}")
        from .bench import run as run_bench

        return run_bench(json_path=args.json, quick=args.quick, resolutions=tuple(args.resolutions), **machine)
    if args.verb == "evaluate":
        if not 0 <= args.depth <= MAX_DEPTH:
            raise UsageError(f"--depth must be from 0 to {MAX_DEPTH}, got {args.depth}")
        from .evaluation.evaluate import evaluate_runs, evaluation_text

        several = dict(clip=args.clip, judge=args.judge, captions=args.captions, out=args.out, depth=args.depth)
        result = evaluate_runs(args.runs, **several, show=lambda line: print(line, file=sys.stderr), **machine)
        one = result["runs"][0] if len(result["runs"]) == 1 and args.out is None else result
        print(json.dumps(one, indent=1) if args.json else evaluation_text(result))
        return 0
    files = file_options(args) if args.verb == "export" else {}
    from .runs.outputs import export_run, load_state, render_run

    state, folder = load_state(args.run, **machine)
    if args.verb == "render":
        render_run(state, folder, frames=args.frames, resolution=args.resolution)
    else:
        export_run(
            state,
            folder,
            resolution=args.resolution,
            texture=args.texture,
            faces=args.faces,
            keep_all=args.keep_all,
            **files,
        )
    return 0


def train_prior_verb(args) -> int:
    from .evaluation.judge import EMBEDDED
    from .evaluation.prior import judge_prior
    from .toybox.prior.loop import train_prior
    from .toybox.prior.loss import GPU, TrainPriorConfig
    from .toybox.prior.model import PRIOR

    for name in ("images", "minutes", "processes"):
        value = getattr(args, name)
        if value is not None and value < (1 if name == "images" else 0):
            raise UsageError(f"--{name} must not be {value}")
    given = {
        name: getattr(args, name)
        for name in ("images", "learning_rate", "text_phase")
        if getattr(args, name) is not None
    }
    config = replace(TrainPriorConfig() if args.device == "cpu" else GPU, minutes=args.minutes, seed=args.seed, **given)
    resume = PRIOR if args.resume == Path("embedded") else args.resume
    train_prior(
        config,
        args.out,
        resume=resume,
        processes=args.processes or cores(),
        device=args.device,
        score=judge_prior if EMBEDDED.is_file() else None,
    )
    return 0


def train_judge_verb(args) -> int:
    from .base.devices import set_threads
    from .evaluation.judge_training import GPU, TrainJudgeConfig, train_judge

    set_threads(args.threads)
    config = replace(
        TrainJudgeConfig() if args.device == "cpu" else GPU, minutes=args.minutes, images=args.images, seed=args.seed
    )
    judge = train_judge(config, args.out, device=args.device)
    found = judge.log["held_out"]
    size = args.out.stat().st_size / 1e6
    print(
        f"held-out true renderings: R-Precision Colour {found['color']:.1%} (of 220 captions), Geo "
        f"{found['geo']:.1%} (of 20); worst class {found['worst']['class']}\n"
        f"{args.out}: {size:.1f} MB, {judge.log['images']:,} images"
    )
    return 0


def main(argv: list[str] | None = None) -> int:
    open_streams()
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a prompt may hold what the terminal cannot show
    try:
        with tolerant("stderr"):
            code = answer(argv)
    finally:
        lost = settle()
    if lost is not None and not code:
        print(f"error: {STDOUT}: {lost.strerror}", file=sys.stderr)
        return DreamfusionError.exit_code
    return code


def answer(argv: list[str] | None) -> int:
    """The exit code, after one line for whatever a user can cause or meet."""
    args = None
    try:
        args = build_parser().parse_args(argv)
        if args.verb != "doctor":
            check_working_directory()
        with named_errors() if args.verb in PRINTS else tolerant("stdout"):
            return run_verb(args)
    except DreamfusionError as error:
        print(f"error: {shown(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        silence(sys.stdout)  # nobody reads on: nothing more to say, at exit neither
        return 141
    except (OSError, ImportError, MemoryError, RuntimeError, ValueError) as error:
        text = foreseen(error, args)
        if text is None:
            raise
        print(f"error: {shown(text)}", file=sys.stderr)
        return DreamfusionError.exit_code


def check_working_directory() -> None:
    """Raise UsageError where it has been removed: torch cannot be loaded there."""
    try:
        os.getcwd()
    except OSError:
        raise UsageError("the working directory is no longer there; change to one that is") from None


def foreseen(error: Exception, args) -> str | None:
    """One line for an error of the system or of a setting; None for a defect, whose traceback is wanted."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else first
    if isinstance(error, ImportError):
        return f'{first}; this installation is incomplete: run "dreamfusion-ngp doctor"'
    if isinstance(error, MemoryError) or "out of memory" in first or "allocate memory" in first:
        return f"not enough memory ({first[:200]}); try smaller numbers, with --guidance also --low-memory"
    checked = isinstance(error, ValueError) and re.split("[:_]", first)[0] in CHECKED
    return f"--set: {first}" if checked and getattr(args, "overrides", None) else None
