"""Pictures from the latent prior, by the sampler of the pixel prior."""

from __future__ import annotations

from collections.abc import Callable

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
    cuts = [slice(i, i + batch) for i in range(0, len(texts), batch)]
    return torch.cat([sample_batch(prior, texts[c], (SIDE, SIDE), scale, steps, seed + c.start) for c in cuts])


def sample_batch(
    prior,
    texts: list[str],
    size: tuple[int, int],
    scale: float,
    steps: int,
    seed: int,
    decoded: int = DECODED,
    control: Callable[..., dict] | None = None,
) -> torch.Tensor:
    """As `sample`, at once: pictures of `size`, height and width, `decoded` of them decoded at a time. control: (noisy
    latents, timestep, embedded texts) -> further arguments of the UNet."""
    device = next(prior.unet.parameters()).device
    tokens = tokenize(prior.tokenizer, texts + [""] * len(texts)).to(device)
    abar = prior.scheduler.alphas_cumprod.to(device)
    with autocast(device):
        hidden = prior.text_encoder(tokens.input_ids).last_hidden_state

    def clean(x, now):
        inputs = torch.cat([x, x]), now.to(device), hidden
        with autocast(device):
            noise = prior.unet(*inputs, **(control(*inputs) if control else {})).sample
        cond, uncond = noise.float().chunk(2)
        guided = uncond + scale * (cond - uncond)
        return ((x - (1 - abar[now]).sqrt() * guided) / abar[now].sqrt()).clamp(-FARTHEST, FARTHEST)

    noise = np.random.default_rng(seed).normal(size=(len(texts), LATENTS, *(side // FACTOR for side in size)))
    z = ddim(clean, torch.tensor(noise, dtype=torch.float32, device=device), abar, steps)
    with autocast(device):
        pictures = [prior.vae.decode(part / prior.vae.config.scaling_factor).sample for part in z.split(decoded)]
    return (torch.cat(pictures).float().clamp(-1, 1).permute(0, 2, 3, 1).cpu() + 1) / 2


def sheet(prior, path, *, scale: float = 4.0, steps: int = 30, seed: int = 0) -> None:
    """Write the contact sheet of `sampling.sheet`, at half the size of the pictures."""

    def drawn(texts):
        images = sample(prior, texts, scale=scale, steps=steps, seed=seed).permute(0, 3, 1, 2)
        return torch.nn.functional.avg_pool2d(images, 2).permute(0, 2, 3, 1)

    draw_sheet(drawn, path)
