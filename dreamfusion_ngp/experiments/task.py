"""One run as data: what determines its result, and the key by which equal runs are recognised."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..config.io import to_dict
from ..config.schema import RunConfig
from ..evaluation.figures import DEFINITIONS
from ..guidance.embedded import embedded_folder
from ..guidance.origin import weights_digest, weights_of
from ..guidance.painter import source_of
from ..hub.names import TOYBOXES
from ..runs.folder import slug
from ..runs.stages import INHERITED
from .arms import Arm, Group, config_of

PACKAGE = Path(__file__).resolve().parents[1]
PRIOR = PACKAGE / "toybox" / "priors" / "toybox-64"
JUDGE = PACKAGE / "evaluation" / "judge.safetensors"
LONGEST = 200  # bytes of a prompt in the name of a folder


@dataclass(frozen=True)
class Task:
    """One run. key: hash of everything that determines its result; runs with equal keys are the same. captions:
    distractors, for a prompt that need not be a toy. clips: (name, digest of the weights) of models that score it
    besides the judge."""

    prompt: str
    seed: int
    whole: bool
    oracle: str
    config: dict
    key: str
    label: str = ""
    captions: tuple[str, ...] = ()
    clips: tuple[tuple[str, str], ...] = ()

    def folder(self, root: Path) -> Path:
        name = self.prompt.replace(" ", "-")
        if len(name.encode()) > LONGEST or name.startswith(".") or set(name) & set("/\\"):
            name = slug(self.prompt)
        return root / f"{name}-{self.seed}-{self.key}"


def digest(*paths: Path) -> str:
    """12 hex digits of the SHA-256 of files, in their order."""
    total = hashlib.sha256()
    for path in paths:
        total.update(path.read_bytes())
    return total.hexdigest()[:12]


def shortened(group: Group, args) -> Group:
    """The group with as many of its prompts, and as many seeds from 0 on, as the flags say."""
    seeds = tuple(range(args.seeds)) if args.seeds else group.seeds
    return replace(group, prompts=group.prompts[: args.prompts], seeds=seeds)


def chosen_arms(group: Group, args) -> tuple[Arm, ...]:
    return group.arms[: args.arms]


def task_of(group: Group, arm: Arm, prompt: str, seed: int, args, guides: list[str]) -> Task:
    """guides: what guides the stages, see `key_of`."""
    config = to_dict(config_of(arm, prompt, seed, args.steps, args.resolution))
    timing = [args.threads, args.processes] if group.whole else None
    label = f"{arm.name}: {prompt}, seed {seed}"
    return Task(prompt, seed, group.whole, arm.oracle, config, key_of(config, guides, timing), label)


def key_of(config: dict, guides: list[str], timing: list[int] | None = None) -> str:
    """12 hex digits of everything that determines the result of a run. guides: what guides its stages: digests of
    weights (`models_of`), or the name of an oracle. timing: of a run whose wall time is a figure, its threads and how
    many run at a time."""
    decides = [settings_of(config), guides, timing]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]


def models_of(config: RunConfig) -> list[str]:
    """Digests of the weights that guide, and paint, the stages of a run."""
    name = config.guidance.model
    weights = [weights_digest(embedded_folder(name)) if name in TOYBOXES else json.dumps(weights_of(config))]
    if config.paint.views:
        painter = source_of(config)
        weights += [weights_digest(folder) for folder in (painter.folder, painter.control) if folder]
    return [*weights, *(models_of(config.then) if config.then else [])]


def settings_of(config: dict) -> dict:
    """The settings of a config that are not defaults, and those of the stages after it that these do not inherit."""
    changes = differing({**config, "then": None}, to_dict(RunConfig()))
    if config["then"]:
        own = {name: value for name, value in config["then"].items() if name not in INHERITED}
        changes["then"] = settings_of(own)
    return changes


def differing(config: dict, defaults: dict) -> dict:
    """The entries of a nested dictionary that differ from the defaults, so that a new setting at its default changes no
    key."""
    changes = {}
    for name, value in config.items():
        default = defaults.get(name)
        if isinstance(value, dict) and isinstance(default, dict):
            value, default = differing(value, default), {}
        if value != default:
            changes[name] = value
    return changes


def tasks_of(group: Group, args) -> list[tuple[Arm, Task]]:
    """All runs of a group, prompt by prompt, so that complete comparisons exist when it is stopped half-way."""
    arms = chosen_arms(group, args)
    guides = {arm: guides_of(arm, group.prompts[0]) for arm in arms}
    return [
        (arm, task_of(group, arm, prompt, seed, args, guides[arm]))
        for seed in group.seeds
        for prompt in group.prompts
        for arm in arms
    ]


def guides_of(arm: Arm, prompt: str) -> list[str]:
    """What guides the stages of an arm's runs, whatever their prompts and seeds."""
    return [arm.oracle] if arm.oracle else models_of(config_of(arm, prompt, seed=0))


def captions_digest(captions: Sequence[str]) -> str:
    """12 hex digits of the captions among which a prompt is found; "" for none."""
    return hashlib.sha256(json.dumps(list(captions)).encode()).hexdigest()[:12] if captions else ""


def finished(task: Task, root: Path, judge: str | None) -> dict | None:
    """The record of a finished run that the judge with that digest, and every CLIP of `task`, has scored among the same
    captions; else None."""
    try:
        record = json.loads((task.folder(root) / "run.json").read_text())
        versions = (record["judge"] or {}).get("digest"), record.get("definitions")
        clips = record.get("clips", {})
        scored = all(clips.get(name, {}).get("digest") == digest for name, digest in task.clips)
        scored = scored and record.get("captions", "") == captions_digest(task.captions)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # no record, or a damaged one
        return None
    return record if versions == (judge, DEFINITIONS) and scored else None
