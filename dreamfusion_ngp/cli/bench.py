"""`dreamfusion-ngp bench`."""

from __future__ import annotations

import argparse
from functools import partial

from ..base.errors import UsageError
from .arguments import add_machine, place


def add_arguments(verbs) -> None:
    parser = verbs.add_parser("bench", help="time the kernels and a whole step on this machine")
    parser.add_argument("--json", type=place, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument(
        "--resolutions",
        type=int,
        nargs="+",
        default=(),
        metavar="R",
        help="views of R x R rays (default: 64 128 256 512; peers take part up to 64)",
    )
    add_machine(parser)


def run(args: argparse.Namespace) -> None:
    if min(args.resolutions, default=1) < 1:
        raise UsageError(f"--resolutions must be at least 1, got {min(args.resolutions)}")
    from ..bench import run as run_bench

    run_bench(
        json_path=args.json,
        quick=args.quick,
        resolutions=tuple(args.resolutions),
        device=args.device,
        threads=args.threads,
        show=partial(print, flush=True),
    )
