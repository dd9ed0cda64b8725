"""`dreamfusion-ngp doctor`."""

from __future__ import annotations

import argparse


def add_arguments(verbs) -> None:
    parser = verbs.add_parser("doctor", help="check this installation")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    from .. import doctor

    return doctor.run(json_output=args.json)
