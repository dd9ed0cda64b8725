"""`dreamfusion-ngp experiments`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..base.errors import UsageError
from .arguments import add_machine, place

# Of experiments/groups.py, which takes its time to import.
RULE_GROUPS = ("rules", "rules-long", "rules-256", "rules-scale")


def add_arguments(verbs) -> None:
    parser = verbs.add_parser("experiments", help="rerun the papers' comparisons")
    kinds = parser.add_subparsers(dest="experiment", required=True, metavar="EXPERIMENT")
    table = kinds.add_parser("table", help="DreamFusion's table: the baselines, the paper, and the methods after it")
    table.add_argument("-o", "--out", type=place, default=Path("paper-table"), help="folder (default: paper-table)")
    table.add_argument("--runs", type=place, metavar="FOLDER", help="of the runs (default: OUT/runs)")
    table.add_argument("--rows", nargs="+", default=[], metavar="ROW", help='e.g. "Dream Fields" CLIP-Mesh')
    table.add_argument("--prompts", type=int, help="only so many of the first prompts")
    table.add_argument("--seeds", type=int, help="of every prompt, from 0 on (default: 3)")
    table.add_argument(
        "--captions",
        type=place,
        metavar="FILE",
        help="prompts that are no toys, a line each or a benchmark's JSON (default: the twenty-four toys)",
    )
    table.add_argument("--guidance", metavar="MODEL", help="with --captions: the diffusion model that guides")
    table.add_argument("--clip", metavar="MODEL", help="with --captions: the CLIP that guides the two baselines")
    table.add_argument("--multiview", metavar="MODEL", help="with --captions: the model of several views, e.g. mvdream")
    table.add_argument(
        "--retrieval",
        nargs="+",
        default=[],
        metavar="MODEL",
        help="CLIPs that score: clip-b32, clip-l14, hub ids, folders; for toys besides the judge",
    )
    table.add_argument("--judge", type=place, metavar="FILE", help="a judge that train-judge wrote")
    table.add_argument("--shorten", type=float, default=1.0, metavar="FACTOR", help="times all steps, for a trial")
    table.add_argument("--processes", type=int, default=1, help="runs at a time (default: 1)")
    table.add_argument("--hours", type=float, default=0.0, help="stop after so long; the same command goes on")
    add_machine(table)
    rules = kinds.add_parser("rules", help="distillation rules beside one another, on toys whose true shapes are known")
    rules.add_argument("-o", "--out", type=place, default=Path("rules"), help="folder (default: rules)")
    rules.add_argument("--runs", type=place, metavar="FOLDER", help="of the runs (default: OUT/runs)")
    rules.add_argument("--groups", nargs="+", choices=RULE_GROUPS, metavar="GROUP", help=f"of {', '.join(RULE_GROUPS)}")
    rules.add_argument("--prompts", type=int, help="only so many of the first prompts")
    rules.add_argument("--seeds", type=int, help="of every prompt, from 0 on (default: 3)")
    rules.add_argument("--steps", type=int, help="of the arm of sds, instead of the preset's")
    rules.add_argument("--processes", type=int, default=1, help="runs at a time (default: 1)")
    rules.add_argument("--hours", type=float, default=0.0, help="stop after so long; the same command goes on")
    add_machine(rules)


def run(args: argparse.Namespace) -> int | None:
    if args.experiment == "rules":
        from ..experiments.rules_page import compare_rules

        failures = compare_rules(args)
        print(f"\n{args.out / 'index.html'}")
        return failures
    make_papers_table(args)
    return None


def make_papers_table(args: argparse.Namespace) -> None:
    from ..experiments.paper_report import markdown_page
    from ..experiments.paper_table import Request, make_table

    guides = (("diffusion", args.guidance), ("clip", args.clip), ("multiview", args.multiview))
    models = tuple((kind, model) for kind, model in guides if model)
    if models and not args.captions:
        raise UsageError("toys are guided by the embedded models; --guidance, --clip and --multiview need --captions")
    for name in ("prompts", "seeds"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UsageError(f"--{name} must be at least 1, got {getattr(args, name)}")
    request = Request(
        out=args.out,
        runs=args.runs or args.out / "runs",
        rows=tuple(args.rows),
        prompts=args.prompts or 0,
        seeds=args.seeds or 0,
        captions=args.captions,
        models=models,
        retrieval=tuple(args.retrieval),
        judge=args.judge,
        shorten=args.shorten,
        device=args.device,
        threads=1 if args.threads is None else args.threads,
        processes=args.processes,
        hours=args.hours,
    )
    table = make_table(request, say=lambda line: print(line, flush=True))
    print(f"\n{markdown_page(table)}\n\n{args.out / 'index.html'}")
