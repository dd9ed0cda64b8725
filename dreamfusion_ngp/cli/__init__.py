"""The command line, one module per verb. Imports nothing heavy before the verb is known, so that --help is quick."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from pathlib import Path

from .. import __version__
from ..base.characters import shown
from ..base.console import STDOUT, named_errors, open_streams, settle, silence, tolerant
from ..base.errors import DreamfusionError, UsageError
from ..base.native import PACKAGE
from . import (
    bench,
    doctor,
    evaluate,
    experiments,
    export,
    fetch,
    generate,
    refine,
    render,
    resume,
    sample,
    train_judge,
    train_prior,
)
from .arguments import Parser
from .log import shown_log

VERBS = {
    "generate": generate,
    "refine": refine,
    "sample": sample,
    "fetch": fetch,
    "resume": resume,
    "render": render,
    "export": export,
    "evaluate": evaluate,
    "train-prior": train_prior,
    "train-judge": train_judge,
    "experiments": experiments,
    "doctor": doctor,
    "bench": bench,
}
PRINTS = ("doctor", "evaluate", "bench")  # verbs whose result is what they print; for others a closed pipe is no error
OPS = (PACKAGE / "ops", PACKAGE / "render")  # sources whose arguments are settings


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="dreamfusion-ngp", description="A text prompt becomes a textured 3D mesh.")
    parser.add_argument("--version", action="version", version=f"dreamfusion-ngp {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for module in VERBS.values():
        module.add_arguments(verbs)
    return parser


def run_verb(args: argparse.Namespace) -> int:
    if args.verb != "doctor":
        from ..hub.client import check_timeouts

        check_timeouts()
    return VERBS[args.verb].run(args)


def main(argv: list[str] | None = None) -> int:
    open_streams()
    if reconfigure := getattr(sys.stdout, "reconfigure", None):
        reconfigure(errors="backslashreplace")  # a prompt may hold what the terminal cannot show
    try:
        with tolerant("stderr"):
            code = answer(argv)
    finally:
        lost = settle()
    if lost is not None and not code:
        print(f"error: {STDOUT}: {lost.strerror}", file=sys.stderr)
        return DreamfusionError.exit_code
    return code


def answer(argv: list[str] | None) -> int:
    """Run the command. Returns the exit code, after one line for any error that is not a defect."""
    args = None
    try:
        args = build_parser().parse_args(argv)
        if args.verb != "doctor":
            check_working_directory()
        results_only = args.verb in PRINTS
        with named_errors() if results_only else tolerant("stdout"), shown_log(results_only):
            return run_verb(args) or 0
    except DreamfusionError as error:
        print(f"error: {shown(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        silence(sys.stdout)  # nobody reads the output any more, so print nothing at exit either
        return 141
    except (OSError, ImportError, MemoryError, RuntimeError, ValueError) as error:
        text = foreseen(error, args)
        if text is None:
            raise
        print(f"error: {shown(text)}", file=sys.stderr)
        return DreamfusionError.exit_code


def check_working_directory() -> None:
    """Raise UsageError where it has been removed: torch cannot be loaded there."""
    try:
        os.getcwd()
    except OSError:
        raise UsageError("the working directory is no longer there; change to one that is") from None


def foreseen(error: Exception, args) -> str | None:
    """One line for an error of the system or of a setting; None for a defect, which needs its traceback."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else first
    if isinstance(error, ImportError):
        return f'{first}; this installation is incomplete: run "dreamfusion-ngp doctor"'
    if isinstance(error, MemoryError) or "out of memory" in first or "allocate memory" in first:
        return f"not enough memory ({first[:200]}); try smaller numbers, with --guidance also --low-memory"
    refused = isinstance(error, ValueError) and raised_in(error).parent in OPS
    return f"--set: {first}" if refused and getattr(args, "overrides", None) else None


def raised_in(error: Exception) -> Path:
    """The source file of the statement that raised an error."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return Path(frames[-1][0].f_code.co_filename) if frames else Path()
