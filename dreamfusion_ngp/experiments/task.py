"""One run as data: what determines its result, and the key by which equal runs are recognised."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from ..config.io import to_dict
from ..config.schema import RunConfig
from ..evaluation.figures import DEFINITIONS
from ..guidance.embedded import embedded_folder
from ..guidance.origin import weights_digest, weights_of
from ..hub.names import TOYBOX_NAME, TOYBOXES
from ..runs.folder import slug
from .arms import Arm, Group, config_of

PACKAGE = Path(__file__).resolve().parents[1]
PRIORS = PACKAGE / "toybox" / "priors"
PRIOR = PRIORS / "toybox-64"
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
    """The group, limited to as many prompts and seeds as the flags say."""
    return replace(group, prompts=group.prompts[: args.prompts], seeds=group.seeds[: args.seeds])


def chosen_arms(group: Group, args) -> tuple[Arm, ...]:
    return group.arms[: args.arms]


def task_of(group: Group, arm: Arm, prompt: str, seed: int, args, prior: str) -> Task:
    settings = config_of(arm, prompt, seed, args.steps, args.resolution)
    config = to_dict(settings)
    timing = [args.threads, args.processes] if group.whole else None  # there the time is one of the figures
    guide = config["guidance"]["model"]
    weights = prior if guide == TOYBOX_NAME else digest(*sorted((PRIORS / TOYBOXES[guide]).rglob("*.safetensors")))
    later = models_of(settings.then) if settings.then and not arm.oracle else []
    decides = [settings_of(config), arm.oracle or weights, timing, *later]
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]
    return Task(prompt, seed, group.whole, arm.oracle, config, key, f"{arm.name}: {prompt}, seed {seed}")


def models_of(config: RunConfig) -> list[str]:
    """Digests of the weights that guide the stages of a run."""
    name = config.guidance.model
    weights = weights_digest(embedded_folder(name)) if name in TOYBOXES else json.dumps(weights_of(config))
    return [weights, *(models_of(config.then) if config.then else [])]


def settings_of(config: dict) -> dict:
    """The settings of a config, and of the stages after it, that are not defaults."""
    changes = differing({**config, "then": None}, to_dict(RunConfig()))
    return changes | ({"then": settings_of(config["then"])} if config["then"] else {})


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


def tasks_of(group: Group, args, prior: str) -> list[tuple[Arm, Task]]:
    """All runs of a group, prompt by prompt, so that complete comparisons exist when it is stopped half-way."""
    return [
        (arm, task_of(group, arm, prompt, seed, args, prior))
        for seed in group.seeds
        for prompt in group.prompts
        for arm in chosen_arms(group, args)
    ]


def finished(task: Task, root: Path, judge: str | None) -> dict | None:
    """The record of a finished run that the judge with that digest has scored; else None."""
    try:
        record = json.loads((task.folder(root) / "run.json").read_text())
        versions = (record["judge"] or {}).get("digest"), record.get("definitions")
        clips = record.get("clips", {})
        scored = all(clips.get(name, {}).get("digest") == digest for name, digest in task.clips)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # no record, or a damaged one
        return None
    return record if versions == (judge, DEFINITIONS) and scored else None
