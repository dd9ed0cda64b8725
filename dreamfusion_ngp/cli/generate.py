"""`dreamfusion-ngp generate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..config.presets import OF_PROMPTS
from .arguments import add_files, add_guidance, add_machine, file_options, place
from .progress import TerminalProgress, exit_code
from .settings import run_config


def add_arguments(verbs) -> None:
    parser = verbs.add_parser("generate", help="optimise a mesh for a prompt")
    parser.add_argument("prompt", nargs="?", help='what to make, e.g. "a red mug"')
    parser.add_argument("--prompt", dest="prompt_flag", metavar="TEXT", help="the same as a flag")
    parser.add_argument("--preset", help=f"{', '.join(OF_PROMPTS)} (default: fast, or the model's own)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="optimisation steps of the first stage (default: the preset's)")
    add_guidance(parser)
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
