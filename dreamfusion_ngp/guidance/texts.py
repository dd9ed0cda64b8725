"""What a UNet is told about each view: its branches of texts, as rows of a table of embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..config.prompts import MODE_WORDS, ViewText, view_prompt, view_text
from ..config.schema import GuidanceConfig
from ..scene.views import Views


@dataclass(frozen=True)
class Branches:
    """K branches of B views: the unconditional, the conditional, then texts to steer away from.

    texts: (K, B, 2) array of strings, two texts whose embeddings are mixed share : 1 - share.  share: (K, B) float32.
    weights: (K - 2, B) float32, of the texts to steer away from.
    """

    texts: np.ndarray
    share: Tensor
    weights: Tensor

    def part(self, views: slice) -> Branches:
        return Branches(self.texts[:, views], self.share[:, views], self.weights[:, views])


def branches(config: GuidanceConfig, prompt: str, views: Views) -> Branches:
    """The branches of `views`. The unconditional text is the negative prompt, with `keep_view` with the view words."""
    angles = zip(views.cameras.azimuth.tolist(), views.cameras.elevation.tolist(), strict=True)
    seen = [view_text(config.view_words, config.view_blend, *angle) for angle in angles]
    modes = [MODE_WORDS[m] if config.mode_words else "" for m in views.modes]
    rows = [
        [_unconditional(config, view) for view in seen],
        [_said(prompt, view, mode) for view, mode in zip(seen, modes, strict=True)],
    ]
    rows += [
        [2 * (view_prompt(prompt, view.against[i][0], mode),) for view, mode in zip(seen, modes, strict=True)]
        for i in range(len(seen[0].against))
    ]
    share = torch.ones(len(rows), len(seen))
    share[1] = torch.tensor([view.share for view in seen])
    if config.keep_view:
        share[0] = share[1]
    weights = torch.tensor([[weight for _, weight in view.against] for view in seen]).reshape(len(seen), -1).T
    return Branches(np.array(rows), share, weights)


def _said(prompt: str, view: ViewText, mode: str) -> tuple[str, str]:
    return view_prompt(prompt, view.start, mode), view_prompt(prompt, view.end, mode)


def _unconditional(config: GuidanceConfig, view: ViewText) -> tuple[str, str]:
    return _said(config.negative, view, "") if config.keep_view else (config.negative, config.negative)
