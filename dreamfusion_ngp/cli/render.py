"""`dreamfusion-ngp render`."""

from __future__ import annotations

import argparse

from .arguments import add_machine, place


def add_arguments(verbs) -> None:
    parser = verbs.add_parser("render", help="make the turntable of a run again")
    parser.add_argument("run", type=place)
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--resolution", type=int, default=192, help="pixels a side of each of the three pictures")
    add_machine(parser)


def run(args: argparse.Namespace) -> None:
    from ..base.devices import set_threads
    from ..runs.outputs import render

    set_threads(args.threads)
    render(args.run, frames=args.frames, resolution=args.resolution, device=args.device)
