"""The paper's ablation, the bars of the evaluation, and further comparisons, on toys whose true shapes are known.

    python benches/ablation.py --only bars --threads 2               the 24 prompts, default preset, as a user runs it
    python benches/ablation.py --processes 2 --steps 600 --resolution 32 --hours 3     all groups, shortened
    python benches/evaluation_report.py                              write docs/evaluation.md and its figure

What is compared is data (experiments/groups.py). Every run is a process. A finished run stays in --runs and is not made
again, not even for another group or arm with the same settings, prompt, seed and prior; a run that was stopped is made
anew. A volume from which several runs go on is made once, and its time counts for each. After a change of the judge or
of what a figure means, finished runs are only scored again. The figures go to one JSON file (-o), group by group, with
how they were shortened; a run that failed counts as zero. Runs in this file need not be in --runs: a measurement can
begin on one machine and end on another, and each run says where it was made.
"""

from __future__ import annotations

import argparse
import signal
import sys
from functools import partial
from pathlib import Path

from ..base.errors import DreamfusionError, UsageError
from .groups import GROUPS
from .pool import Runner, check_hours
from .results import recorded, write_results
from .task import JUDGE, PRIOR, digest, finished, shortened, tasks_of


def parsed(argv: list[str] | None, repository: Path = Path()):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=GROUPS,
        metavar="GROUP",
        default=list(GROUPS),
        help=f"of {', '.join(GROUPS)} (default: all, in this order)",
    )
    parser.add_argument("--collect", action="store_true", help="make no runs, only gather those that are there")
    parser.add_argument("--hours", type=float, default=0.0, help="stop after so long; what runs then is made anew")
    parser.add_argument("--processes", type=int, default=1, help="runs at a time (default: 1)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each (default: 1)")
    parser.add_argument("--steps", type=int, help="of the default preset, instead of its own")
    parser.add_argument("--resolution", type=int, help="pixels a side of the training views")
    for what in ("prompts", "arms"):
        parser.add_argument(f"--{what}", type=int, help=f"only so many of the first {what}")
    parser.add_argument("--seeds", type=int, help="of every prompt, from 0 on (default: the group's, 3)")
    parser.add_argument("--judge", type=Path, help="a judge that train-judge wrote (default: the shipped one, if any)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", type=Path, default=Path("outputs/ablation"), help="folder of the runs")
    parser.add_argument("-o", "--out", type=Path, default=repository / "benches" / "results" / "ablation.json")
    args = parser.parse_args(argv)
    for name in ("processes", "threads", "steps", "resolution", "prompts", "seeds", "arms"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UsageError(f"--{name} must be at least 1")
    check_hours(args.hours)
    if args.judge and not args.judge.is_file():
        raise UsageError(f"--judge {args.judge}: there is no such file")
    return args


def ablate(args) -> int:
    path = args.judge or (JUDGE if JUDGE.is_file() else None)
    judge = {"path": str(path.resolve()), "digest": digest(path)} if path else None
    prior, judge_digest = digest(*sorted(PRIOR.rglob("*.safetensors"))), judge["digest"] if judge else None
    plans = {name: tasks_of(shortened(GROUPS[name], args), args) for name in args.only}
    tasks = {task.key: task for plan in plans.values() for _, task in plan}
    measured = recorded(args.out, judge_digest)
    keys = {task.key for name, plan in plans.items() for _, task in plan if (name, task.key) not in measured}
    todo = [task for task in tasks.values() if task.key in keys and not finished(task, args.runs, judge_digest)]
    say = partial(print, flush=True)
    say(f"{len(tasks)} runs, {len(tasks) - len(todo)} done; judge: {judge_digest or 'none, R-Precision stays empty'}")
    runner = Runner(args, judge, lambda: write_results(plans, args, prior, judge_digest), say)
    runner.after()
    if not args.collect and not runner.make_all(todo, len(tasks)):
        say("the time is over; the same command goes on")
    if runner.unwritten:
        runner.after()
    return 1 if runner.failures else 0


def main(argv: list[str] | None = None, repository: Path = Path()) -> int:
    """repository: the folder whose benches/results/ has the results, unless argv says so. Returns the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return ablate(parsed(argv, repository))
    except DreamfusionError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
