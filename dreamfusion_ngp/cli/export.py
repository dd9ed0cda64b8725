"""`dreamfusion-ngp export`."""

from __future__ import annotations

import argparse

from .arguments import add_files, add_machine, file_options, place


def add_arguments(verbs) -> None:
    parser = verbs.add_parser("export", help="make the mesh of a run again")
    parser.add_argument("run", type=place)
    parser.add_argument("--resolution", type=int, help="grid points a side of the marching cubes (default: 128)")
    parser.add_argument("--texture", type=int, help="pixels a side of the texture (default: 1024)")
    parser.add_argument("--faces", type=int, help="triangles at most (default: 20000; 0: no limit)")
    parser.add_argument("--keep-all", action="store_true", help="keep small loose pieces")
    add_machine(parser)
    add_files(parser, again=True)


def run(args: argparse.Namespace) -> None:
    files = file_options(args)
    from ..base.devices import set_threads
    from ..runs.outputs import export

    set_threads(args.threads)
    detail = dict(resolution=args.resolution, texture=args.texture, faces=args.faces, keep_all=args.keep_all or None)
    given = {name: value for name, value in detail.items() if value is not None}
    export(args.run, device=args.device, **given, **files)
