"""`dreamfusion-ngp train-prior`."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..base.console import tolerant
from ..base.errors import UsageError
from ..base.native import cores
from .arguments import place

EMBEDDED = Path("embedded")
SETTINGS = ("images", "learning_rate", "text_phase", "views_per_class")


def add_arguments(verbs) -> None:
    parser = verbs.add_parser("train-prior", help="train an embedded prior, from nothing or from saved weights")
    parser.add_argument("-o", "--out", type=place, default=Path("prior"), help="folder to write (default: prior)")
    parser.add_argument(
        "--kind",
        choices=("pixel", "latent", "multiview", "depth", "clip"),
        default="pixel",
        help="pixel: toybox-64; latent: toybox-256, an autoencoder and a UNet on its latents; multiview: toybox-mv, "
        "four sides of a toy at once, which starts from the shipped toybox-64; depth: toybox-depth, a ControlNet on "
        "the shipped toybox-256; clip: toybox-clip, which tells pictures of toys by texts",
    )
    parser.add_argument(
        "--part",
        choices=("autoencoder", "unet"),
        help="of a latent prior, the only part to train (default: both, one after the other)",
    )
    parser.add_argument(
        "--resume", type=place, metavar="FOLDER", help='start from these weights; "embedded" for the shipped ones'
    )
    parser.add_argument(
        "--images", type=int, help="training images of this run, of a latent prior of each part (default: by kind)"
    )
    parser.add_argument("--minutes", type=float, default=0.0, help="end by time instead, each part of a latent prior")
    parser.add_argument("--processes", type=int, default=0, help="CPU processes (default: one per core)")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--views-per-class", type=int, help="traced views of each class that a process keeps")
    parser.add_argument(
        "--text-phase",
        type=float,
        metavar="PART",
        help="pixel: part of the run, at its start, that mostly learns what the text alone says; 0 to go on "
        "with weights that know it",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")


def run(args: argparse.Namespace) -> None:
    for name in ("images", "minutes", "processes", "views_per_class"):
        value = getattr(args, name)
        if value is not None and value < (1 if name in ("images", "views_per_class") else 0):
            raise UsageError(f"--{name.replace('_', '-')} must not be {value}")
    if args.part and args.kind != "latent":
        raise UsageError("--part is for --kind latent")
    processes = 1 if args.device != "cpu" else args.processes or cores()
    with signals_raise():
        TRAININGS[args.kind](args, processes)


def pixel(args: argparse.Namespace, processes: int) -> None:
    from ..evaluation.prior import judge_prior
    from ..toybox.prior.pixels import PIXEL

    start(args, processes, PIXEL, judged(judge_prior))


def latent(args: argparse.Namespace, processes: int) -> None:
    from ..evaluation.autoencoder import judge_autoencoder
    from ..evaluation.prior import judge_latent_prior
    from ..toybox.prior.latent_model import LATENT_PRIOR
    from ..toybox.prior.latent_training import Part, train_latent_prior
    from ..toybox.prior.latents import UNET, UNET_GPU
    from ..toybox.prior.reconstruction import AUTOENCODER, AUTOENCODER_GPU

    parts = {
        "autoencoder": Part(training_config(args, AUTOENCODER, AUTOENCODER_GPU), judge_autoencoder),
        "unet": Part(training_config(args, UNET, UNET_GPU), judged(judge_latent_prior)),
    }
    train_latent_prior(
        {name: part for name, part in parts.items() if args.part in (None, name)},
        args.out,
        resume=LATENT_PRIOR if args.resume == EMBEDDED else args.resume,
        processes=processes,
        device=args.device,
        show=say,
    )


def multiview(args: argparse.Namespace, processes: int) -> None:
    from ..evaluation.multiview import judge_multiview_prior
    from ..toybox.prior.multiview_training import MULTIVIEW

    start(args, processes, MULTIVIEW, judged(judge_multiview_prior))


def depth(args: argparse.Namespace, processes: int) -> None:
    from ..evaluation.depth import judge_depth_prior
    from ..toybox.prior.depth_training import DEPTH

    start(args, processes, DEPTH, judged(judge_depth_prior))


def clip(args: argparse.Namespace, processes: int) -> None:
    from ..evaluation.clip import judge_clip
    from ..toybox.prior.clip_training import CLIP

    start(args, processes, CLIP, judge_clip)


def judged(score: Callable) -> Callable | None:
    """`score`, which needs the embedded judge; None where that is missing."""
    from ..evaluation.judge import EMBEDDED as JUDGE

    return score if JUDGE.is_file() else None


def start(args: argparse.Namespace, processes: int, kind, score: Callable | None) -> None:
    """Train a `toybox.prior.training.Kind`."""
    from ..toybox.prior.training import train_prior

    config = training_config(args, kind.cpu, kind.gpu)
    resume = kind.shipped if args.resume == EMBEDDED else args.resume
    train_prior(kind, config, args.out, resume=resume, processes=processes, device=args.device, score=score, show=say)


TRAININGS = {"pixel": pixel, "latent": latent, "multiview": multiview, "depth": depth, "clip": clip}


def training_config(args: argparse.Namespace, on_cpu, on_gpu):
    """The settings of a training: the defaults of the device, with the flags applied."""
    settings = {name: getattr(args, name) for name in SETTINGS if getattr(args, name) is not None}
    return replace(on_cpu if args.device == "cpu" else on_gpu, minutes=args.minutes, seed=args.seed, **settings)


def say(line: str) -> None:
    """Print a line at once; can be pickled for other processes."""
    print(line, flush=True)


@contextmanager
def signals_raise():
    """Let SIGTERM and SIGHUP raise SystemExit within the block, so that the weights are saved, and print "stopped". A
    hang-up that is ignored, as by nohup, stays so."""

    def leave(number, _frame):
        raise SystemExit(128 + number)

    caught = [signal.SIGTERM] + [signal.SIGHUP] * (signal.getsignal(signal.SIGHUP) == signal.SIG_DFL)
    before = {each: signal.signal(each, leave) for each in caught}
    try:
        yield
    except SystemExit:
        with tolerant("stderr"):  # the terminal may be gone
            print("stopped", file=sys.stderr)
        raise
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
