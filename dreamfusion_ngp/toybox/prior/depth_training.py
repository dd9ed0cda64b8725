"""The training of the depth prior, toybox-depth: single views, and four sides of a toy in one picture.

A tile is four views of 256 pixels in a picture of 512: the frozen latent UNet is convolutional except for the attention
in its middle block, so toys have the size that it was trained on (docs/decisions/0162-toybox-depth.md).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...base.precision import ENCODER_LAYOUT, autocast
from ...base.slots import sent
from ...guidance.depth import depth_picture, tiled
from ...guidance.multiview import VIEWS
from ..world.captions import caption
from ..world.shapes import CLASSES, COLORS
from .depth_model import DEPTH_PRIOR, DepthPrior, load_depth_prior, start_depth_prior
from .depth_sampling import sheet
from .depth_views import RingLatents
from .latent_model import load_latent_prior
from .loss import TrainPriorConfig, caption_ids, sample_noise_levels
from .model import Prior, embed_words
from .optimizer import OUTER
from .pixels import prepare_for_training
from .training import Kind

# Layers of the depth's encoder that stay as they are where a training goes on on a CPU: 808 weights of 2.3 million, at
# 256 x 256 pixels, that cost a third of a step.
FROZEN = ("conv_in", "blocks.0")
SINGLE_SHARE = 0.5  # of the batches: single views, on which training is four times as fast

ON_CPU = TrainPriorConfig(
    images=200_000,
    batch=16,
    learning_rate=5e-4,
    text_phase=0.0,
    warmup_images=800,
    ema_half_life=4_000,
    views_per_class=96,
    chunk=4,
    trace_every=3,
    report_every=50,
    score_every=4400.0,
)
ON_GPU = TrainPriorConfig(
    images=2_000_000,
    batch=64,
    learning_rate=8e-4,
    text_phase=0.0,
    warmup_images=10_000,
    ema_half_life=100_000,
    views_per_class=512,
    chunk=16,
    trace_every=8,
    save_every=90.0,
    score_every=240.0,
)


class DepthTask:
    """See `task.Task`."""

    name, outer = "", (*OUTER, "controlnet_cond_embedding.conv_in")

    def __init__(self, model: DepthPrior, config: TrainPriorConfig):
        self.model, self.config = model, config
        self.sheet: Callable[[Any, Path], None] | None = partial(sheet, steps=config.sheet_steps)

    def modules(self, model: DepthPrior) -> list:
        return [model.control]

    def open(self, random: np.random.Generator, device: str) -> RingLatents:
        self.random, self.rings = random, RingLatents(self.config, self.model.latent.vae, random, device)
        return self.rings

    def batch(self, progress: float) -> tuple[Tensor, ...]:
        """z (n, 4, h, w), pictures of depth (n, 3, 8 h, 8 w), ids (n, MAX_TOKENS) and steps (n,): `config.batch` single
        views, or a quarter as many tiles."""
        single, random = self.random.random() < SINGLE_SHARE, self.random
        n = self.config.batch if single else self.config.batch // VIEWS
        classes, rings = self.rings.draw(n, random)
        every, which = np.arange(n), random.integers(VIEWS, size=n)
        azimuth, elevation = rings.azimuth[every, which], rings.elevation[every, which]
        names = list(COLORS)
        texts = [
            caption(CLASSES[c], names[k], a, e, mode, random, views=single)
            for c, k, a, e, mode in zip(classes, rings.color, azimuth, elevation, rings.modes, strict=True)
        ]
        if single:
            at = sent(every, rings.z.device), sent(which, rings.z.device)
            z, depth = rings.z[at], rings.depth[at]
        else:
            z = tiled(rings.z.flatten(0, 1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()
            depth = tiled(rings.depth.flatten(0, 1))
        condition = depth_picture(depth, depth > 0)[:, None].repeat(1, 3, 1, 1)
        rest = caption_ids(self.model.latent.tokenizer, texts), sample_noise_levels(n, random, 0.0)
        return z, condition, *(sent(values, z.device) for values in rest)

    def loss(self, z: Tensor, depth: Tensor, ids: Tensor, steps: Tensor) -> Tensor:
        return control_loss(self.model, z, depth, ids, steps)


def control_loss(prior: DepthPrior, z: Tensor, depth: Tensor, ids: Tensor, steps: Tensor) -> Tensor:
    """`latents.noise_loss` of a UNet with its ControlNet, given pictures of depth (n, 3, 8 h, 8 w) in [0, 1]."""
    latent = prior.latent
    abar = latent.scheduler.alphas_cumprod[steps].view(-1, 1, 1, 1)
    noise = torch.randn_like(z)
    noisy = abar.sqrt() * z + (1 - abar).sqrt() * noise
    with torch.no_grad():
        hidden = embed_words(latent.text_encoder, ids)
    with autocast(z.device):
        down, mid = prior.control(noisy, steps, hidden, controlnet_cond=depth, return_dict=False)
        noise_hat = latent.unet(
            noisy, steps, hidden, down_block_additional_residuals=down, mid_block_additional_residual=mid
        ).sample
    return ((noise_hat.float() - noise).square() / abar).mean()


def check(folder: Path) -> None:
    """Raise for a folder that is no depth prior."""
    prior = load_depth_prior(folder)
    if prior.control.config.cross_attention_dim != prior.latent.unet.config.cross_attention_dim:
        raise ValueError("it is a ControlNet of another model")


def build_task(config: TrainPriorConfig, resume: Path | None, device: str) -> DepthTask:
    """The task that resumes the ControlNet in `resume`, or starts one for the shipped latent prior, which is frozen."""
    from diffusers.models.attention_processor import AttnProcessor

    prior = load_depth_prior(resume) if resume else start_depth_prior(load_latent_prior(), config.seed)
    latent = prior.latent
    prepare_for_training(Prior(latent.unet, latent.text_encoder, latent.tokenizer, latent.scheduler), device)
    order = torch.contiguous_format if device == "cpu" else torch.channels_last
    for part in (latent.vae, latent.unet, latent.text_encoder):
        part.to(device=device).eval().requires_grad_(False)
    latent.vae.to(memory_format=ENCODER_LAYOUT)
    prior.control.set_attn_processor(AttnProcessor())
    prior.control.to(device=device, memory_format=order).train()
    if resume and device == "cpu":
        for layer in FROZEN:
            prior.control.controlnet_cond_embedding.get_submodule(layer).requires_grad_(False)
    return DepthTask(prior, config)


DEPTH = Kind(DEPTH_PRIOR, ON_CPU, ON_GPU, build_task, check, mark="config.json", views=VIEWS)
