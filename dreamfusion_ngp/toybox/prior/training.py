"""What the trainings of all priors check before they begin."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from ...base.errors import UsageError
from ...base.rng import SEED_LIMIT
from .loss import TrainPriorConfig
from .optimizer import check_device


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
