"""The stages of a run in order: their classes, and how each starts from the one before."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..config.schema import RunConfig
from ..optimise.mesh import MeshStage
from ..optimise.particles import ParticleStage
from ..optimise.sphere import SphereStage
from ..optimise.stage import Stage
from ..optimise.volume import VolumeStage
from .texture import TextureStage

INHERITED = ("prompt", "seed", "preset", "field")  # a stage has these of the one before it
KINDS = {"volume": VolumeStage, "mesh": MeshStage, "texture": TextureStage, "sphere": SphereStage}


def start(config: RunConfig, device: str | torch.device, previous: Stage | None = None) -> Stage:
    """The stage of `config.kind` before its first step, as `Stage.start`."""
    if config.particles > 1:
        return ParticleStage.start(config, device, previous)
    return KINDS[config.kind].start(config, device, previous)


def next_config(config: RunConfig) -> RunConfig | None:
    """The config of the stage after that of `config`, with what it inherits from this one; None after the last."""
    if config.then is None:
        return None
    return replace(config.then, **{name: getattr(config, name) for name in INHERITED})


def stage_configs(config: RunConfig) -> list[RunConfig]:
    """The configs of all stages, in order."""
    following = next_config(config)
    return [config, *(stage_configs(following) if following else [])]


def check_models(config: RunConfig) -> None:
    """Raise PriorError for a model of a stage that is missing or not understood, and UsageError for one that the
    stage's rule does not support: now, not after the stages before it."""
    from ..guidance.load import check_guidance
    from ..guidance.origin import weights_of

    for stage in stage_configs(config):
        weights_of(stage)
        check_guidance(stage)


def follow(stage: Stage) -> Stage | None:
    """The stage after a finished one, started from its scene; None after the last. Raises UsageError where it cannot
    take over that scene, ExportError for an empty one."""
    config = next_config(stage.config)
    if config is None:
        return None
    following = start(config, stage.device, stage)
    following.before = stage.before + stage.step
    return following


def steps_in_all(config: RunConfig) -> int:
    """Steps of this stage and those after it."""
    return sum(stage.steps for stage in config.stages())
