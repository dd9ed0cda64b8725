"""Checkpoints: one safetensors file with every tensor of a run; config, step and format in its header, written
atomically."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import torch

from .config import RunConfig, check_config, from_dict, to_dict
from .errors import CheckpointError, UsageError, writing
from .train import State

FORMAT = "dreamfusion_ngp.checkpoint.1"


def save_checkpoint(path: Path, state: State) -> None:
    """Write `path` in one step: a crash leaves the old file or the new one, never half of one. Raises OutputError."""
    from safetensors.torch import save

    header = {"format": FORMAT, "step": str(state.step), "config": json.dumps(to_dict(state.config))}
    data = save({k: v.detach().cpu().contiguous() for k, v in state.tensors().items()}, metadata=header)
    with writing(path):
        write_atomically(path, data)


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside `path`, flush to disk, rename over it."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def load_checkpoint(path: Path, device: str | torch.device, *, steps: int | None = None) -> State:
    """The state saved in `path`, on `device`. steps: replaces the configured number of steps (to run on). Settings that
    the file's config lacks, since it is older than they are, have their defaults.

    Raises CheckpointError for a missing, truncated or foreign file, or one whose tensors do not fit its config, and
    UsageError for `steps` out of range.
    """
    header, tensors = _read(Path(path))
    try:
        config = from_dict(RunConfig, json.loads(header["config"]))
        check_config(config)
        step = int(header["step"])
        if step < 0:
            raise ValueError(f"step {step}")
    except (KeyError, TypeError, ValueError, RecursionError, UsageError) as error:
        raise CheckpointError(f"{path}: its header cannot be read ({error}); "
                              "was it written by another version?") from None
    if steps is not None:
        config = replace(config, steps=steps)
        check_config(config)
    state = State(config, device)
    own = state.tensors()
    tensors.setdefault("adam.nonfinite", own["adam.nonfinite"])  # older files lack it
    if set(own) != set(tensors) or any((own[k].shape, own[k].dtype) != (v.shape, v.dtype) for k, v in tensors.items()):
        raise CheckpointError(f"{path}: its tensors do not fit its config; was it written by another version?")
    for name, value in tensors.items():
        own[name].copy_(value)
    state.field.refresh()
    state.step = step
    state.field.fade(min(1.0, step / config.steps))
    return state


def _read(path: Path) -> tuple[dict, dict]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                kind = header.get("format")
                raise CheckpointError(f"{path} is not a checkpoint of dreamfusion_ngp (format {kind!r})")
            return header, {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or no checkpoint: {error}") from None
