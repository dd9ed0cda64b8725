"""First stages that runs share: of several arms that go on from the same volume, the first one makes it.

A finished first stage lies in FOLDER beside the folders of the runs: its checkpoint, and what it took to make.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..base.errors import CheckpointError, writing
from ..base.files import write_atomically
from ..config.io import to_dict
from ..config.schema import RunConfig
from ..optimise.stage import Stage
from ..runs.checkpoint import load_checkpoint, save_checkpoint
from .task import models_of, settings_of

FOLDER = "stages"
LARGEST = 32 << 20  # bytes: nothing goes on from the hash grid of the paper's size


@dataclass(frozen=True)
class Cost:
    """What a stage took: seconds, those of its processors, and bytes of memory at most."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory: int = 0


def place_of(runs: Path, config: RunConfig, device: torch.device) -> Path:
    """Where the first stage of `config` lies: by its settings, its weights and the kind of device, whatever follows."""
    alone = replace(config, preset="", then=None)
    decides = [settings_of(to_dict(alone)), models_of(alone), device.type]
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]
    return runs / FOLDER / f"{key}.safetensors"


def take(place: Path, config: RunConfig, device: torch.device) -> tuple[Stage, Cost] | None:
    """The finished first stage of `config`, and what it took; None where there is none."""
    try:
        cost = Cost(**json.loads(place.with_suffix(".json").read_text()))
        stage = load_checkpoint(place, device)
    except (CheckpointError, OSError, ValueError, TypeError):  # none, or a damaged one
        return None
    stage.config = config
    return stage, cost


def keep(place: Path, stage: Stage, cost: Cost) -> None:
    """Let other runs take a finished first stage, unless it is large. Raises OutputError."""
    if sum(tensor.nbytes for tensor in stage.tensors().values()) > LARGEST:
        return
    with writing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(place, stage)
        write_atomically(place.with_suffix(".json"), (json.dumps(vars(cost)) + "\n").encode())
