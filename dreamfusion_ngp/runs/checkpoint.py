"""Checkpoints: one safetensors file with every tensor of a run; config, step and format in its header, written
atomically. None with a number that is not finite is ever saved or loaded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from ..base.errors import CheckpointError, DivergenceError, PromptError, UsageError, writing
from ..base.files import write_atomically
from ..config.schema import RunConfig, check_config, clean_texts, from_dict, to_dict
from ..optimise.adam import unsound
from ..optimise.step import State

__all__ = ["load_checkpoint", "save_checkpoint"]

FORMAT = "dreamfusion_ngp.checkpoint.1"


def save_checkpoint(path: Path, state: State) -> None:
    """Write `path` in one step: a crash leaves the old file or the new one, never half of one. Raises OutputError, and
    DivergenceError, with the old file left as it is, for a state that `unsound` finds fault with."""
    from safetensors.torch import save

    header = {
        "format": FORMAT,
        "step": str(state.step),
        "refreshed": str(state.refreshed),
        "config": json.dumps(to_dict(state.config)),
        "weights": json.dumps(state.weights),
    }
    tensors = {k: v.detach().cpu().contiguous() for k, v in state.tensors().items()}
    if fault := unsound(tensors):
        raise DivergenceError(
            f"{fault} after {state.step} steps: stopped, and not saved (a lower learning rate or another seed may help)"
        )
    with writing(path):
        write_atomically(path, save(tensors, metadata=header))


def load_checkpoint(path: Path, device: str | torch.device, *, steps: int | None = None) -> State:
    """The state saved in `path`, on `device`. steps: replaces the configured number of steps (to run on). Settings that
    the file's config lacks, since it is older than they are, have their defaults.

    Raises CheckpointError for a missing, truncated or foreign file, or one whose tensors do not fit its config or are
    `unsound`, and UsageError for `steps` out of range.
    """
    header, tensors = _read(Path(path))
    try:
        config = from_dict(RunConfig, json.loads(header["config"]))
        check_config(config := clean_texts(config))
        step, refreshed = int(header["step"]), int(header.get("refreshed", -1))
        weights = json.loads(header.get("weights", "{}"))
        if step < 0 or refreshed < -1 or not isinstance(weights, dict):
            raise ValueError(f"step {step}, refreshed {refreshed}, weights {type(weights).__name__}")
    except PromptError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, RecursionError, UsageError) as error:
        raise CheckpointError(
            f"{path}: its header cannot be read ({error}); was it written by another version?"
        ) from None
    if steps is not None:
        config = replace(config, steps=steps)
        check_config(config)
    state = State(config, device)
    own = state.tensors()
    tensors.setdefault("adam.nonfinite", own["adam.nonfinite"])  # older files lack it
    if set(own) != set(tensors) or any((own[k].shape, own[k].dtype) != (v.shape, v.dtype) for k, v in tensors.items()):
        raise CheckpointError(f"{path}: its tensors do not fit its config; was it written by another version?")
    if fault := unsound(tensors):
        raise CheckpointError(f"{path}: {fault}; the file is damaged, or the run went wrong before it was saved")
    for name, value in tensors.items():
        own[name].copy_(value)
    state.field.refresh()
    state.step, state.refreshed, state.weights = step, refreshed, weights
    state.show_progress(min(1.0, step / config.steps))
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
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dictionary)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or no checkpoint: {error}") from None
