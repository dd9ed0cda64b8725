"""The training of the embedded CLIP: `train-prior --kind clip`.

CLIP's cross-entropy, with all existing texts instead of those of a batch. Its pictures have the backgrounds and windows
of Dream Fields, as in guidance. Some batches are adversarial, moved to where the loss is largest within a small
distance (Madry et al. 2018): the gradients of a network trained so look like objects (Santurkar et al. 2019, "Image
Synthesis with a Single (Robust) Classifier"), other networks' like noise. A public CLIP gets some of this from its
hundreds of millions of pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...base.precision import autocast
from ...base.slots import sent
from ...config.schema import CameraConfig, ClipConfig
from ...guidance.clip_pictures import backgrounds, draw_windows, windows
from ...guidance.dual_encoder import DualEncoder
from ...scene.cameras import sample_cameras
from ...scene.lights import TEXTURELESS, sample_light_positions, sample_modes, shading_rows
from ..world.captions import subject
from ..world.shapes import CLASSES, COLORS, PARAMETERS
from ..world.tracer import shade, trace
from .cache import Shelves
from .clip_model import CLIP_PRIOR, SIZE, ClipPrior, build_clip, load_clip
from .loss import LIGHTS, TrainPriorConfig, random_colors
from .training import Kind

# A wider range than the prior's and the judge's: from below to above, near and far, off-centre.
CAMERAS = CameraConfig(
    elevation=(-10.0, 75.0),
    uniform_angle_probability=1.0,
    distance=(1.1, 1.75),
    focal=(0.8, 1.6),
    distance_per_focal=True,
    position_jitter=0.05,
    look_at_std=0.04,
    up_std=0.02,
)
BACKGROUNDS = ClipConfig(backgrounds=("noise", "checker", "fourier", "flat", "flat"), cells=(2, 10))
SHARE = (0.8, 1.0)  # of a picture's side, of the windows
LIGHT = 0.5  # of the backgrounds: light greys, on which white clay is hardest to see
TEMPLATES = ("{}", "a photo of {}", "a 3d model of {}", "a render of {}")
PLAIN_TEXT = 0.6  # of the batches: the toy alone
ATTACKED, DISTANCE = 0.25, 0.5  # of the batches; Euclidean, over the 3 x 64 x 64 numbers of a picture
CALM = 0.5  # fraction of the run, at its start, without attacks: what is not learnt yet cannot be attacked
MAX_SCALE = 50.0  # of the inner products
FILL = 60  # views of a class before the training begins; the others follow during it
OUTER = ("vision_model.embedder.embedder.convolution", "visual_projection", "text_projection")

ON_CPU = TrainPriorConfig(
    images=200_000,
    batch=64,
    learning_rate=1e-3,
    warmup_images=3000,
    ema_half_life=6_000,
    views_per_class=900,
    chunk=6,
    trace_every=2,
    save_every=180.0,
)
ON_GPU = replace(
    ON_CPU,
    images=6_000_000,
    batch=256,
    warmup_images=20_000,
    ema_half_life=100_000,
    views_per_class=4096,
    chunk=256,
    trace_every=32,
)


class ClipTask:
    """See `task.Task`."""

    name = ""
    outer: tuple[str, ...] = OUTER
    sheet: Callable[[Any, Path], None] | None = None

    def __init__(self, prior: ClipPrior, config: TrainPriorConfig):
        self.model, self.config, self.next = prior, config, 0
        self.encoder = prior.encoder()
        whole = [subject(name, color) for name in CLASSES for color in COLORS]
        captions = [*map(subject, CLASSES), *whole]
        self.ids = [caption_ids(self.encoder, [t.format(c) for c in captions]) for t in TEMPLATES]

    def modules(self, model: ClipPrior) -> list:
        return [model.model]

    def open(self, random: np.random.Generator, device: str) -> ClipTask:
        self.random, self.device = random, device
        self.shelves = Shelves(self.config.views_per_class, device, SIZE)
        return self

    def fill(self) -> None:
        for _ in range(len(CLASSES) * max(1, min(FILL, self.config.views_per_class) // self.config.chunk)):
            self.grow()

    def grow(self) -> None:
        """Trace one chunk of the next class."""
        index, self.next, n = self.next % len(CLASSES), self.next + 1, self.config.chunk
        cameras = sample_cameras(CAMERAS, n, self.random)
        u = sent(self.random.uniform(-1, 1, (n, PARAMETERS)), self.device, torch.float32)
        self.shelves.add(index, trace(CLASSES[index], u, cameras.to(self.device), SIZE), cameras)

    def batch(self, progress: float) -> tuple[Tensor, ...]:
        """pictures (n, 3, SIZE, SIZE) in [0, 1]; classes, colours (n,); textureless (n,) bool; ids (20 + 220, tokens)
        of all captions; the distance (1,) of an attack on the pictures, or (0,) for none."""
        n, random = self.config.batch, self.random
        classes, color = random.integers(len(CLASSES), size=n), random.integers(len(COLORS), size=n)
        modes = sample_modes(LIGHTS, n, 1.0, random)
        pictures = draw_pictures(self.shelves.draw(classes, random), color, modes, random)
        template = 0 if random.random() < PLAIN_TEXT else int(random.integers(1, len(TEMPLATES)))
        moved = np.full(int(random.random() < ATTACKED and progress >= CALM), DISTANCE, np.float32)
        rest = (classes, color, modes == TEXTURELESS, self.ids[template], moved)
        return pictures, *(sent(values, self.device) for values in rest)

    def loss(self, pictures: Tensor, classes: Tensor, color: Tensor, clay: Tensor, ids: Tensor, moved: Tensor):
        with autocast(pictures.device):
            texts = self.encoder.encode_tokens(ids, None)
        scale = self.model.model.logit_scale.exp().clamp(max=MAX_SCALE)
        if len(moved):
            x = pictures.clone().requires_grad_()
            error = retrieval_loss(self.encoder, x, texts.detach(), scale.detach(), classes, color, clay)
            pictures = (pictures + moved * direction(torch.autograd.grad(error, x)[0])).clamp(0, 1)
        return retrieval_loss(self.encoder, pictures, texts, scale, classes, color, clay)


def retrieval_loss(
    encoder: DualEncoder, pictures: Tensor, texts: Tensor, scale: Tensor, classes: Tensor, color: Tensor, clay: Tensor
) -> Tensor:
    """Cross-entropy of a picture's class among the classes and, unless it is textureless, of its caption among all."""
    with autocast(pictures.device):
        features = encoder.encode_images(pictures)
    named, whole = texts.float().split([len(CLASSES), len(texts) - len(CLASSES)])
    entropy = torch.nn.functional.cross_entropy
    colored = entropy(scale * features @ whole.T, classes * len(COLORS) + color, reduction="none") * ~clay
    return entropy(scale * features @ named.T, classes) + colored.sum() / (~clay).sum().clamp(min=1)


