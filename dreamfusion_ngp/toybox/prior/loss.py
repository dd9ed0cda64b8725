"""Training of the embedded prior: `dreamfusion-ngp train-prior`.

Denoising-diffusion training (prediction of the clean picture) on pictures of toys. Every process keeps a reservoir of
G-buffers that grows and turns over while it trains, and shades each batch afresh, on the device it trains on. Several
one-thread processes with averaged gradients are faster on a CPU than one process with several threads. Resumes from a
saved folder alone: the optimiser's state is rebuilt by a short warm-up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from ...base.precision import autocast
from ...base.slots import sent
from ...config.presets import FRAMED_CAMERAS
from ...config.schema import CameraConfig, LightConfig
from ...guidance.packing import pack, unpack
from ...scene.cameras import sample_cameras
from ...scene.lights import sample_light_positions, sample_modes, shading_rows
from ..world.captions import caption
from ..world.shapes import CLASSES, COLORS, MAIN, PARAMETERS, SHADE
from ..world.tracer import part_colors, shade, trace
from .cache import Shelves
from .means import MeanPictures, pictures
from .model import MAX_TOKENS, Prior, embed_words

PAPER_CAMERA_SHARE = 0.2  # the rest has constant framing, what preset `fast` uses
REPAINT_PROBABILITY = 0.35  # of a secondary part, to a random colour
COLOR_JITTER = 0.04  # standard deviation per channel
HIGH_NOISE_POWER = 0.65  # t = u^power: more high noise, where shape and view are decided
TEXT_SHARE, TEXT_FROM = 0.55, 0.85  # of the pictures, at t above this, where little but the text determines them
BLIND = 980  # timesteps from here on show nothing: 1/34 of a background, less of a toy
BLIND_SHARE = (0.75, 0.3)  # of the pictures, at these timesteps: in the text phase and after it
WHOLE_CAPTIONS = 0.75  # of the captions in the text phase mention everything
MAX_WEIGHT = 5.0  # of the squared error of a picture with little noise
# Easy: six primitives, which are learnt early, and four toys that look alike from all sides. Hard: learnt last.
EASY = ("sphere", "cube", "cylinder", "cone", "torus", "pyramid", "lamp", "mushroom", "tree", "snowman")
HARD = ("airplane", "house", "mug")
CLASS_WEIGHTS = np.array([0.4 if name in EASY else 1.6 if name in HARD else 1.0 for name in CLASSES])
# Paper: lit with probability 0.75, half of these textureless; here for the whole run, since the prior must know all
# three modes.
LIGHTS = LightConfig(albedo_only_until=0.0)
PALETTE = torch.tensor(list(COLORS.values()), dtype=torch.float32)


@dataclass(frozen=True)
class TrainPriorConfig:
    images: int = 1_500_000  # training images of this run
    minutes: float = 0.0  # stop (and anneal) by time instead; 0: by images
    batch: int = 48  # per process
    learning_rate: float = 0.9e-3
    text_phase: float = 0.3  # fraction of the run, at its start, that mostly learns what the text alone determines
    warmup_images: int = 3000
    final_learning_rate: float = 0.03  # factor at the end of the run (cosine)
    ema_half_life: int = 40_000  # images
    views_per_class: int = 1200  # reservoir size of one process
    chunk: int = 6  # views of one class, traced at a time
    trace_every: int = 6  # steps between new chunks
    seed: int = 0
    save_every: float = 300.0  # seconds
    score_every: float = 1500.0  # seconds between scores of samples
    report_every: int = 100  # steps
    sheet_steps: int = 30  # steps of the sampler for the sheet at the end; 0: no sheet


# On a GPU, batches that keep it busy: 7,200 pictures a second with 256 and with 512 (H200).
GPU = TrainPriorConfig(
    images=8_000_000,
    batch=256,
    learning_rate=1e-3,
    warmup_images=50_000,
    ema_half_life=200_000,
    views_per_class=4096,
    chunk=256,
    trace_every=64,
    save_every=90.0,
    score_every=90.0,
)


class Reservoir:
    """A reservoir of toy views in which new ones replace old ones. `means` keeps the mean of all views ever traced, at
    64 pixels, the resolution of the pixel prior; None at others."""

    def __init__(
        self,
        config: TrainPriorConfig,
        random: np.random.Generator,
        device: str | torch.device = "cpu",
        resolution: int = 64,
    ):
        self.config, self.random, self.device, self.resolution = config, random, device, resolution
        self.shelves = Shelves(config.views_per_class, device, resolution)
        self.means = MeanPictures(LIGHTS, device) if resolution == 64 else None
        self.next = 0

    def fill(self) -> None:
        """Trace until every class has all its views, which takes minutes on a CPU."""
        for _ in range(len(CLASSES) * max(1, self.config.views_per_class // self.config.chunk)):
            self.grow()

    def grow(self) -> None:
        """Trace one chunk of the next class."""
        index, n = self.next % len(CLASSES), self.config.chunk
        self.next += 1
        first = self.means is not None and not self.means.angles[index]
        framed = first or bool(self.random.random() >= PAPER_CAMERA_SHARE)
        camera = FRAMED_CAMERAS if framed else CameraConfig()
        cameras = sample_cameras(replace(camera, stratified_azimuth=False), n, self.random)
        u = sent(self.random.uniform(-1, 1, (n, PARAMETERS)), self.device, torch.float32)
        buffer = trace(CLASSES[index], u, cameras.to(self.device), self.resolution)
        if framed and self.means is not None:
            self.means.add(index, buffer, cameras, self.random)
        self.shelves.add(index, buffer, cameras, framed)

    def draw_classes(self, n: int) -> np.ndarray:
        """(n,) class indices among those that have views."""
        weights = CLASS_WEIGHTS * (self.shelves.added > 0)
        return self.random.choice(len(CLASSES), size=n, p=weights / weights.sum())


def backgrounds(
    n: int, resolution: int, random: np.random.Generator, device: str | torch.device = "cpu"
) -> torch.Tensor:
    """(n, H, W, 3): one grey or colour (75 %), a linear gradient of two (15 %), or a smooth random field (10 %)."""

    def draw(*shape):
        return sent(random.random(shape), device, torch.float32)

    def colors():
        c = draw(n, 1, 1, 3)
        return torch.where(draw(n, 1, 1, 1) < 0.3, c[..., :1].expand_as(c), c)

    kind, angle = draw(n, 1, 1, 1), draw(n, 1, 1) * 2 * math.pi
    axis = torch.linspace(-1, 1, resolution, device=device)
    ramp = (0.5 + 0.35 * (axis[None, :, None] * angle.sin() + axis[None, None, :] * angle.cos()))[..., None]
    low = draw(n, 3, 4, 4)
    smooth = torch.nn.functional.interpolate(low, size=resolution, mode="bicubic", align_corners=True)
    smooth = smooth.permute(0, 2, 3, 1)
    one = colors()
    out = torch.where(kind < 0.75, one, torch.where(kind < 0.9, one + (colors() - one) * ramp, smooth))
    return out.clamp(0, 1)


def sample_noise_levels(n: int, random: np.random.Generator, blind: float = BLIND_SHARE[1]) -> np.ndarray:
    """(n,) int64 timesteps of 1000, stratified: the share `blind` uniform from BLIND on; of the others TEXT_SHARE
    uniform from TEXT_FROM to BLIND, the rest u^HIGH_NOISE_POWER.

    The mean picture of a class from one side is sharp, but differs little between sides: with few pictures at full
    noise the view words stay unlearnt for very long.
    """
    u = (np.arange(n) + random.random(n)) / n
    v = ((u - blind) / (1 - blind)).clip(0)
    end = BLIND / 1000
    text = TEXT_FROM + (end - TEXT_FROM) * v / TEXT_SHARE
    rest = ((v - TEXT_SHARE).clip(0) / (1 - TEXT_SHARE)) ** HIGH_NOISE_POWER
    t = np.where(u < blind, end + (1 - end) * u / max(blind, 1e-9), np.where(v < TEXT_SHARE, text, rest))
    return (t * 1000).astype(np.int64).clip(0, 999)


class Source(Protocol):
    """What `training_batch` draws from, such as a `Reservoir`. means: None where there are none."""

    means: MeanPictures | None
    shelves: Shelves
    device: str | torch.device

    def draw_classes(self, n: int) -> np.ndarray: ...


def training_batch(
    reservoir: Source, n: int, random: np.random.Generator, blind: float = BLIND_SHARE[1]
) -> tuple[torch.Tensor, list[str], np.ndarray]:
    """(n, 3, 64, 64) images in [-1, 1] on the reservoir's device, their captions and their timesteps.

    Where the noise hides everything (from BLIND on) the optimal prediction is the mean of all pictures that fit the
    caption. There the image is that mean over mid-grey (`means`): the same expectation without noise in the gradient.
    A reservoir without means uses its views at all timesteps.
    """
    steps, means = sample_noise_levels(n, random, blind), reservoir.means
    hidden = (steps >= BLIND) & (means is not None)
    classes, names = reservoir.draw_classes(n), list(COLORS)
    color, modes = random.integers(len(names), size=n), sample_modes(LIGHTS, n, 1.0, random)
    azimuth, elevation, framed, chunks = np.zeros(n), np.zeros(n), np.ones(n, bool), []
    if means is not None and hidden.any():
        mean_views = means.draw(classes[hidden], random)
        colors = sent(mean_colors(color[hidden]), reservoir.device)
        chunks.append(pictures(mean_views, colors, modes[hidden], 0.5))
        azimuth[hidden], elevation[hidden] = mean_views.azimuth, mean_views.elevation
    if not hidden.all():
        views = reservoir.shelves.draw(classes[~hidden], random)
        chunks.append(shade_views(views, color[~hidden], modes[~hidden], random))
        azimuth[~hidden], elevation[~hidden], framed[~hidden] = views.azimuth, views.elevation, views.framed
    order = np.argsort(np.concatenate([np.flatnonzero(hidden), np.flatnonzero(~hidden)]))
    images = torch.cat(chunks)[sent(order, reservoir.device)]
    # In the text phase most captions of hidden pictures mention everything.
    whole = hidden & (blind > 0.5) & (random.random(n) < WHOLE_CAPTIONS)
    texts = [
        caption(CLASSES[c], names[k], angle, height, mode, random, f, w)
        for c, k, angle, height, mode, f, w in zip(
            *(values.tolist() for values in (classes, color, azimuth, elevation, modes, framed, whole)), strict=True
        )
    ]
    return images.permute(0, 3, 1, 2) * 2 - 1, texts, steps


def shade_views(views, color: np.ndarray, modes: np.ndarray, random: np.random.Generator) -> torch.Tensor:
    """(n, H, W, 3) pictures in [0, 1] of views (`cache.TracedViews`) with random lights and backgrounds, and with
    jittered and repainted colours."""
    device = views.buffer.slot.device
    colors = sent(random_colors(color, random), device)
    rows = sent(shading_rows(LIGHTS, sample_light_positions(LIGHTS, views.position, random), modes), device)
    return shade(views.buffer, colors, rows, backgrounds(len(color), views.buffer.slot.shape[-1], random, device))


def random_colors(color: np.ndarray, random: np.random.Generator) -> torch.Tensor:
    """(n, slots, 3) colours of the parts of toys whose main colours are rows of the palette: jittered, secondary parts
    sometimes repainted."""
    colors = part_colors(PALETTE[color])
    repaint = torch.tensor(random.random(colors.shape[:2]) < REPAINT_PROBABILITY)
    repaint[:, [MAIN, SHADE]] = False
    other = PALETTE[random.integers(len(PALETTE), size=colors.shape[:2])]
    jitter = torch.tensor(random.normal(0, COLOR_JITTER, tuple(colors.shape)), dtype=torch.float32)
    return (torch.where(repaint[..., None], other, colors) + jitter).clamp(0, 1)


def mean_colors(color: np.ndarray) -> torch.Tensor:
    """(n, slots, 3) expected colours of the parts of toys in colours of the palette, (n,) rows of it."""
    colors = part_colors(PALETTE[color])
    mean = (1 - REPAINT_PROBABILITY) * colors + REPAINT_PROBABILITY * PALETTE.mean(0)
    mean[:, [MAIN, SHADE]] = colors[:, [MAIN, SHADE]]
    return mean


def denoising_loss(prior: Prior, image: torch.Tensor, ids: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """E w(t) || x_hat - x ||^2 with w = min(1 / sigma_t^2, MAX_WEIGHT): the squared error of v (Salimans & Ho 2022),
    bounded where there is little noise as in Hang et al. (2023). ids: (n, MAX_TOKENS) int64, see `caption_ids`; steps:
    (n,) int64 timesteps; all on the device of the prior and of its scheduler's table."""
    noisy, weight = with_noise(prior, image, steps)
    return (weight * (predict(prior, noisy, ids, steps) - image).square()).mean()


