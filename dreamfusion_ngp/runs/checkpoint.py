"""Checkpoints: one safetensors file with every tensor of a run; config, step and format in its header, written
atomically. A checkpoint with a number that is not finite is neither saved nor loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from ..base.errors import CheckpointError, DivergenceError, PromptError, UsageError, writing
from ..base.files import write_atomically
from ..config.checks import check_config, clean_texts
from ..config.io import from_dict, to_dict
from ..config.schema import RunConfig
from ..optimise.adam import unsound
from ..optimise.stage import Stage
from .stages import start as start_stage

__all__ = ["load_checkpoint", "save_checkpoint"]

FORMAT = "dreamfusion_ngp.checkpoint.1"
GUIDED = "guidance."  # prefix of the names of tensors that a guidance changes


def save_checkpoint(path: Path, state: Stage) -> None:
    """Write `path` in one step: a crash leaves the old file or the new one, never half of one. Raises OutputError, and
    DivergenceError for an `unsound` state, with the old file left as it is."""
    from safetensors.torch import save

    header = {
        "format": FORMAT,
        "step": str(state.step),
        **{name: str(value) for name, value in state.counters().items()},
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


def load_checkpoint(
    path: Path,
    device: str | torch.device,
    *,
    steps: int | None = None,
    start: Callable[[RunConfig, str | torch.device], Stage] = start_stage,
) -> Stage:
    """The stage saved in `path`, on `device`. steps: replaces the configured number of steps (to run on). start: makes
    the stage of a config, for a stage class of your own. Settings that an older file's config lacks have their
    defaults.

    Raises CheckpointError for a missing, truncated or foreign file, or one whose tensors do not fit its config or are
    `unsound`, and UsageError for `steps` out of range.
    """
    header, tensors = _read(Path(path))
    config, step, weights = _header(path, header)
    if steps is not None:
        config = replace(config, steps=steps)
        check_config(config)
    stage = start(config, device)
    counters = _counters(path, header, stage.counters())
    guided = {k: tensors.pop(k) for k in [*tensors] if k.startswith(GUIDED)}
    if fitting := getattr(stage, "fitting", None):  # its tensors have sizes that its config does not say
        stage = fitting(tensors)
    targets = stage.tensors()
    for name in {"adam.nonfinite", "frame"} & set(targets):
        tensors.setdefault(name, targets[name])  # older files lack it
    if set(targets) != set(tensors) or any(
        (targets[k].shape, targets[k].dtype) != (v.shape, v.dtype) for k, v in tensors.items()
    ):
        raise CheckpointError(f"{path}: its tensors do not fit its config; was it written by another version?")
    if fault := unsound(tensors | guided):
        raise CheckpointError(f"{path}: {fault}; the file is damaged, or the run went wrong before it was saved")
    for name, value in tensors.items():
        targets[name].copy_(value)
    stage.guided = {k.removeprefix(GUIDED): v.to(stage.device) for k, v in guided.items()}
    stage.weights = weights
    stage.restore(step, counters)
    return stage


def _header(path: Path, header: dict) -> tuple[RunConfig, int, dict]:
    """Config, step and the digests of the guidance's weights. Raises CheckpointError."""
    try:
        config = from_dict(RunConfig, json.loads(header["config"]))
        check_config(config := clean_texts(config))
        step, weights = int(header["step"]), json.loads(header.get("weights", "{}"))
        if step < 0 or not isinstance(weights, dict):
            raise ValueError(f"step {step}, weights {type(weights).__name__}")
    except PromptError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, RecursionError, UsageError) as error:
        raise _unreadable(path, error) from None
    return config, step, weights


def _counters(path: Path, header: dict, names: dict[str, int]) -> dict[str, int]:
    """The counters called `names`, those that the file has. Raises CheckpointError."""
    try:
        counters = {name: int(header[name]) for name in names if name in header}
        if min(counters.values(), default=0) < -1:
            raise ValueError(", ".join(f"{name} {value}" for name, value in counters.items()))
    except ValueError as error:
        raise _unreadable(path, error) from None
    return counters


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path}: its header cannot be read ({error}); was it written by another version?")


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
