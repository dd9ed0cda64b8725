"""How many of the depth prior's samples fit their captions, by the embedded judge, and their depth, by silhouettes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..config.prompts import MODE_WORDS, view_prompt
from ..guidance.depth import depth_picture, tiled, untiled
from ..guidance.multiview import VIEWS
from ..toybox.prior.depth_sampling import sample, true_depth
from ..toybox.world.captions import subject
from ..toybox.world.shapes import CLASSES, COLORS
from .backdrop import foreground
from .judge import SIZE, Judge, load_judge
from .prior import Request, judge_pictures

ELEVATIONS = (0, 30)  # degrees, in turn


def judge_depth_prior(
    prior,
    judge: Judge | None = None,
    *,
    samples: int = len(CLASSES),
    scale: float = 4.0,
    steps: int = 20,
    seed: int = 0,
) -> dict:
    """Shares in [0, 1] of `samples` toys, all classes in turn, drawn by DDIM as four sides in one picture, and of one
    side each alone. class, color: of the pictures, as in `prior.summary`. overlap: of the silhouettes with those of the
    depth, intersection over union. colors: the mean difference of the mean colour of a toy between sides of a tile, in
    one channel. judge: the embedded one by default. Raises CheckpointError where there is none."""
    judge, names = judge or load_judge(), list(COLORS)
    requests = [
        Request(
            CLASSES[i % len(CLASSES)], names[(i // len(CLASSES) + i * 5) % len(names)], 90 * (i % 4), ELEVATIONS[i % 2]
        )
        for i in range(samples)
    ]
    depth = true_depth([one.name for one in requests], [float(one.elevation) for one in requests], seed)
    alone = depth[torch.arange(samples), torch.arange(samples) % 4]
    settings = {"scale": scale, "steps": steps, "seed": seed}
    figures = {}
    for kind, maps, count in (("single", alone, 1), ("tile", tiled(depth.flatten(0, 1)), VIEWS)):
        texts = [
            one.text if count == 1 else view_prompt(subject(one.name, one.color), "", MODE_WORDS[0]) for one in requests
        ]
        pictures = sample(prior, texts, depth_picture(maps, maps > 0), **settings)
        views = pictures if count == 1 else untiled(pictures)
        truth = (maps if count == 1 else untiled(maps)) > 0
        figures[kind] = scores(judge, views, truth, [one for one in requests for _ in range(count)])
        if count > 1:
            figures[kind]["colors"] = disagreement(views, truth)
    return {"samples": samples, **figures, **settings}


def scores(judge: Judge, views: Tensor, truth: Tensor, requests: list[Request]) -> dict:
    """class, color and overlap of pictures (n, H, W, 3) with silhouettes (n, H, W)."""
    records = judge_pictures(judge, views, requests)
    shares = {key: round(float(np.mean([record[key] for record in records])), 4) for key in ("class", "color")}
    return shares | {"overlap": round(float(overlap(views, truth).mean()), 4)}


def overlap(views: Tensor, truth: Tensor) -> Tensor:
    """(n,) intersection over union of the foreground of pictures (n, H, W, 3), by its contrast, with silhouettes
    (n, H, W) bool, at the judge's size."""
    small = torch.nn.functional.interpolate(views.permute(0, 3, 1, 2), size=SIZE, mode="area").permute(0, 2, 3, 1)
    target = torch.nn.functional.interpolate(truth[:, None].float(), size=SIZE, mode="area")[:, 0] >= 0.5
    mask = foreground(small)
    return (mask & target).sum((1, 2)) / (mask | target).sum((1, 2)).clamp(min=1)


def disagreement(views: Tensor, truth: Tensor) -> float:
    """Mean difference, per channel, between the mean colours of two of the four sides of a toy. views: (4 n, H, W,
    3)."""
    weight = truth[..., None].float()
    mean = ((views * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)).unflatten(0, (-1, VIEWS))
    pairs = (mean[:, :, None] - mean[:, None]).abs().mean(-1)
    return round(float(pairs.sum((1, 2)).mean()) / (VIEWS * (VIEWS - 1)), 4)
