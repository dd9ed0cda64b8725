"""Pictures from the prior: a deterministic DDIM sampler with classifier-free guidance, and the contact sheet."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch

from ...base.precision import autocast
from ...config.prompts import view_prompt
from ...guidance.packing import pack, unpack
from ..world.captions import subject
from ..world.shapes import CLASSES, COLORS
from .loss import tokenize

SHEET_VIEWS = ("az0 el15", "az90 el15", "az180 el15", "az270 el15", "az45 el45", "az0 el75")
CLAY_VIEW = "az315 el15"


@torch.no_grad()
def sample(
    prior, texts: list[str], *, scale: float = 4.0, steps: int = 30, seed: int = 0, batch: int = 40
) -> torch.Tensor:
    """(B, 64, 64, 3) images in [0, 1] for the captions, by DDIM with guidance uncond + scale (cond - uncond)."""
    out = [_sample_batch(prior, texts[i : i + batch], scale, steps, seed + i) for i in range(0, len(texts), batch)]
    return torch.cat(out)


def _sample_batch(prior, texts, scale, steps, seed):
    device = next(prior.unet.parameters()).device
    n = len(texts)
    tokens = tokenize(prior.tokenizer, texts + [""] * n).to(device)
    abar = prior.scheduler.alphas_cumprod.to(device)
    noise = np.random.default_rng(seed).normal(size=(n, 3, 64, 64))
    x = torch.tensor(noise, dtype=torch.float32, device=device)
    with autocast(device):
        hidden = prior.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state

    def clean(x, now):
        with autocast(device):
            packed = pack(torch.cat([x, x]), prior.unet.config.in_channels)
            output = prior.unet(packed, now.to(device), hidden, encoder_attention_mask=tokens.attention_mask).sample
        cond, uncond = unpack(output.float()).chunk(2)
        return (uncond + scale * (cond - uncond)).clamp(-1, 1)

    return (ddim(clean, x, abar, steps).permute(0, 2, 3, 1).cpu() + 1) / 2


def ddim(clean: Callable, x: torch.Tensor, abar: torch.Tensor, steps: int) -> torch.Tensor:
    """Sample from noise x by DDIM (Song et al. 2021) in `steps` steps. clean: (noisy, timestep) -> the predicted clean
    picture.  abar: (T,) on the device of x."""
    for now, then in pairwise(torch.linspace(len(abar) - 10, 0, steps + 1).round().long()):
        x0 = clean(x, now)
        eps = (x - abar[now].sqrt() * x0) / (1 - abar[now]).sqrt()
        x = abar[then].sqrt() * x0 + (1 - abar[then]).sqrt() * eps
    return x0


def sheet(prior, path, *, scale: float = 4.0, steps: int = 30, colors_per_class: int = 1, seed: int = 0) -> None:
    """Write a contact sheet of the prior's pictures; see `draw_sheet`."""
    draw_sheet(lambda texts: sample(prior, texts, scale=scale, steps=steps, seed=seed), path, colors_per_class)


def draw_sheet(draw: Callable[[list[str]], torch.Tensor], path, colors_per_class: int = 1) -> None:
    """Write a contact sheet, the format by its suffix: every class in the next colour of the list, one row per class
    and colour, one column per view, the last column an untextured ("clay") one. draw: captions -> (n, H, H, 3) pictures
    in [0, 1]."""
    from PIL import Image

    names = list(COLORS)
    rows = [(c, names[(i * 5 + k * 3) % len(names)]) for k in range(colors_per_class) for i, c in enumerate(CLASSES)]
    texts = [view_prompt(subject(c, color), view) for c, color in rows for view in SHEET_VIEWS]
    clay = [view_prompt(subject(c), CLAY_VIEW, "clay") for c, _ in rows]
    images = draw(texts + clay)
    side = images.shape[1]
    grid = images[: len(texts)].view(len(rows), len(SHEET_VIEWS), side, side, 3)
    grid = torch.cat([grid, images[len(texts) :].view(len(rows), 1, side, side, 3)], 1)
    strips = torch.cat([torch.cat(list(row), 1) for row in grid]).view(len(rows), side, -1, 3)
    columns = 2 if len(rows) > 12 else 1
    half = -(-len(rows) // columns)
    blocks = [torch.cat(list(strips[i : i + half])) for i in range(0, len(rows), half)]
    tall = max(b.shape[0] for b in blocks)
    blocks = [torch.cat([b, torch.ones(tall - b.shape[0], *b.shape[1:])]) for b in blocks]
    pixels = (torch.cat(blocks, 1).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(pixels).save(path, optimize=True, quality=88)
