"""`dreamfusion-ngp doctor`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from .. import doctor


def add_arguments(verbs) -> None:
    parser = verbs.add_parser("doctor", help="check this installation")
    parser.add_argument("--json", action="store_true")


def run(args: argparse.Namespace) -> int:
    report = doctor.examine()
    print(json.dumps(asdict(report), indent=1) if args.json else report_text(report))
    return int(report.failed() > 0)


def report_text(report: doctor.Report) -> str:
    lines = [f"{name:16} {value}" for name, value in report.facts.items()] + [""]
    for name, verdict in report.verdicts.items():
        lines.append(f"{verdict.status:5} {name}: {verdict.detail}")
        if verdict.remedy:
            lines.append(f"      remedy: {verdict.remedy}")
    failed = report.failed()
    return "\n".join([*lines, "", f"{failed} of {len(report.verdicts)} checks failed" if failed else "no check failed"])
