"""`dreamfusion-ngp resume`."""

from __future__ import annotations

import argparse

from .arguments import add_files, add_machine, file_options, place
from .progress import TerminalProgress, exit_code


def add_arguments(verbs) -> None:
    parser = verbs.add_parser("resume", help="go on with a stopped run")
    parser.add_argument("run", type=place, help="folder of the run")
    parser.add_argument("--steps", type=int, help="new total number of steps of the stage that the run is in")
    parser.add_argument("--guidance", metavar="MODEL", help="where the run's model is, if no longer where it was")
    parser.add_argument("--vae", metavar="MODEL", help="the same for the VAE of its own (guidance.vae)")
    parser.add_argument("--depth-control", metavar="MODEL", help="the same for its model of depth (guidance.control)")
    add_machine(parser)
    add_files(parser, again=True)


def run(args: argparse.Namespace) -> int:
    files = file_options(args)
    from ..base.devices import set_threads
    from ..runs.generate import resume

    set_threads(args.threads)
    where = dict(guidance=args.guidance, vae=args.vae, control=args.depth_control, device=args.device)
    with TerminalProgress() as progress:
        result = resume(args.run, steps=args.steps, **where, **files, observer=progress, catch_signals=True)
    return exit_code(result)
