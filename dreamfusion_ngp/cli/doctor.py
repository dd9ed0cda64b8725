"""`dreamfusion-ngp doctor`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..doctor import Diagnosis


def add_arguments(verbs) -> None:
    parser = verbs.add_parser("doctor", help="check this installation")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    from ..doctor import examine

    diagnosis = examine()
    print(json.dumps(asdict(diagnosis), indent=1) if args.json else diagnosis_text(diagnosis))
    return int(diagnosis.failed() > 0)


def diagnosis_text(diagnosis: Diagnosis) -> str:
    lines = [f"{name:16} {value}" for name, value in diagnosis.facts.items()] + [""]
    for name, verdict in diagnosis.verdicts.items():
        lines.append(f"{verdict.status:5} {name}: {verdict.detail}")
        if verdict.remedy:
            lines.append(f"      remedy: {verdict.remedy}")
    failed = diagnosis.failed()
    return "\n".join(
        [*lines, "", f"{failed} of {len(diagnosis.verdicts)} checks failed" if failed else "no check failed"]
    )
