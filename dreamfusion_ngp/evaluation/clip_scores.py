"""CLIP's scores of pictures besides R-Precision: the CLIP score (Hessel et al. 2021), CLIP-IQA (Wang et al., AAAI
2023); and which runs have diverged."""

from __future__ import annotations

import torch

from .clip import ClipRetrieval
from .pictures import Pictures

# CLIP-IQA: softmax share of the first of two texts; pairs as in comparisons of text-to-3D (Lukoianov et al. 2024).
PAIRS = {
    "quality": ("Good photo.", "Bad photo."),
    "sharpness": ("Sharp photo.", "Blurry photo."),
    "real": ("Real photo.", "Abstract photo."),
}
EMPTY, FULL = 0.005, 0.9  # mean opacity of the views below and above which a run has diverged; toys cover a tenth


def clip_figures(clip: ClipRetrieval, pictures: Pictures, prompt: str) -> dict[str, float]:
    """Means over the lit views. clip_score: 100 cosine with the prompt. iqa_*: 0 to 1."""
    features = clip.images(pictures.lit)
    figures = {"clip_score": 100 * float((features @ clip.texts([prompt])[0]).mean())}
    scale = float(clip.encoder.model.logit_scale.exp())
    for name, pair in PAIRS.items():
        figures[f"iqa_{name}"] = float((scale * features @ clip.texts(list(pair)).T).softmax(1)[:, 0].mean())
    return figures


def diverged(pictures: Pictures | None) -> bool:
    """Whether a run has no result, or an empty or a full scene."""
    if pictures is None or not torch.isfinite(pictures.opacity).all():
        return True
    return not EMPTY <= float(pictures.opacity.mean()) <= FULL
