"""The file of results: groups, their arms, and the figures of their runs."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from datetime import date
from pathlib import Path

from ..base.errors import UsageError, writing
from ..base.files import write_atomically
from ..evaluation.figures import DEFINITIONS
from .arms import Arm, arguments
from .diversity import by_prompt
from .groups import GROUPS
from .task import Task, chosen_arms, finished, shortened

PICTURED = ("bars", "paper")  # groups whose report shows pictures


def read_results(path: Path) -> dict:
    """The content of a file of results, without groups where there is none. Raises UsageError for another file."""
    try:
        results = json.loads(path.read_text(encoding="utf-8-sig"))
        if not all(isinstance(run, dict) for group in results["groups"].values() for run in runs_of(group)):
            raise TypeError
    except FileNotFoundError:
        return {"groups": {}}
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UsageError(f"{path} is damaged or no file of results; move it away, or choose another place") from None
    return results


def runs_of(group: dict) -> list[dict]:
    """All runs that a file of results has of a group, those that the last call did not ask for too."""
    return [run for arm in group["arms"] for run in arm["runs"]] + group.get("others", [])


def recorded(path: Path, judge: str | None) -> dict[tuple, dict]:
    """{(group, key): run} of the runs in a file of results that this judge has scored by the current definitions."""
    groups = read_results(path)["groups"]
    return {
        (name, run.get("key")): run
        for name, group in groups.items()
        for run in runs_of(group)
        if run.get("definitions") == DEFINITIONS and (group.get("judge") or {}).get("digest") == judge
    }


def run_record(name: str, task: Task, record: dict) -> dict:
    """The entry of a run in the JSON; with a picture only for the first seed of groups that show them."""
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
        **{key: record[key] for key in ("seconds", "cpu_seconds", "threads", "processes", "failed") if key in record},
        "truth": {key: value for key, value in truth.items() if key.startswith("r_precision")} or None,
        **record["figures"],
        **picture,
    }


def collected(
    name: str, tasks: list[tuple[Arm, Task]], args, prior: str, judge_digest: str | None, before: dict, measured: dict
) -> dict | None:
    """The JSON of a group: its arms with the runs in --runs or `measured` (see `recorded`); None if there are none.
    before: the group as it is in the file."""
    group, full, arms = shortened(GROUPS[name], args), GROUPS[name], []
    judge = before.get("judge") if (before.get("judge") or {}).get("digest") == judge_digest else None
    arms_before = {arm["name"]: arm for arm in before.get("arms", ())}
    for arm in chosen_arms(group, args):
        runs, pictures = [], {}
        for _, task in (pair for pair in tasks if pair[0] is arm):
            if record := finished(task, args.runs, judge_digest):
                runs.append(run_record(name, task, record))
                judge, pictures[task.key] = record["judge"], record["picture"]
            elif (name, task.key) in measured:
                runs.append(measured[name, task.key])
        words = arguments(arm, "PROMPT", 0, args.steps, args.resolution)
        command = "" if arm.oracle else shlex.join(["dreamfusion-ngp", *words]).replace("--seed 0", "--seed SEED")
        spread = diversity_of(runs, pictures, arms_before.get(arm.name))
        arms.append({**asdict(arm), "command": command, "runs": runs, "diversity": spread})
    all_runs = [run for arm in arms for run in arm["runs"]]
    if not all_runs:
        return None
    limits = {
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
        "shortened": {key: value for key, value in limits.items() if value is not None},
        "machines": sorted({run["machine"] for run in all_runs}),
        "commits": sorted({run["commit"] for run in all_runs}),
        "prior": prior,
        "threads": args.threads,
        "processes": args.processes,
        "whole": group.whole,
        "planned": len(tasks),
        "judge": judge,
        "truth": truth_of(all_runs),
        "arms": arms,
        "others": unasked(name, all_runs, measured),
    }


def unasked(name: str, runs: list[dict], measured: dict) -> list[dict]:
    """The runs of a group in the file that are not among `runs`, for a call that asks for them again: else one for
    fewer prompts, or a trial, would cost the figures of a longer measurement."""
    keys = {run["key"] for run in runs}
    return [run for (group, key), run in measured.items() if group == name and key not in keys]


def diversity_of(runs: list[dict], pictures: dict[str, str], before: dict | None) -> dict[str, float]:
    """The diversity of every prompt of an arm: from the pictures, by key, where all of its runs have theirs here (""
    for one without a result); else as it was `before`, of the same runs."""

    def keys(some: list[dict]) -> dict[str, set]:
        return {run["prompt"]: {other.get("key") for other in some if other["prompt"] == run["prompt"]} for run in some}

    now, then = keys(runs), keys(before["runs"]) if before else {}
    here = {
        prompt: [pictures[key] for key in pictures if key in which and pictures[key]]
        for prompt, which in now.items()
        if which <= pictures.keys()
    }
    old = before.get("diversity", {}) if before else {}
    return by_prompt(here, {prompt: old[prompt] for prompt in old if now.get(prompt) == then.get(prompt)})


def truth_of(runs: list[dict]) -> dict | None:
    """R-Precision of the true toys, averaged over the prompts of the runs."""
    truths = [run["truth"] for run in {run["prompt"]: run for run in runs}.values() if run["truth"]]
    return (
        {key: round(sum(truth[key] for truth in truths) / len(truths), 4) for key in truths[0]}
        | {"prompts": len(truths)}
        if truths
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
    options = [f"{flag} {value}" for flag, value in flags.items() if value not in (None, plain.get(flag))]
    return " ".join(["python benches/ablation.py --only", name, *options])


def write_results(plans: dict[str, list[tuple[Arm, Task]]], args, prior: str, judge_digest: str | None) -> None:
    """Update these groups in the JSON file; the others stay. Raises OutputError."""
    path = args.out
    results, runs = read_results(path), recorded(path, judge_digest)
    groups = {
        name: collected(name, tasks, args, prior, judge_digest, results["groups"].get(name, {}), runs)
        for name, tasks in plans.items()
    }
    if not any(groups.values()):
        return
    results["groups"] |= {name: group for name, group in groups.items() if group}
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(results, indent=1) + "\n").encode())
