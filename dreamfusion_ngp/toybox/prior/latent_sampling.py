"""Pictures from the latent prior, by the sampler of the pixel prior."""

from __future__ import annotations

import numpy as np
import torch

from ...base.precision import autocast
from .autoencoder import FACTOR, LATENTS, SIDE
from .loss import tokenize
from .sampling import ddim, draw_sheet

FARTHEST = 4.0  # standard deviations of clean latents, to which predictions are clamped
DECODED = 8  # pictures decoded at once


@torch.no_grad()
def sample(
    prior, texts: list[str], *, scale: float = 4.0, steps: int = 30, seed: int = 0, batch: int = 40
) -> torch.Tensor:
    """(B, 256, 256, 3) images in [0, 1] for the captions, by DDIM with guidance uncond + scale (cond - uncond)."""
    out = [_sample_batch(prior, texts[i : i + batch], scale, steps, seed + i) for i in range(0, len(texts), batch)]
    return torch.cat(out)


def _sample_batch(prior, texts, scale, steps, seed):
    device = next(prior.unet.parameters()).device
    n, side = len(texts), SIDE // FACTOR
    tokens = tokenize(prior.tokenizer, texts + [""] * n).to(device)
    abar = prior.scheduler.alphas_cumprod.to(device)
    with autocast(device):
        hidden = prior.text_encoder(tokens.input_ids).last_hidden_state

    def clean(x, now):
        with autocast(device):
            noise = prior.unet(torch.cat([x, x]), now.to(device), hidden).sample
        cond, uncond = noise.float().chunk(2)
        guided = uncond + scale * (cond - uncond)
        return ((x - (1 - abar[now]).sqrt() * guided) / abar[now].sqrt()).clamp(-FARTHEST, FARTHEST)

    noise = np.random.default_rng(seed).normal(size=(n, LATENTS, side, side))
    z = ddim(clean, torch.tensor(noise, dtype=torch.float32, device=device), abar, steps)
    with autocast(device):
        pictures = [prior.vae.decode(part / prior.vae.config.scaling_factor).sample for part in z.split(DECODED)]
    return (torch.cat(pictures).float().clamp(-1, 1).permute(0, 2, 3, 1).cpu() + 1) / 2


def sheet(prior, path, *, scale: float = 4.0, steps: int = 30, seed: int = 0) -> None:
    """Write the contact sheet of `sampling.sheet`, at half the size of the pictures."""

    def drawn(texts):
        images = sample(prior, texts, scale=scale, steps=steps, seed=seed).permute(0, 3, 1, 2)
        return torch.nn.functional.avg_pool2d(images, 2).permute(0, 2, 3, 1)

    draw_sheet(drawn, path)
