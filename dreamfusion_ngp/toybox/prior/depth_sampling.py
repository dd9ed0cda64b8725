"""Pictures from the depth prior, by the sampler of the other priors: of single views, and of four sides in one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...config.prompts import MODE_WORDS, view_prompt
from ...guidance.depth import depth_picture, tiled
from ..world.shapes import CLASSES, PARAMETERS
from ..world.tracer import trace
from .autoencoder import SIDE
from .depth_views import depth_of
from .latent_sampling import sample_batch
from .multiview_sampling import four_sides
from .sampling import colored, save_sheet

SHEET_ELEVATION = 10.0  # degrees
SHEET_SIDE = 128  # pixels of a cell


@torch.no_grad()
def sample(
    prior, texts: list[str], depth: Tensor, *, scale: float = 4.0, steps: int = 30, seed: int = 0, batch: int = 8
) -> Tensor:
    """(B, H, W, 3) images in [0, 1] for the captions and pictures of depth (B, H, W) in [0, 1] (`depth_picture`), by
    DDIM with guidance uncond + scale (cond - uncond); both branches see the depth."""
    cuts = [slice(i, i + batch) for i in range(0, len(texts), batch)]
    return torch.cat([depicted(prior, texts[c], depth[c], scale, steps, seed + c.start) for c in cuts])


def depicted(prior, texts: list[str], depth: Tensor, scale: float, steps: int, seed: int) -> Tensor:
    """As `sample`, at once."""
    condition = depth.to(next(prior.control.parameters()).device)[:, None].repeat(2, 3, 1, 1)

    def control(noisy, now, hidden):
        down, mid = prior.control(noisy, now, hidden, controlnet_cond=condition, return_dict=False)
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}

    height, width = depth.shape[1:]
    return sample_batch(prior.latent, texts, (height, width), scale, steps, seed, 1, control)


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
    depth = true_depth(list(CLASSES), [SHEET_ELEVATION] * len(CLASSES), seed)
    one, four = depth[:, 1], tiled(depth.flatten(0, 1))
    cells = []
    for metric, view in ((one, "az90 el15"), (four, "")):
        condition = depth_picture(metric, metric > 0)
        texts = [view_prompt(toy, view, MODE_WORDS[0]) for toy in colored(CLASSES)]
        images = sample(prior, texts, condition, scale=scale, steps=steps, seed=seed)
        for pictures in (condition[..., None].expand(-1, -1, -1, 3), images):
            side = pictures.shape[1] // SHEET_SIDE
            small = torch.nn.functional.avg_pool2d(pictures.permute(0, 3, 1, 2), side)
            cells.append(small.permute(0, 2, 3, 1))
    save_sheet(torch.cat(cells, 2), path)
