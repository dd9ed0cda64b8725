"""`dreamfusion-ngp sample`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..config.presets import OF_PROMPTS
from .arguments import add_guidance, add_machine, place
from .settings import run_config


def add_arguments(verbs) -> None:
    parser = verbs.add_parser("sample", help="draw pictures of a guidance model, to see whether it knows a prompt")
    parser.add_argument("prompt", help='what to draw, e.g. "a red mug"')
    add_guidance(parser, distils=False)
    names = ", ".join(OF_PROMPTS)
    parser.add_argument("--preset", help=f"whose view words are used: {names} (default: the model's own)")
    parser.add_argument("--rows", type=int, default=2, help="rows of four sides (default: 2)")
    parser.add_argument("--steps", type=int, dest="sampler_steps", default=30, help="of the sampler (default: 30)")
    parser.add_argument("--elevation", type=float, default=15.0, help="of the cameras, degrees (default: 15)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=place, default=Path("samples.png"), help="PNG (default: samples.png)")
    add_machine(parser)
    parser.set_defaults(prompt_flag=None, steps=None, rule=None, depth_control=None)


def run(args: argparse.Namespace) -> None:
    config = run_config(args)
    from ..base.devices import set_threads
    from ..runs.sample import sample

    set_threads(args.threads)
    samples = sample(
        config,
        args.out,
        rows=args.rows,
        steps=args.sampler_steps,
        elevation=args.elevation,
        scale=args.guidance_scale,
        device=args.device,
    )
    rows = "1 row" if args.rows == 1 else f"{args.rows} rows"
    print(f"{samples.path}: {rows} at guidance scale {samples.scale:g}, {samples.seconds:.0f} s")
