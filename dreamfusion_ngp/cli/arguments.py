"""What verbs of the command line share: paths, the machine, the mesh files."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ..base.errors import UsageError
from ..export.formats import FORMATS, ORIGINS, STL_SIZE, check_formats, check_origin, check_size, conventions_text


class Parser(argparse.ArgumentParser):
    """Wrong flags are UsageErrors, one line like all others, not the whole usage."""

    def error(self, message: str):
        verb = "" if " " in self.prog else " VERB"
        raise UsageError(f"{message}; see {self.prog}{verb} --help")


def place(text: str) -> Path:
    """A path of the command line. The shell leaves the ~ of --out=~/runs to us."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError("the path is empty" if not text.strip() else "a path cannot hold a null byte")
    path = os.path.expanduser(text)
    if path == text and text.split("/")[0] == "~":
        raise argparse.ArgumentTypeError(f"no home folder is known for {text!r}; give the path in full")
    return Path(path)


def add_machine(parser: argparse.ArgumentParser, device: str = "auto") -> None:
    """--device and --threads."""
    names = "auto, cpu, cuda or cuda:N" if device == "auto" else "cpu, cuda or cuda:N"
    parser.add_argument("--device", default=device, help=names)
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")


def add_files(parser: argparse.ArgumentParser) -> None:
    """--formats, --size and --origin, which `file_options` reads."""
    parser.add_argument(
        "--formats",
        default="glb",
        help=f"comma-separated, of {', '.join(FORMATS)} (default: glb). Units and axes: {conventions_text()}",
    )
    parser.add_argument(
        "--size",
        type=float,
        metavar="MM",
        help="longest side of an STL in millimetres (default: "
        f"{STL_SIZE:g}); the other formats keep the scene's size, in metres",
    )
    parser.add_argument(
        "--origin",
        default="scene",
        metavar="PLACE",
        help=f"{', '.join(ORIGINS)}: the point that the "
        "cameras circle, the middle of the object's bottom, or the middle of its bounding box "
        "(default: scene)",
    )


def file_options(args: argparse.Namespace) -> dict:
    """What mesh files are wanted and how they lie, checked before a run starts."""
    names = [part.strip().lower() for part in args.formats.split(",")]
    try:
        formats = check_formats(name for name in names if name)
    except UsageError as error:
        raise UsageError(f"--formats: {error}") from None
    size, origin = check_size(STL_SIZE if args.size is None else args.size), check_origin(args.origin)
    if args.size is not None and "stl" not in formats:
        print("note: --size is the size of an STL, and --formats names none", file=sys.stderr)
    return dict(formats=formats, size=size, origin=origin)
