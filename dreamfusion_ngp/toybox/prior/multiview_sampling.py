"""Four views of one toy from the multi-view prior, by the sampler of the pixel prior."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...config.presets import FRAMED_CAMERAS
from ...guidance.multiview import VIEWS, camera_numbers
from ...scene.cameras import Cameras, orbit
from ..world.shapes import CLASSES
from .sampling import colored, sample_batch, save_sheet

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
        captions = [text for text in texts[part] for _ in range(VIEWS)]
        out.append(sample_batch(prior, captions, scale, steps, seed + i, camera_numbers(cameras)))
    return torch.cat(out).unflatten(0, (-1, VIEWS))


def sheet(prior, path, *, scale: float = 4.0, steps: int = 30, seed: int = 0) -> None:
    """Write a contact sheet, the format by its suffix: every class in the next colour of the list, a row of four sides
    each, in two columns of objects."""
    texts = [f"{toy}, flat colors" for toy in colored(CLASSES)]
    elevations = [SHEET_ELEVATIONS[i % len(SHEET_ELEVATIONS)] for i in range(len(texts))]
    images = sample(prior, texts, [0.0] * len(texts), elevations, scale=scale, steps=steps, seed=seed)
    save_sheet(images.movedim(1, 2).flatten(2, 3), path)