def with_noise(prior: Prior, image: torch.Tensor, steps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, 3, 64, 64) with noise of their timesteps, and the weight (n, 1, 1, 1) of a squared error there."""
    abar = prior.scheduler.alphas_cumprod[steps].view(-1, 1, 1, 1)
    noisy = abar.sqrt() * image + (1 - abar).sqrt() * torch.randn_like(image)
    return noisy, (1 / (1 - abar)).clamp(max=MAX_WEIGHT)


def predict(prior: Prior, noisy: torch.Tensor, ids: torch.Tensor, steps: torch.Tensor, **conditions) -> torch.Tensor:
    """(n, 3, 64, 64) float32: the clean pictures that the prior predicts from noisy ones. conditions: further arguments
    of the UNet."""
    hidden = embed_words(prior.text_encoder, ids)
    with autocast(noisy.device):
        x = prior.unet(
            pack(noisy, prior.unet.config.in_channels),
            steps,
            hidden,
            encoder_attention_mask=(ids > 0).long(),
            **conditions,
        ).sample
    return unpack(x.float())


def caption_ids(tokenizer, texts: list[str]) -> np.ndarray:
    """(n, MAX_TOKENS) int64: as `tokenize`, for captions of known words only, ten times as fast; 0 is padding."""
    vocabulary, ids = tokenizer.get_vocab(), np.zeros((len(texts), MAX_TOKENS), np.int64)
    for row, text in zip(ids, texts, strict=True):
        words = text.replace(",", "").split()
        row[: len(words) + 1] = [*(vocabulary[word] for word in words), tokenizer.eos_token_id]
    return ids


def tokenize(tokenizer, texts: list[str]):
    return tokenizer(texts, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
