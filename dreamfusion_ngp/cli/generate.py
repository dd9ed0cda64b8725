"""`dreamfusion-ngp generate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..config.presets import PRESETS
from ..config.rules import RULES
from ..hub.names import ALIASES
from .arguments import add_files, add_machine, file_options, place
from .progress import TerminalProgress, exit_code
from .settings import run_config


def add_arguments(verbs) -> None:
    parser = verbs.add_parser("generate", help="optimise a mesh for a prompt")
    parser.add_argument("prompt", nargs="?", help='what to make, e.g. "a red mug"')
    parser.add_argument("--prompt", dest="prompt_flag", metavar="TEXT", help="the same as a flag")
    parser.add_argument("--preset", help=f"{', '.join(PRESETS)} (default: fast, or the model's own)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="optimisation steps (default: the preset's)")
    parser.add_argument(
        "--guidance",
        metavar="MODEL",
        help=f"text-to-image model: {', '.join(ALIASES)}, a hub id, or a folder in diffusers format "
        "(default: the embedded prior, which knows toys only)",
    )
    parser.add_argument(
        "--rule",
        help=f"distillation rule with the settings of its paper: {', '.join(RULES)} (default: sds; docs/guidance.md)",
    )
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        dest="loras",
        metavar="FILE_OR_FOLDER[:WEIGHT]",
        help="a LoRA for Stable Diffusion, SDXL or Stable Diffusion 3, in safetensors; more than once for several",
    )
    parser.add_argument("--negative", metavar="TEXT", help="negative prompt")
    parser.add_argument("--guidance-scale", type=float, help="uncond + scale (cond - uncond); default: the model's own")
    parser.add_argument(
        "--low-memory",
        action="store_true",
        help="one view at a time through the model, its encoder "
        "computed anew in the backward, its UNet on the GPU only while it works",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change one setting, e.g. --set render.step=0.01 (VALUE is JSON)",
    )
    parser.add_argument(
        "-o", "--out", type=place, default=Path("outputs"), help="folder for the results (default: outputs)"
    )
    add_machine(parser)
    add_files(parser)


def run(args: argparse.Namespace) -> int:
    files, config = file_options(args), run_config(args)  # what is cheap to check comes first
    from ..base.devices import set_threads
    from ..runs.generate import generate

    set_threads(args.threads)
    with TerminalProgress() as progress:
        result = generate(config, args.out, device=args.device, **files, observer=progress, catch_signals=True)
    return exit_code(result)
