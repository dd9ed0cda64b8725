"""The paper's ablation, the bars of the evaluation, and further comparisons, on toys whose true shapes are known.

    python benches/ablation.py --only bars --threads 2               the 24 prompts, default preset, as a user runs it
    python benches/ablation.py --processes 2 --steps 600 --resolution 32 --hours 3     all groups, shortened
    python benches/evaluation_report.py                              write docs/evaluation.md and its figure

What is compared is data (experiments/groups.py). Every run is a process; what is finished stays in --runs and is not made
again, also where another group or arm asks for the same settings, prompt, seed and prior; what was stopped is made
anew. A judge that was trained in between, or a figure that means something else by now, scores the runs that are there
again. The figures go to one JSON file (-o), group by group, with how they were shortened; a run that failed counts as
zero. Runs that this file has need not be in --runs: a measurement can be begun on one machine and ended on another,
and each run says where it was made.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path

from ..base.errors import DreamfusionError, UsageError
from ..config.schema import RunConfig, to_dict
from ..evaluation.report import DEFINITIONS
from .groups import GROUPS, Arm, Group, arguments, config_of

PACKAGE = Path(__file__).resolve().parents[1]
PRIOR = PACKAGE / "toybox" / "priors" / "toybox-64"
JUDGE = PACKAGE / "evaluation" / "judge.safetensors"
PAUSE = 0.2  # seconds between looks at the processes
PICTURED = ("bars", "paper")  # groups whose report shows pictures


@dataclass(frozen=True)
class Task:
    """One run. key: of everything that decides its result; runs with equal keys are one."""

    prompt: str
    seed: int
    whole: bool
    oracle: str
    config: dict
    key: str
    label: str = ""

    def folder(self, root: Path) -> Path:
        return root / f"{self.prompt.replace(' ', '-')}-{self.seed}-{self.key}"


def digest(*paths: Path) -> str:
    """12 hex digits of the SHA-256 of files, in their order."""
    total = hashlib.sha256()
    for path in paths:
        total.update(path.read_bytes())
    return total.hexdigest()[:12]


def shortened(group: Group, args) -> Group:
    """The group with as many prompts and seeds as the flags leave."""
    return replace(group, prompts=group.prompts[: args.prompts], seeds=group.seeds[: args.seeds])


def chosen_arms(group: Group, args) -> tuple[Arm, ...]:
    return group.arms[: args.arms]


def task_of(group: Group, arm: Arm, prompt: str, seed: int, args, prior: str) -> Task:
    config = to_dict(config_of(arm, prompt, seed, args.steps, args.resolution))
    timing = [args.threads, args.processes] if group.whole else None  # there the time is a figure, too
    decides = [differing(config, to_dict(RunConfig())), arm.oracle or prior, timing]
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]
    return Task(prompt, seed, group.whole, arm.oracle, config, key, f"{arm.name}: {prompt}, seed {seed}")


def differing(config: dict, defaults: dict) -> dict:
    """The entries of a nested dictionary that are not the defaults: a new setting at its default changes no key."""
    found = {}
    for name, value in config.items():
        default = defaults.get(name)
        if isinstance(value, dict) and isinstance(default, dict):
            value, default = differing(value, default), {}
        if value != default:
            found[name] = value
    return found


def tasks_of(group: Group, args, prior: str) -> list[tuple[Arm, Task]]:
    """All runs of a group, a prompt after the other: what is stopped half-way has whole comparisons."""
    return [
        (arm, task_of(group, arm, prompt, seed, args, prior))
        for seed in group.seeds
        for prompt in group.prompts
        for arm in chosen_arms(group, args)
    ]


def finished(task: Task, root: Path, judge: str | None) -> dict | None:
    """The record of a run that is made and scored by the judge with that digest; else None."""
    try:
        record = json.loads((task.folder(root) / "run.json").read_text())
    except (OSError, ValueError):
        return None
    known = (record["judge"] or {}).get("digest"), record.get("definitions")
    return record if known == (judge, DEFINITIONS) else None


def recorded(path: Path, judge: str | None) -> dict[tuple, dict]:
    """{(group, key): run} of the runs that a file of results has, scored by that judge by today's definitions."""
    try:
        groups = json.loads(path.read_text(encoding="utf-8"))["groups"]
    except FileNotFoundError:
        return {}
    return {
        (name, run["key"]): run
        for name, group in groups.items()
        for arm in group["arms"]
        for run in arm["runs"]
        if run.get("definitions") == DEFINITIONS and (group["judge"] or {}).get("digest") == judge
    }


