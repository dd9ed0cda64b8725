"""`dreamfusion-ngp train-prior`."""

from __future__ import annotations

import argparse
import signal
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from ..base.errors import UsageError
from ..base.native import cores
from .arguments import place


def add_arguments(verbs) -> None:
    parser = verbs.add_parser("train-prior", help="train the embedded prior, from nothing or from saved weights")
    parser.add_argument("-o", "--out", type=place, default=Path("prior"), help="folder to write (default: prior)")
    parser.add_argument(
        "--resume", type=place, metavar="FOLDER", help='start from these weights; "embedded" for the shipped ones'
    )
    parser.add_argument("--images", type=int, help="training images of this run (default: 1.5 million; 8 on a GPU)")
    parser.add_argument("--minutes", type=float, default=0.0, help="end by time instead")
    parser.add_argument("--processes", type=int, default=0, help="CPU processes (default: one per core)")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument(
        "--text-phase",
        type=float,
        metavar="PART",
        help="part of the run, at its start, that mostly learns what the text alone says; 0 to go on "
        "with weights that know it",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")


def run(args: argparse.Namespace) -> None:
    from ..evaluation.judge import EMBEDDED
    from ..evaluation.prior import judge_prior
    from ..toybox.prior.loop import train_prior
    from ..toybox.prior.loss import GPU, TrainPriorConfig
    from ..toybox.prior.model import PRIOR

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
    processes = 1 if args.device != "cpu" else args.processes or cores()
    with sigterm_raises() if processes == 1 else nullcontext():  # of several the members notice that this one has gone
        train_prior(
            config,
            args.out,
            resume=PRIOR if args.resume == Path("embedded") else args.resume,
            processes=processes,
            device=args.device,
            score=judge_prior if EMBEDDED.is_file() else None,
            show=say,
        )


def say(line: str) -> None:
    """Print a line, in whichever process it is called."""
    print(line, flush=True)


@contextmanager
def sigterm_raises():
    """Let SIGTERM raise SystemExit for the length of the block, so that what is trained is saved."""

    def leave(number, _frame):
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
