"""The training of the multi-view prior, toybox-mv, on four sides of one toy at once and, in between, single pictures.

Where noise hides everything the optimal prediction is the mean of all pictures that fit text and camera. The pixel
prior has learnt it for view words: there it is the teacher, whose predictions have no sampling noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...base.slots import sent
from ...config.presets import FRAMED_CAMERAS
from ...config.prompts import MODE_WORDS, degree_view, view_prompt
from ...guidance.multiview import CAMERA, VIEWS, attend_jointly, camera_numbers, each_alone
from ...scene.cameras import around, orbit, sample_cameras
from ...scene.lights import sample_light_positions, sample_modes, shading_rows
from ..world.captions import caption
from ..world.shapes import CLASSES, COLORS, PARAMETERS
from ..world.tracer import shade, trace
from .cache import Shelves, TracedViews
from .loss import (
    BLIND,
    CLASS_WEIGHTS,
    GPU,
    LIGHTS,
    TrainPriorConfig,
    backgrounds,
    caption_ids,
    denoising_loss,
    predict,
    random_colors,
    sample_noise_levels,
    training_batch,
    with_noise,
)
from .means import MeanPictures
from .model import Prior, load_prior
from .multiview_model import MULTIVIEW_PRIOR, MultiviewPrior, load_multiview_prior, start_multiview_prior
from .multiview_sampling import sheet
from .optimizer import OUTER
from .pixels import prepare_for_training
from .training import Kind

SINGLE_SHARE = 0.3  # of the batches: pictures without cameras, with view words, each alone (MVDream's share)
HIDDEN_SHARE = (0.6, 0.3)  # of the rings, from BLIND on: in the text phase and after it
RING_CAMERAS = replace(FRAMED_CAMERAS, stratified_azimuth=False, position_jitter=0.0, up_std=0.0, ring=VIEWS)
FILL = 80  # views of a class before the training begins; the others follow during it

ON_CPU = TrainPriorConfig(
    images=400_000,
    batch=24,
    learning_rate=6e-4,
    warmup_images=1500,
    ema_half_life=8_000,
    views_per_class=960,
    chunk=8,
    trace_every=4,
)
ON_GPU = replace(GPU, images=4_000_000, learning_rate=8e-4, ema_half_life=200_000)


class Rings:
    """As `loss.Reservoir`, without means, for groups of VIEWS views: one toy, one lens, distance and elevation, a
    quarter turn apart, no jitter."""

    means: MeanPictures | None = None

    def __init__(self, config: TrainPriorConfig, random: np.random.Generator, device: str | torch.device = "cpu"):
        self.config, self.random, self.device = config, random, device
        self.shelves, self.next = Shelves(config.views_per_class, device), 0

    def fill(self) -> None:
        for _ in range(len(CLASSES) * max(1, min(FILL, self.config.views_per_class) // self.config.chunk)):
            self.grow()

    def grow(self) -> None:
        """Trace one chunk of the next class."""
        index, n = self.next % len(CLASSES), self.config.chunk // VIEWS
        self.next += 1
        cameras = sample_cameras(RING_CAMERAS, n * VIEWS, self.random)
        u = sent(self.random.uniform(-1, 1, (n, PARAMETERS)).repeat(VIEWS, 0), self.device, torch.float32)
        self.shelves.add(index, trace(CLASSES[index], u, cameras.to(self.device)), cameras)

    def draw_classes(self, n: int) -> np.ndarray:
        """(n,) class indices among those that have views."""
        weights = CLASS_WEIGHTS * (self.shelves.added > 0)
        return self.random.choice(len(CLASSES), size=n, p=weights / weights.sum())


@dataclass(frozen=True)
class Batch:
    """n rings. images: (n VIEWS, 3, 64, 64) in [-1, 1], those of a toy adjacent.  cameras: (n VIEWS, 16).  texts: n
    captions without view words.  steps: (n,) timesteps; those of the first k rings are at or above BLIND.  views: the k
    VIEWS captions with view words of these."""

    images: Tensor
    cameras: Tensor
    texts: list[str]
    steps: np.ndarray
    views: list[str]


def ring_batch(rings: Rings, n: int, random: np.random.Generator, hidden: float) -> Batch:
    """n rings of views. hidden: share of the rings that noise hides."""
    k, names = round(hidden * n), list(COLORS)
    hide = BLIND + (1000 - BLIND) * (np.arange(k) + random.random(k)) / max(k, 1)
    steps = np.concatenate([hide.astype(np.int64), sample_noise_levels(n - k, random, 0.0)])
    classes = rings.draw_classes(n)
    views = rings.shelves.draw_rings(classes, VIEWS, random)
    color, modes = random.integers(len(names), size=n), sample_modes(LIGHTS, n, 1.0, random)
    images = shade_rings(views, color, modes, random).permute(0, 3, 1, 2) * 2 - 1
    cameras = camera_numbers(orbit(*np.rad2deg([views.azimuth, views.elevation]), distance=1.0, focal=1.0))
    texts = [
        caption(CLASSES[c], names[k], 0.0, 0.0, mode, random, views=False)
        for c, k, mode in zip(classes.tolist(), color.tolist(), modes.tolist(), strict=True)
    ]
    angles = zip(views.azimuth[: k * VIEWS], views.elevation[: k * VIEWS], strict=True)
    return Batch(images, cameras, texts, steps, [with_view(texts[i // VIEWS], *at) for i, at in enumerate(angles)])


def with_view(text: str, azimuth: float, elevation: float) -> str:
    """A caption with the words of a view in degrees, inserted before those of the shading mode."""
    toy, _, mode = text.rpartition(", ") if text.endswith(MODE_WORDS) else (text, "", "")
    return view_prompt(toy, degree_view(azimuth, elevation), mode)


def shade_rings(views: TracedViews, color: np.ndarray, modes: np.ndarray, random: np.random.Generator) -> Tensor:
    """(n VIEWS, H, W, 3) pictures in [0, 1]: the views of a ring share the background and the colours of parts, and
    their lamp turns with the camera. color, modes: (n,)."""
    n, device = len(color), views.buffer.slot.device
    colors = sent(random_colors(color, random).repeat_interleave(VIEWS, 0), device)
    light = around(sample_light_positions(LIGHTS, views.position[::VIEWS], random), VIEWS)
    rows = sent(shading_rows(LIGHTS, light, modes.repeat(VIEWS)), device)
    behind = backgrounds(n, views.buffer.slot.shape[-1], random, device).repeat_interleave(VIEWS, 0)
    return shade(views.buffer, colors, rows, behind)


class MultiviewTask:
    """See `task.Task`. teacher: the pixel prior."""

    name, outer = "", OUTER

    def __init__(self, prior: MultiviewPrior, teacher: Prior, config: TrainPriorConfig):
        self.model, self.teacher, self.config = prior, teacher, config
        self.sheet: Callable[[Any, Path], None] | None = partial(sheet, steps=config.sheet_steps)

    def modules(self, model: MultiviewPrior) -> list:
        return [model.unet, model.text_encoder]

    def open(self, random: np.random.Generator, device: str) -> Rings:
        self.random, self.rings = random, Rings(self.config, random, device)
        return self.rings

    def batch(self, progress: float) -> tuple[Tensor, ...]:
        """images (n, 3, 64, 64), ids (n, MAX_TOKENS), steps (n,), cameras (n, 16) and ids of the captions with view
        words of the first of them; the last two empty for single pictures."""
        n, tokenizer = self.config.batch, self.model.tokenizer
        if self.random.random() < SINGLE_SHARE:
            image, texts, steps = training_batch(self.rings, n, self.random, 0.0)
            ids, cameras, views = caption_ids(tokenizer, texts), torch.empty(0, CAMERA), []
        else:
            hidden = HIDDEN_SHARE[progress >= self.config.text_phase]
            rings = ring_batch(self.rings, n // VIEWS, self.random, hidden)
            image, cameras, views = rings.images, rings.cameras, rings.views
            ids, steps = caption_ids(tokenizer, rings.texts).repeat(VIEWS, 0), rings.steps.repeat(VIEWS)
        rest = (ids, steps, cameras, caption_ids(tokenizer, views))
        return image, *(sent(values, image.device) for values in rest)

    def loss(self, image: Tensor, ids: Tensor, steps: Tensor, cameras: Tensor, views: Tensor) -> Tensor:
        if not len(cameras):
            with each_alone(self.model.unet):
                return denoising_loss(self.model, image, ids, steps)
        return ring_loss(self.model, self.teacher, image, ids, steps, cameras, views)


def ring_loss(
    prior: MultiviewPrior, teacher: Prior, image: Tensor, ids: Tensor, steps: Tensor, cameras: Tensor, views: Tensor
) -> Tensor:
    """`loss.denoising_loss` of rings of views; the targets of the first ones are the teacher's predictions for their
    view words. See `MultiviewTask.batch`."""
    noisy, weight = with_noise(prior, image, steps)
    k = len(views)
    with torch.no_grad():
        targets = predict(teacher, noisy[:k], views, steps[:k])
    error = predict(prior, noisy, ids, steps, class_labels=cameras) - torch.cat([targets, image[k:]])
    return (weight * error.square()).mean()


def check(folder: Path) -> None:
    """Raise for a folder that is no multi-view prior."""
    if load_prior(folder).unet.config.class_embed_type != "projection":
        raise ValueError("its UNet knows no cameras")


def build_task(config: TrainPriorConfig, resume: Path | None, device: str) -> MultiviewTask:
    """The task that resumes the prior in `resume`, or starts from the shipped pixel prior."""
    from diffusers.models.attention_processor import AttnProcessor

    prior = load_multiview_prior(resume) if resume else start_multiview_prior(load_prior(), config.seed)
    prepare_for_training(prior, device)
    attend_jointly(prior.unet, AttnProcessor())
    teacher = load_prior()
    prepare_for_training(teacher, device)
    for part in (teacher.unet, teacher.text_encoder):
        part.eval().requires_grad_(False)
    return MultiviewTask(prior, teacher, config)


MULTIVIEW = Kind(MULTIVIEW_PRIOR, ON_CPU, ON_GPU, build_task, check, views=VIEWS)
