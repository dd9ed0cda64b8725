"""The arms of a comparison, and the settings of their runs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..config.checks import check_config
from ..config.overrides import override
from ..config.presets import preset
from ..config.prompts import clean_prompt
from ..config.rules import with_rule
from ..config.schema import RunConfig

PRESET = "fast"
# Of the network, for a view, with the embedded priors: no negative prompt, t near 1. A lesson of vsd's student is one
# with its backward, which counts as three.
EVALUATIONS = {"sds": 2, "csd": 2, "x0": 2, "asd": 3, "vsd": 6, "ism": 8, "sdi": 22}


@dataclass(frozen=True)
class Arm:
    """overrides: KEY=VALUE of `generate --set`. steps: times those of the default preset. oracle: instead of the
    prior, true pictures of the toy (toybox/oracle.py), by the view "words" or the "camera". rule: that of `--rule`."""

    name: str
    why: str
    overrides: tuple[str, ...] = ()
    preset: str = PRESET
    steps: float = 1.0
    oracle: str = ""
    rule: str = ""


@dataclass(frozen=True)
class Group:
    """whole: every run is the whole command, with mesh and turntable, and its wall time is a figure; else only the
    optimisation."""

    title: str
    why: str
    arms: tuple[Arm, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    whole: bool = False


def changes(arm: Arm, resolution: int | None) -> list[str]:
    """KEY=VALUE of every setting that an arm changes, in order."""
    return ([] if resolution is None else [f"render.resolution={resolution}"]) + list(arm.overrides)


def steps_of(arm: Arm, steps: int | None) -> int | None:
    """Steps of an arm if one with factor 1 makes `steps` (None: those of the default preset). None: its preset's."""
    if steps is None and arm.steps == 1 and arm.preset == PRESET:
        return None
    return max(1, round((steps or preset(PRESET).steps) * arm.steps))


def arguments(arm: Arm, prompt: str, seed: int, steps: int | None = None, resolution: int | None = None) -> list[str]:
    """The command line arguments of `dreamfusion-ngp` for one run. steps: of an arm with factor 1; resolution: pixels a
    side of the training views; None: the preset's."""
    words = ["generate", prompt, "--preset", arm.preset, "--seed", str(seed)]
    if arm.rule:
        words += ["--rule", arm.rule]
    if (count := steps_of(arm, steps)) is not None:
        words += ["--steps", str(count)]
    return words + [part for text in changes(arm, resolution) for part in ("--set", text)]


def evaluations(config: RunConfig) -> int:
    """Evaluations of the network in a run of one stage, by EVALUATIONS."""
    return config.steps * config.views * config.accumulate * EVALUATIONS[config.guidance.rule]


def config_of(arm: Arm, prompt: str, seed: int, steps: int | None = None, resolution: int | None = None) -> RunConfig:
    """The settings that `arguments` gives. Raises UsageError for an arm that does not fit the settings."""
    config = replace(preset(arm.preset), prompt=clean_prompt(prompt), seed=seed)
    if arm.rule:
        config = with_rule(config, arm.rule, toys=True)
    for text in changes(arm, resolution):
        config = override(config, text)
    if (count := steps_of(arm, steps)) is not None:
        config = replace(config, steps=count)
    check_config(config)
    return config