class Runner:
    """Makes tasks, some at a time, until they are done or the time is over."""

    def __init__(self, args, judge: dict | None, after):
        """after: called when runs have ended."""
        self.args, self.judge, self.after, self.failures = args, judge, after, []
        self.end = time.monotonic() + 3600 * args.hours if args.hours else float("inf")
        self.running: dict[subprocess.Popen, tuple[Task, float]] = {}
        self.longest = 0.0  # seconds, of the runs so far

    def start(self, task: Task) -> None:
        folder, args = task.folder(self.args.runs), self.args
        folder.mkdir(parents=True, exist_ok=True)
        wanted = {
            "config": task.config,
            "whole": task.whole,
            "oracle": task.oracle,
            "judge": self.judge,
            "device": args.device,
            "threads": args.threads,
            "processes": args.processes,
        }
        (folder / "task.json").write_text(json.dumps(wanted, indent=1) + "\n")
        environment = os.environ | {"OMP_NUM_THREADS": str(args.threads), "OMP_WAIT_POLICY": "PASSIVE"}
        with open(folder / "log.txt", "a") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "dreamfusion_ngp.experiments.run_task", str(folder.resolve())],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
            )
        self.running[process] = task, time.monotonic()

    def settle(self, done: int, total: int) -> int:
        """Take what has ended; returns how many runs that were."""
        ended = [process for process in self.running if process.poll() is not None]
        for number, process in enumerate(ended, 1):
            task, began = self.running.pop(process)
            seconds = time.monotonic() - began
            self.longest = max(self.longest, seconds)
            # The record is the last thing that a run writes: where it is there, how the process ended does not matter.
            record = finished(task, self.args.runs, self.judge and self.judge["digest"])
            if record is None:
                self.failures.append(task)
            print(f"[{done + number}/{total}] {task.label}: {self.said(task, record)}, {seconds:.0f} s", flush=True)
        if ended:
            self.after()
        return len(ended)

    def said(self, task: Task, record: dict | None) -> str:
        if record is None:
            lines = (task.folder(self.args.runs) / "log.txt").read_text(errors="replace").strip().splitlines()
            return f"was not made ({lines[-1] if lines else 'no message'})"
        figures = record["figures"]
        return record["failed"] or f"IoU {figures['volumetric_iou']:.2f}, silhouettes {figures['silhouette_iou']:.2f}"

    def run(self, todo: list[Task], total: int) -> bool:
        """Whether all were tried. What is still running when the time is over is stopped."""
        pending, done = list(todo), total - len(todo)
        try:
            while pending or self.running:
                while (
                    pending and len(self.running) < self.args.processes and time.monotonic() + self.longest < self.end
                ):
                    self.start(pending.pop(0))
                if not self.running or time.monotonic() > self.end:
                    return False
                time.sleep(PAUSE)
                done += self.settle(done, total)
            return True
        finally:
            for process in self.running:
                process.kill()
                process.wait()


def run_record(name: str, task: Task, record: dict) -> dict:
    """What the JSON says of a run; pictures only of the first seed and where they are shown."""
    picture = {"picture": record["picture"]} if name in PICTURED and task.seed == GROUPS[name].seeds[0] else {}
    machine, truth = record["machine"], record["truth"] or {}
    where = f"{machine['gpu'] or machine['machine']}, kernels {machine['simd']}, torch {machine['versions']['torch']}"
    return {
        "prompt": task.prompt,
        "seed": task.seed,
        "key": task.key,
        "definitions": record["definitions"],
        "machine": where,
        "commit": machine["commit"] or "unknown",
        **{key: record[key] for key in ("seconds", "cpu_seconds", "failed") if key in record},
        "truth": {key: value for key, value in truth.items() if key.startswith("r_precision")} or None,
        **record["figures"],
        **picture,
    }


