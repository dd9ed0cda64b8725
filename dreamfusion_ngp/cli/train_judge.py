"""`dreamfusion-ngp train-judge`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from .arguments import add_machine, place


def add_arguments(verbs) -> None:
    parser = verbs.add_parser("train-judge", help="train the judge of toys that evaluate uses where no CLIP is given")
    parser.add_argument(
        "-o", "--out", type=place, default=Path("judge.safetensors"), help="file to write (default: judge.safetensors)"
    )
    parser.add_argument("--minutes", type=float, default=25.0, help="length of the training (default: 25)")
    parser.add_argument("--images", type=int, default=0, help="end after so many training images instead")
    parser.add_argument("--seed", type=int, default=0)
    add_machine(parser, device="cpu")


def run(args: argparse.Namespace) -> None:
    from ..base.devices import set_threads
    from ..evaluation.judge_training import GPU, TrainJudgeConfig, train_judge

    set_threads(args.threads)
    config = replace(
        TrainJudgeConfig() if args.device == "cpu" else GPU, minutes=args.minutes, images=args.images, seed=args.seed
    )
    judge = train_judge(config, args.out, device=args.device)
    accuracy = judge.log["held_out"]
    size = args.out.stat().st_size / 1e6
    print(
        f"held-out true renderings: R-Precision Colour {accuracy['color']:.1%} (of 220 captions), Geo "
        f"{accuracy['geo']:.1%} (of 20); worst class {accuracy['worst']['class']}\n"
        f"{args.out}: {size:.1f} MB, {judge.log['images']:,} images"
    )
