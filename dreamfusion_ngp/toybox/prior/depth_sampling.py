"""Pictures from the depth prior, by the sampler of the other priors: of single views, and of four sides in one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...base.precision import autocast
from ...config.prompts import MODE_WORDS, view_prompt
from ...guidance.depth import depth_picture, tiled
from ..world.captions import subject
from ..world.shapes import CLASSES, COLORS, PARAMETERS
from ..world.tracer import trace
from .autoencoder import FACTOR, LATENTS, SIDE
from .depth_views import depth_of
from .latent_sampling import FARTHEST
from .loss import tokenize
from .multiview_sampling import four_sides
from .sampling import ddim

SHEET_ELEVATION = 10.0  # degrees
SHEET_SIDE = 128  # pixels of a cell


@torch.no_grad()
def sample(
    prior, texts: list[str], depth: Tensor, *, scale: float = 4.0, steps: int = 30, seed: int = 0, batch: int = 8
) -> Tensor:
    """(B, H, W, 3) images in [0, 1] for the captions and pictures of depth (B, H, W) in [0, 1] (`depth_picture`), by
    DDIM with guidance uncond + scale (cond - uncond); both branches see the depth."""
    cuts = [slice(i, i + batch) for i in range(0, len(texts), batch)]
    return torch.cat([_sample_batch(prior, texts[c], depth[c], scale, steps, seed + c.start) for c in cuts])


def _sample_batch(prior, texts, depth, scale, steps, seed):
    latent, n = prior.latent, len(texts)
    device = next(prior.control.parameters()).device
    tokens = tokenize(latent.tokenizer, texts + [""] * n).to(device)
    abar = latent.scheduler.alphas_cumprod.to(device)
    condition = depth.to(device)[:, None].repeat(2, 3, 1, 1)
    with autocast(device):
        hidden = latent.text_encoder(tokens.input_ids).last_hidden_state

    def clean(x, now):
        both = torch.cat([x, x])
        with autocast(device):
            down, mid = prior.control(both, now.to(device), hidden, controlnet_cond=condition, return_dict=False)
            noise = latent.unet(
                both, now.to(device), hidden, down_block_additional_residuals=down, mid_block_additional_residual=mid
            ).sample
        cond, uncond = noise.float().chunk(2)
        guided = uncond + scale * (cond - uncond)
        return ((x - (1 - abar[now]).sqrt() * guided) / abar[now].sqrt()).clamp(-FARTHEST, FARTHEST)

    shape = (n, LATENTS, depth.shape[1] // FACTOR, depth.shape[2] // FACTOR)
    noise = np.random.default_rng(seed).normal(size=shape)
    z = ddim(clean, torch.tensor(noise, dtype=torch.float32, device=device), abar, steps)
    with autocast(device):
        pictures = [latent.vae.decode(part / latent.vae.config.scaling_factor).sample for part in z.split(1)]
    return (torch.cat(pictures).float().clamp(-1, 1).permute(0, 2, 3, 1).cpu() + 1) / 2


def true_depth(names: list[str], elevations: list[float], seed: int = 0) -> Tensor:
    """(n, 4, 256, 256) depth in world units, 0 where there is no surface: a toy of each class in `names`, in random
    proportions, from azimuths 0, 90, 180 and 270 degrees."""
    random, maps = np.random.default_rng([seed, 23]), []
    for name, elevation in zip(names, elevations, strict=True):
        cameras = four_sides([0.0], [elevation])
        u = torch.tensor(random.uniform(-1, 1, (1, PARAMETERS)).repeat(4, 0), dtype=torch.float32)
        maps.append(depth_of(trace(name, u, cameras, SIDE), cameras))
    return torch.stack(maps)


def sheet(prior, path, *, scale: float = 4.0, steps: int = 30, seed: int = 0) -> None:
    """Write a contact sheet, the format by its suffix: every class in the next colour of the list, the depth of a side
    and its picture, and the depth of four sides in one and theirs; in two columns of toys."""
    from PIL import Image

    names = list(COLORS)
    depth = true_depth(list(CLASSES), [SHEET_ELEVATION] * len(CLASSES), seed)
    toys = [subject(c, names[i * 5 % len(names)]) for i, c in enumerate(CLASSES)]
    one, four = depth[:, 1], tiled(depth.flatten(0, 1))
    cells = []
    for metric, view in ((one, "az90 el15"), (four, "")):
        condition = depth_picture(metric, metric > 0)
        texts = [view_prompt(toy, view, MODE_WORDS[0]) for toy in toys]
        images = sample(prior, texts, condition, scale=scale, steps=steps, seed=seed)
        for pictures in (condition[..., None].expand(-1, -1, -1, 3), images):
            side = pictures.shape[1] // SHEET_SIDE
            small = torch.nn.functional.avg_pool2d(pictures.permute(0, 3, 1, 2), side)
            cells.append(small.permute(0, 2, 3, 1))
    rows = torch.cat(cells, 2)
    half = -(-len(rows) // 2)
    rows = torch.cat([rows, rows.new_ones(2 * half - len(rows), *rows.shape[1:])])
    grid = torch.cat([rows[:half].flatten(0, 1), rows[half:].flatten(0, 1)], 1)
    pixels = (grid.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(pixels).save(path, optimize=True, quality=88)
