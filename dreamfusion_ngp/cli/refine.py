"""`dreamfusion-ngp refine`."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import add_guidance, add_machine, place
from .progress import TerminalProgress, exit_code
from .settings import refine_config


def add_arguments(verbs) -> None:
    parser = verbs.add_parser("refine", help="repaint a mesh that another program made")
    parser.add_argument("mesh", type=place, help="a GLB, glTF, OBJ, PLY or STL file")
    parser.add_argument("prompt", help='what it is, e.g. "a red mug"')
    parser.add_argument(
        "--keep-views",
        default="",
        metavar="NAMES",
        help="views whose texels stay: of front, left (the object's own), back, right",
    )
    parser.add_argument(
        "--depth",
        action="store_true",
        help="paint four sides in one picture with a depth-conditioned model first (docs/texture-stage.md)",
    )
    parser.add_argument("--only-back", action="store_true", help="as --keep-views front, which it gives way to")
    parser.add_argument(
        "--geometry",
        action="store_true",
        help="change the shape as well: the mesh is made anew, with other triangles and UVs",
    )
    parser.add_argument(
        "--uv",
        choices=("auto", "keep", "unwrap"),
        help="the file's UVs, a new atlas, or one only where UVs are missing or overlap (default: auto)",
    )
    parser.add_argument(
        "--textures", choices=("each", "one"), help="each image of the file its own (default), or one for all"
    )
    parser.add_argument("--texture-size", type=int, metavar="N", help="texels a side of the new images (default: 1024)")
    parser.add_argument("--up", metavar="AXIS", help="of the file, e.g. +z (default: that of its format)")
    parser.add_argument("--front", metavar="AXIS", help="of the file, e.g. -y (default: that of its format)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="optimisation steps of the first stage (default: the preset's)")
    add_guidance(parser)
    parser.add_argument(
        "-o", "--out", type=place, default=Path("outputs"), help="folder for the results (default: outputs)"
    )
    add_machine(parser)


def run(args: argparse.Namespace) -> int:
    config = refine_config(args)
    from ..base.devices import set_threads
    from ..runs.refine import refine

    set_threads(args.threads)
    with TerminalProgress() as progress:
        result = refine(
            args.mesh,
            args.prompt,
            args.out,
            uv=args.uv,
            textures=args.textures,
            size=args.texture_size,
            keep_views=args.keep_views.split(","),
            geometry=args.geometry,
            depth=args.depth,
            only_back=args.only_back,
            up=args.up,
            front=args.front,
            config=config,
            device=args.device,
            observer=progress,
            catch_signals=True,
        )
    return exit_code(result)
