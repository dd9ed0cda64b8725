"""`dreamfusion-ngp evaluate`."""

from __future__ import annotations

import argparse
import json
import sys

from ..base.errors import CheckpointError, UsageError
from .arguments import add_machine, place

MAX_DEPTH = 16


def add_arguments(verbs) -> None:
    parser = verbs.add_parser("evaluate", help="compare runs with the true toys of their prompts; R-Precision")
    parser.add_argument("runs", type=place, nargs="+", metavar="RUN", help="folders of runs, or folders that hold some")
    parser.add_argument(
        "--depth",
        type=int,
        default=2,
        metavar="N",
        help="folders below RUN that are searched for runs (default: 2, as in outputs/PROMPT/TIME)",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "-o",
        "--out",
        type=place,
        metavar="FOLDER",
        help="write evaluation.json, table.md and index.html (with pictures) there",
    )
    parser.add_argument(
        "--clip",
        metavar="MODEL",
        help="retrieval model of R-Precision: clip-b32, clip-b16, clip-l14, a hub id or a folder "
        "(default: the embedded judge, which knows toys only)",
    )
    parser.add_argument("--judge", type=place, metavar="FILE", help="a judge that train-judge wrote")
    parser.add_argument(
        "--captions",
        type=place,
        metavar="FILE",
        help="captions to choose among, one a line (default: all toys in all colours)",
    )
    add_machine(parser)


def run(args: argparse.Namespace) -> int:
    if not 0 <= args.depth <= MAX_DEPTH:
        raise UsageError(f"--depth must be from 0 to {MAX_DEPTH}, got {args.depth}")
    from ..base.devices import set_threads
    from ..evaluation.evaluate import evaluate, evaluation_text

    set_threads(args.threads)
    result = evaluate(
        args.runs,
        clip=args.clip,
        judge=args.judge,
        captions=args.captions,
        out=args.out,
        depth=args.depth,
        device=args.device,
        show=lambda line: print(line, file=sys.stderr),
    )
    one = result["runs"][0] if len(result["runs"]) == 1 and args.out is None else result
    print(json.dumps(one, indent=1) if args.json else evaluation_text(result))
    return CheckpointError.exit_code if result["unread"] else 0
