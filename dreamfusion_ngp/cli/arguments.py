"""Arguments that several verbs share: paths, the machine, the mesh files."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ..base.errors import UsageError
from ..config.rules import RULES
from ..export.formats import FORMATS, ORIGINS, STL_SIZE, check_formats, check_origin, check_size, conventions_text
from ..hub.names import ALIASES

AXIS_FLAGS = ("--up", "--front")


class Parser(argparse.ArgumentParser):
    """Raises UsageError for wrong flags: one line, like other errors, instead of the whole usage."""

    def parse_known_args(self, args=None, namespace=None):
        """As argparse's, which alone would take the axis of `--front -y` for a flag."""
        words = list(sys.argv[1:] if args is None else args)
        for k in range(len(words) - 1, 0, -1):
            if words[k - 1] in AXIS_FLAGS and words[k].lower() in ("-x", "-y", "-z"):
                words[k - 1 : k + 1] = [f"{words[k - 1]}={words[k]}"]
        return super().parse_known_args(words, namespace)

    def error(self, message: str):
        verb = "" if " " in self.prog else " VERB"
        raise UsageError(f"{message}; see {self.prog}{verb} --help")


def place(text: str) -> Path:
    """A path of the command line. Shells do not expand the ~ of --out=~/runs."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError("the path is empty" if not text.strip() else "a path cannot hold a null byte")
    path = os.path.expanduser(text)
    if path == text and text.split("/")[0] == "~":
        raise argparse.ArgumentTypeError(f"no home folder is known for {text!r}; give the path in full")
    return Path(path)


def add_guidance(parser: argparse.ArgumentParser, distils: bool = True) -> None:
    """Add the flags of the model and its inputs, which `settings.with_flags` reads. distils: those of the rule too."""
    parser.add_argument(
        "--guidance",
        metavar="MODEL",
        help=f"text-to-image model: {', '.join(ALIASES)}, a hub id, or a folder in diffusers format "
        "(default: the embedded prior, which knows toys only)",
    )
    if distils:
        parser.add_argument(
            "--rule",
            help=f"distillation rule with the settings of its paper: {', '.join(RULES)} (default: the preset's; "
            "docs/guidance.md)",
        )
        add_depth_control(parser)
    parser.add_argument(
        "--lora",
        action="append",
        default=[],
        dest="loras",
        metavar="FILE_FOLDER_OR_ID[:WEIGHT]",
        help="a LoRA for Stable Diffusion, SDXL or Stable Diffusion 3, in safetensors, here or on the hub; more than "
        "once for several",
    )
    parser.add_argument(
        "--embedding",
        action="append",
        default=[],
        dest="embeddings",
        metavar="FILE_FOLDER_OR_ID[:WORD]",
        help="a textual inversion for Stable Diffusion 1, 2 or SDXL, in safetensors, which the prompt uses by its word",
    )
    parser.add_argument("--negative", metavar="TEXT", help="negative prompt")
    parser.add_argument("--guidance-scale", type=float, help="uncond + scale (cond - uncond); default: the model's own")
    parser.add_argument(
        "--low-memory",
        action="store_true",
        help="one view (of several that a model sees together: one object) at a time through the model, its encoder "
        "computed anew in the backward, its UNet on the GPU only while it works",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change one setting, e.g. --set render.step=0.01 (VALUE is JSON)",
    )


def add_machine(parser: argparse.ArgumentParser, device: str = "auto") -> None:
    """Add --device and --threads."""
    names = "auto, cpu, cuda or cuda:N" if device == "auto" else "cpu, cuda or cuda:N"
    parser.add_argument("--device", default=device, help=names)
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")


def add_depth_control(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--depth-control",
        metavar="MODEL",
        help="folder or hub id of a ControlNet that reads depth, for the model of --guidance, or of a pipeline of "
        "Stable Diffusion 2 depth, for what is painted with depth (default: that of the embedded priors)",
    )


def add_files(parser: argparse.ArgumentParser, again: bool = False) -> None:
    """Add --formats, --size and --origin, which `file_options` reads. again: for a run that may have been asked for
    some."""
    asked = "what the run was asked for, or " if again else ""
    parser.add_argument(
        "--formats",
        help=f"comma-separated, of {', '.join(FORMATS)} (default: {asked}glb). Units and axes: {conventions_text()}",
    )
    parser.add_argument(
        "--size",
        type=float,
        metavar="MM",
        help=f"longest side of an STL in millimetres (default: {asked}"
        f"{STL_SIZE:g}); the other formats keep the scene's size, in metres",
    )
    parser.add_argument(
        "--origin",
        metavar="PLACE",
        help=f"{', '.join(ORIGINS)}: the point that the "
        "cameras circle, the middle of the object's bottom, or the middle of its bounding box "
        f"(default: {asked}scene)",
    )


def file_options(args: argparse.Namespace) -> dict:
    """Formats, size and origin of the mesh files, those that are given, checked before a run starts."""
    given = {}
    if args.formats is not None:
        names = [part.strip().lower() for part in args.formats.split(",")]
        try:
            given["formats"] = check_formats(name for name in names if name)
        except UsageError as error:
            raise UsageError(f"--formats: {error}") from None
    if args.size is not None:
        given["size"] = check_size(args.size)
    if args.origin is not None:
        given["origin"] = check_origin(args.origin)
    return given
