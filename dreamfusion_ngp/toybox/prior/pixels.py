"""The training of the pixel prior, toybox-64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...base.slots import sent
from .loss import BLIND_SHARE, GPU, Reservoir, TrainPriorConfig, caption_ids, denoising_loss, training_batch
from .model import PRIOR, Prior, build_prior, load_prior, with_all_words
from .optimizer import OUTER
from .sampling import sheet
from .training import Kind


def check(folder: Path) -> None:
    """Raise for a folder that is no pixel prior."""
    target = with_all_words(load_prior(folder)).scheduler.config.prediction_type
    if target != "sample":
        raise ValueError(f"it predicts {target}, not the clean picture")


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
    """See `task.Task`."""

    name, outer = "", OUTER

    def __init__(self, prior: Prior, config: TrainPriorConfig):
        self.model, self.config = prior, config
        self.sheet: Callable[[Any, Path], None] | None = partial(sheet, steps=config.sheet_steps)

    def modules(self, model: Prior) -> list:
        return [model.unet, model.text_encoder]

    def open(self, random: np.random.Generator, device: str) -> Reservoir:
        self.random, self.reservoir = random, Reservoir(self.config, random, device)
        return self.reservoir

    def batch(self, progress: float) -> tuple[torch.Tensor, ...]:
        blind = BLIND_SHARE[progress >= self.config.text_phase]
        image, texts, steps = training_batch(self.reservoir, self.config.batch, self.random, blind)
        ids = caption_ids(self.model.tokenizer, texts)
        return image, *(sent(values, image.device) for values in (ids, steps))

    def loss(self, image: torch.Tensor, ids: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        return denoising_loss(self.model, image, ids, steps)


PIXEL = Kind(PRIOR, TrainPriorConfig(), GPU, build_task, check)
