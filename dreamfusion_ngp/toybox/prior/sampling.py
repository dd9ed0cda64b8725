"""Pictures from the prior: a deterministic DDIM sampler with classifier-free guidance, and the contact sheet."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
    out = [sample_batch(prior, texts[i : i + batch], scale, steps, seed + i) for i in range(0, len(texts), batch)]
    return torch.cat(out)


def sample_batch(
    prior, texts: list[str], scale: float, steps: int, seed: int, cameras: torch.Tensor | None = None
) -> torch.Tensor:
    """As `sample`, at once. cameras: (B, 16), of a multi-view prior (`camera_numbers`)."""
    device = next(prior.unet.parameters()).device
    tokens = tokenize(prior.tokenizer, texts + [""] * len(texts)).to(device)
    abar, mask = prior.scheduler.alphas_cumprod.to(device), tokens.attention_mask
    labels = None if cameras is None else cameras.repeat(2, 1).to(device)
    noise = np.random.default_rng(seed).normal(size=(len(texts), 3, 64, 64))
    x = torch.tensor(noise, dtype=torch.float32, device=device)
    with autocast(device):
        hidden = prior.text_encoder(tokens.input_ids, attention_mask=mask).last_hidden_state

    def clean(x, now):
        with autocast(device):
            packed = pack(torch.cat([x, x]), prior.unet.config.in_channels)
            output = prior.unet(packed, now.to(device), hidden, labels, encoder_attention_mask=mask).sample
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


def sheet(prior, path, *, scale: float = 4.0, steps: int = 30, seed: int = 0) -> None:
    """Write a contact sheet of the prior's pictures; see `draw_sheet`."""
    draw_sheet(lambda texts: sample(prior, texts, scale=scale, steps=steps, seed=seed), path)


def draw_sheet(draw: Callable[[list[str]], torch.Tensor], path) -> None:
    """Write a contact sheet, the format by its suffix: a row for every class, one column per view, the last column an
    untextured ("clay") one. draw: captions -> (n, H, H, 3) pictures in [0, 1]."""
    texts = [view_prompt(toy, view) for toy in colored(CLASSES) for view in SHEET_VIEWS]
    images = draw(texts + [view_prompt(subject(name), CLAY_VIEW, "clay") for name in CLASSES])
    views, clay = images[: len(texts)].unflatten(0, (len(CLASSES), -1)), images[len(texts) :, None]
    save_sheet(torch.cat([views, clay], 1).movedim(1, 2).flatten(2, 3), path)


def colored(classes: Iterable[str]) -> list[str]:
    """The toys of these classes, each in another colour than those before and after it."""
    names = list(COLORS)
    return [subject(name, names[i * 5 % len(names)]) for i, name in enumerate(classes)]


def save_sheet(rows: torch.Tensor, path) -> None:
    """Write rows (n, H, W, 3) of pictures in [0, 1] below one another, in two columns."""
    from PIL import Image

    half = -(-len(rows) // 2)
    rows = torch.cat([rows, rows.new_ones(2 * half - len(rows), *rows.shape[1:])])
    grid = torch.cat([rows[:half].flatten(0, 1), rows[half:].flatten(0, 1)], 1)
    pixels = (grid.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(pixels).save(path, optimize=True, quality=88)
