"""How a prior of any kind is trained: what is checked before, where it starts from."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...base.console import silent
from ...base.errors import PriorError, UsageError
from ...base.rng import SEED_LIMIT
from .loop import EMPTY_LOG, read_log, run_task
from .loss import TrainPriorConfig
from .optimizer import check_device
from .task import Task


@dataclass(frozen=True)
class Kind:
    """A kind of prior. shipped: the folder of the embedded one. cpu, gpu: settings of a training there. build: its
    task, given the config, the folder to resume or None, and the device; picklable. check: raises OSError, ValueError
    or RuntimeError for a folder that cannot be resumed. mark: the file that identifies a folder of this kind, which may
    be replaced. views: of one toy that batches consist of."""

    shipped: Path
    cpu: TrainPriorConfig
    gpu: TrainPriorConfig
    build: Callable[[TrainPriorConfig, Path | None, str], Task]
    check: Callable[[Path], None]
    mark: str = "model_index.json"
    views: int = 1


def train_prior(
    kind: Kind,
    config: TrainPriorConfig,
    out: Path,
    *,
    resume: Path | None = None,
    processes: int = 1,
    device: str = "cpu",
    score: Callable[[Any], dict] | None = None,
    show: Callable[[str], None] = silent,
) -> None:
    """Train and leave the prior's folder in `out`, with `training.json` (images seen, loss curve, scores) and, of kinds
    with a sheet, `samples.jpg` beside it.

    resume: a folder to start from (weights only). processes: one-thread CPU processes with averaged gradients; on CUDA
    always 1. score: a function of a module, called with the averaged weights every `score_every` seconds, and after a
    run that took longer. show: a function of a module, called with a line of progress now and then, in the process that
    trains. KeyboardInterrupt and SystemExit end the training with what it has learnt saved. Raises UsageError or
    PriorError before anything is written where that cannot be done.
    """
    check_request(config, Path(out), device, kind.mark)
    if any(getattr(config, name) % kind.views for name in ("batch", "chunk", "views_per_class")):
        raise PriorError(
            f"train-prior: batch, chunk and views_per_class must be multiples of {kind.views} views of a toy"
        )
    if resume is not None:
        check_resume(resume, kind.check)
    log = read_log(resume) if resume else EMPTY_LOG
    run_task(kind.build, (config, resume, device), config, out, log, processes, device, score, show)


def check_resume(resume: Path, check: Callable[[Path], None]) -> None:
    """Raise PriorError for a folder that fails `check` (`Kind.check`)."""
    try:
        check(resume)
    except (OSError, ValueError, RuntimeError) as error:
        raise PriorError(f"{resume} cannot be resumed from: {str(error).strip().splitlines()[0]}") from error


def check_request(config: TrainPriorConfig, out: Path, device: str, mark: str = "model_index.json") -> None:
    """Raise UsageError now for what would fail hours later, or in another process. mark: the file that identifies a
    prior of this kind, which may be replaced."""
    for name in ("images", "batch", "views_per_class", "chunk", "trace_every", "report_every", "sheet_steps"):
        least = 0 if name == "sheet_steps" else 1
        if getattr(config, name) < least:
            raise UsageError(f"train-prior: {name} must be at least {least}, got {getattr(config, name)}")
    if not 0 < config.learning_rate < math.inf:
        raise UsageError(f"train-prior: learning_rate must be above 0, got {config.learning_rate}")
    if not 0 <= config.text_phase <= 1:
        raise UsageError(f"train-prior: text_phase must be from 0 to 1, got {config.text_phase}")
    if not 0 <= config.seed < SEED_LIMIT:
        raise UsageError(f"train-prior: seed must be from 0 to {SEED_LIMIT - 1}, got {config.seed}")
    if not 0 <= config.minutes < math.inf:
        raise UsageError(f"train-prior: minutes must not be negative, got {config.minutes}")
    check_device("train-prior", device)
    if out.exists() and not (out / mark).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} exists and is no prior; it would be replaced, so choose another folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as error:
        raise UsageError(f"cannot write to {out.parent}: {error.strerror}") from error
