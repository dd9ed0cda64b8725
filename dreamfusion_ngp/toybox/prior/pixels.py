"""The training of the pixel prior, toybox-64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...base.console import silent
from ...base.errors import PriorError
from ...base.slots import sent
from .loop import EMPTY_LOG, read_log, run_task
from .loss import BLIND_SHARE, Reservoir, TrainPriorConfig, caption_ids, denoising_loss, training_batch
from .model import Prior, build_prior, load_prior, with_all_words
from .optimizer import OUTER
from .sampling import sheet
from .training import check_request


def train_prior(
    config: TrainPriorConfig,
    out: Path,
    *,
    resume: Path | None = None,
    processes: int = 1,
    device: str = "cpu",
    score: Callable[[Prior], dict] | None = None,
    show: Callable[[str], None] = silent,
) -> None:
    """Train and leave a diffusers folder in `out`, with `training.json` (images seen, loss curve, scores) and
    `samples.jpg` beside it.

    resume: a folder to start from (weights only). processes: one-thread CPU processes with averaged gradients; on CUDA
    always 1. score: a function of a module, called with the averaged weights every `score_every` seconds, and after a
    run that took longer. show: a function of a module, called with a line of progress now and then, in the process that
    trains. KeyboardInterrupt and SystemExit end the training with what it has learnt saved. Raises UsageError or
    PriorError before anything is written where that cannot be done.
    """
    check_request(config, Path(out), device)
    if resume is not None:
        check_resume(resume)
    log = read_log(resume) if resume else EMPTY_LOG
    run_task(build_task, (config, resume, device), config, out, log, processes, device, score, show)


def check_resume(resume: Path) -> None:
    """Raise PriorError for a folder that is no pixel prior."""
    read_log(resume)
    try:
        target = with_all_words(load_prior(resume)).scheduler.config.prediction_type
        if target != "sample":
            raise ValueError(f"it predicts {target}, not the clean picture")
    except (OSError, ValueError, RuntimeError) as error:
        raise PriorError(f"{resume} cannot be resumed from: {str(error).strip().splitlines()[0]}") from error


def build_task(config: TrainPriorConfig, resume: Path | None, device: str) -> PixelTask:
    prior = with_all_words(load_prior(resume)) if resume else build_prior(config.seed)
    prepare_for_training(prior, device)
    return PixelTask(prior, config)


def prepare_for_training(prior: Prior, device: str) -> None:
    """Use plain attention, whose backward on a CPU is faster than that of fused attention; on a GPU it makes no
    difference for 64 positions and 16 words. On a CPU use contiguous memory order, in which bf16 group normalisation is
    several times as fast as in channels-last (20 % of a step)."""
    from diffusers.models.attention_processor import AttnProcessor

    prior.unet.set_attn_processor(AttnProcessor())
    order = torch.contiguous_format if device == "cpu" else torch.channels_last
    prior.unet.to(device=device, memory_format=order).train()
    prior.text_encoder.to(device).train()
    prior.scheduler.alphas_cumprod = prior.scheduler.alphas_cumprod.to(device)


class PixelTask:
    """See `loop.Task`."""

    name, outer = "", OUTER

    def __init__(self, prior: Prior, config: TrainPriorConfig):
        self.model, self.config = prior, config
        self.sheet: Callable[[Any, Path], None] | None = partial(sheet, steps=config.sheet_steps)

    def modules(self, model: Prior) -> list:
        return [model.unet, model.text_encoder]

    def open(self, random: np.random.Generator, device: str) -> None:
        self.random, self.reservoir = random, Reservoir(self.config, random, device)

    def fill(self) -> None:
        self.reservoir.fill()

    def grow(self) -> None:
        self.reservoir.grow()

    def batch(self, progress: float) -> tuple[torch.Tensor, ...]:
        blind = BLIND_SHARE[progress >= self.config.text_phase]
        image, texts, steps = training_batch(self.reservoir, self.config.batch, self.random, blind)
        ids = caption_ids(self.model.tokenizer, texts)
        return image, *(sent(values, image.device) for values in (ids, steps))

    def loss(self, image: torch.Tensor, ids: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        return denoising_loss(self.model, image, ids, steps)