def collected(
    name: str, tasks: list[tuple[Arm, Task]], args, prior: str, judge_digest: str | None, before: dict, known: dict
) -> dict | None:
    """The JSON of a group: its arms with the runs that are in --runs or `known` (see `recorded`); None where there is
    none. before: the group as the file has it."""
    group, full, arms = shortened(GROUPS[name], args), GROUPS[name], []
    judge = before.get("judge") if (before.get("judge") or {}).get("digest") == judge_digest else None
    for arm in chosen_arms(group, args):
        runs = []
        for _, task in (pair for pair in tasks if pair[0] is arm):
            if record := finished(task, args.runs, judge_digest):
                runs.append(run_record(name, task, record))
                judge = record["judge"]
            elif (name, task.key) in known:
                runs.append(known[name, task.key])
        words = arguments(arm, "PROMPT", 0, args.steps, args.resolution)
        command = "" if arm.oracle else shlex.join(["dreamfusion-ngp", *words]).replace("--seed 0", "--seed SEED")
        arms.append({**asdict(arm), "command": command, "runs": runs})
    made = [run for arm in arms for run in arm["runs"]]
    if not made:
        return None
    wanted = {
        "steps": args.steps,
        "resolution": args.resolution,
        **{
            key: getattr(args, key)
            for key in ("prompts", "seeds", "arms")
            if getattr(args, key) is not None and getattr(args, key) < len(getattr(full, key))
        },
    }
    return {
        "title": group.title,
        "why": group.why,
        "command": command_of(name, args),
        "date": date.today().isoformat(),
        "shortened": {key: value for key, value in wanted.items() if value is not None},
        "machines": sorted({run["machine"] for run in made}),
        "commits": sorted({run["commit"] for run in made}),
        "prior": prior,
        "threads": args.threads,
        "processes": args.processes,
        "whole": group.whole,
        "planned": len(tasks),
        "judge": judge,
        "truth": truth_of(made),
        "arms": arms,
    }


def truth_of(runs: list[dict]) -> dict | None:
    """R-Precision of the true toys, averaged over the prompts that were run."""
    known = [run["truth"] for run in {run["prompt"]: run for run in runs}.values() if run["truth"]]
    return (
        {key: round(sum(truth[key] for truth in known) / len(known), 4) for key in known[0]} | {"prompts": len(known)}
        if known
        else None
    )


def command_of(name: str, args) -> str:
    """The command that makes one group again."""
    flags = {
        "--threads": args.threads,
        "--processes": args.processes,
        "--steps": args.steps,
        "--resolution": args.resolution,
        "--prompts": args.prompts,
        "--seeds": args.seeds,
        "--arms": args.arms,
    }
    plain = {"--threads": 1, "--processes": 1}
    given = [f"{flag} {value}" for flag, value in flags.items() if value not in (None, plain.get(flag))]
    return " ".join(["python benches/ablation.py --only", name, *given])


def write_results(plans: dict[str, list[tuple[Arm, Task]]], args, prior: str, judge_digest: str | None) -> None:
    """Renew these groups in the JSON file; the others stay."""
    path = args.out
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"groups": {}}
    runs = recorded(path, judge_digest)
    found = {
        name: collected(name, tasks, args, prior, judge_digest, known["groups"].get(name, {}), runs)
        for name, tasks in plans.items()
    }
    if not any(found.values()):
        return
    known["groups"] |= {name: group for name, group in found.items() if group}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


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
    parser.add_argument("--steps", type=int, help="of the default preset, in the place of its own")
    parser.add_argument("--resolution", type=int, help="pixels a side of the training views")
    for what in ("prompts", "seeds", "arms"):
        parser.add_argument(f"--{what}", type=int, help=f"only so many of the first {what}")
    parser.add_argument("--judge", type=Path, help="a judge that train-judge wrote (default: the shipped one, if any)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", type=Path, default=Path("outputs/ablation"), help="folder of the runs")
    parser.add_argument("-o", "--out", type=Path, default=repository / "benches" / "results" / "ablation.json")
    args = parser.parse_args(argv)
    for name in ("processes", "threads", "steps", "resolution", "prompts", "seeds", "arms"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UsageError(f"--{name} must be at least 1")
    if args.judge and not args.judge.is_file():
        raise UsageError(f"--judge {args.judge}: there is no such file")
    return args


def ablate(args) -> int:
    path = args.judge or (JUDGE if JUDGE.is_file() else None)
    judge = path and {"path": str(path.resolve()), "digest": digest(path)}
    prior, known = digest(*sorted(PRIOR.rglob("*.safetensors"))), judge and judge["digest"]
    plans = {name: tasks_of(shortened(GROUPS[name], args), args, prior) for name in args.only}
    tasks = {task.key: task for plan in plans.values() for _, task in plan}
    had = recorded(args.out, known)
    wanted = {task.key for name, plan in plans.items() for _, task in plan if (name, task.key) not in had}
    todo = [task for task in tasks.values() if task.key in wanted and not finished(task, args.runs, known)]
    print(
        f"{len(tasks)} runs, {len(tasks) - len(todo)} done; judge: {known or 'none, R-Precision stays empty'}",
        flush=True,
    )
    runner = Runner(args, judge, lambda: write_results(plans, args, prior, known))
    runner.after()
    if not args.collect and not runner.run(todo, len(tasks)):
        print("the time is over; the same command goes on", flush=True)
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