def direction(gradient: Tensor) -> Tensor:
    """(N, ...) of length 1 each."""
    return gradient / gradient.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)


def draw_pictures(views, color: np.ndarray, modes: np.ndarray, random: np.random.Generator) -> Tensor:
    """(n, 3, SIZE, SIZE) pictures in [0, 1] of views (`cache.TracedViews`): lights as in the paper, colours as for the
    prior, windows and backgrounds as in Dream Fields, and a little noise."""
    n, device = len(color), views.buffer.slot.device
    rows = sent(shading_rows(LIGHTS, sample_light_positions(LIGHTS, views.position, random), modes), device)
    behind = backgrounds(BACKGROUNDS, n, SIZE, random, device)
    light = sent(random.uniform(0.75, 1.0, (n, 1, 1, 1)), device, torch.float32)
    behind = torch.where(sent(random.random((n, 1, 1, 1)) < LIGHT, device), light, behind)
    picture = shade(views.buffer, sent(random_colors(color, random), device), rows, behind.permute(0, 2, 3, 1))
    cut = windows(picture, draw_windows(n, SHARE, random), SIZE)
    strength = sent(random.uniform(0, 0.06, (n, 1, 1, 1)), device, torch.float32)
    return (cut + strength * torch.randn_like(cut)).clamp(0, 1)


def caption_ids(encoder: DualEncoder, captions: list[str]) -> np.ndarray:
    """(M, longest) int64: CLIP's tokens, without the padding that all captions share. What follows a caption's end
    token has no effect: attention is causal, and the output is read at the end token."""
    ids = encoder.tokens(captions)[0]
    ends = (ids == encoder.tokenizer.eos_token_id).int().argmax(1)
    return ids[:, : int(ends.max()) + 1].cpu().numpy()


def check(folder: Path) -> None:
    """Raise for a folder that is no CLIP of toys."""
    if load_clip(folder).encoder().size != SIZE:
        raise ValueError(f"it does not see {SIZE} pixels")


def build_task(config: TrainPriorConfig, resume: Path | None, device: str) -> ClipTask:
    prior: Any = load_clip(resume) if resume else build_clip(config.seed)
    prior.model.to(device=device, memory_format=torch.channels_last).train()
    return ClipTask(prior, config)


CLIP = Kind(CLIP_PRIOR, ON_CPU, ON_GPU, build_task, check, mark="config.json")
