"""Four views of one toy from the multi-view prior, by the sampler of the pixel prior."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...base.precision import autocast
from ...config.presets import FRAMED_CAMERAS
from ...guidance.multiview import VIEWS, camera_numbers
from ...guidance.packing import pack, unpack
from ...scene.cameras import Cameras, orbit
from ..world.captions import subject
from ..world.shapes import CLASSES, COLORS
from .loss import tokenize
from .sampling import ddim

SHEET_ELEVATIONS = (15.0, 45.0)  # degrees, in turn
FOCAL = float(np.mean(FRAMED_CAMERAS.focal))  # of sampled views; the distance is the mean, too


def four_sides(azimuths: Sequence[float], elevations: Sequence[float]) -> Cameras:
    """VIEWS adjacent cameras for each of n objects: the first at its azimuth, each other a quarter turn further
    (degrees)."""
    around = np.asarray(azimuths, float)[:, None] + np.arange(VIEWS) * 360 / VIEWS
    return orbit(around.ravel(), np.repeat(elevations, VIEWS), FOCAL * np.mean(FRAMED_CAMERAS.distance), FOCAL)


@torch.no_grad()
def sample(
    prior,
    texts: list[str],
    azimuths: Sequence[float],
    elevations: Sequence[float],
    *,
    scale: float = 4.0,
    steps: int = 30,
    seed: int = 0,
    batch: int = 10,
) -> Tensor:
    """(n, VIEWS, 64, 64, 3) pictures in [0, 1]: the sides (`four_sides`) of an object for each of n captions, by DDIM
    with guidance uncond + scale (cond - uncond)."""
    out = []
    for i in range(0, len(texts), batch):
        part = slice(i, i + batch)
        cameras = four_sides(azimuths[part], elevations[part])
        out.append(_sample_batch(prior, texts[part], camera_numbers(cameras), scale, steps, seed + i))
    return torch.cat(out).unflatten(0, (-1, VIEWS))


def _sample_batch(prior, texts: list[str], cameras: Tensor, scale: float, steps: int, seed: int) -> Tensor:
    device = next(prior.unet.parameters()).device
    n = len(cameras)
    tokens = tokenize(prior.tokenizer, [text for text in texts for _ in range(VIEWS)] + [""] * n).to(device)
    abar, cameras = prior.scheduler.alphas_cumprod.to(device), cameras.repeat(2, 1).to(device)
    noise = np.random.default_rng(seed).normal(size=(n, 3, 64, 64))
    with autocast(device):
        hidden = prior.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state

    def clean(x, now):
        with autocast(device):
            packed, mask = pack(torch.cat([x, x]), prior.unet.config.in_channels), tokens.attention_mask
            output = prior.unet(packed, now.to(device), hidden, cameras, encoder_attention_mask=mask).sample
        cond, uncond = unpack(output.float()).chunk(2)
        return (uncond + scale * (cond - uncond)).clamp(-1, 1)

    x = torch.tensor(noise, dtype=torch.float32, device=device)
    return (ddim(clean, x, abar, steps).permute(0, 2, 3, 1).cpu() + 1) / 2


def sheet(prior, path, *, scale: float = 4.0, steps: int = 30, seed: int = 0) -> None:
    """Write a contact sheet, the format by its suffix: every class in the next colour of the list, a row of four sides
    each, in two columns of objects."""
    from PIL import Image

    names = list(COLORS)
    texts = [f"{subject(c, names[i * 5 % len(names)])}, flat colors" for i, c in enumerate(CLASSES)]
    elevations = [SHEET_ELEVATIONS[i % len(SHEET_ELEVATIONS)] for i in range(len(texts))]
    images = sample(prior, texts, [0.0] * len(texts), elevations, scale=scale, steps=steps, seed=seed)
    rows = images.movedim(1, 2).flatten(2, 3)  # (n, 64, VIEWS * 64, 3)
    half = -(-len(rows) // 2)
    rows = torch.cat([rows, rows.new_ones(2 * half - len(rows), *rows.shape[1:])])
    grid = torch.cat([rows[:half].flatten(0, 1), rows[half:].flatten(0, 1)], 1)
    pixels = (grid.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(pixels).save(path, optimize=True, quality=88)
