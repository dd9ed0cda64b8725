"""The training of the latent UNet: encoded pictures kept on a device, with new captions and noise at every use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...base.errors import PriorError
from ...base.precision import ENCODER_LAYOUT, autocast
from ...base.slots import sent
from ...scene.lights import sample_modes
from ..world.captions import caption
from ..world.shapes import CLASSES, COLORS
from .autoencoder import FACTOR, LATENTS, SIDE, unit_latents
from .cache import TracedViews
from .latent_model import LatentPrior, load_latent_prior
from .latent_sampling import sheet
from .latent_start import start_from_pixels
from .loop import read_log
from .loss import LIGHTS, Reservoir, TrainPriorConfig, caption_ids, sample_noise_levels, shade_views
from .model import Prior, embed_words, load_prior
from .optimizer import OUTER
from .pixels import prepare_for_training
from .reconstruction import pictures_of_all

SHADES = 6  # latents of every traced view, with different colours, lights and backgrounds
ENCODED = 8  # pictures encoded at once
START_PER_CLASS = 4  # pictures on which the initial weights are fitted

UNET = TrainPriorConfig(
    images=1_000_000, batch=48, learning_rate=4e-4, text_phase=0.0, views_per_class=400, score_every=3000.0
)
UNET_GPU = TrainPriorConfig(
    images=8_000_000,
    batch=256,
    learning_rate=8e-4,
    text_phase=0.0,
    warmup_images=50_000,
    ema_half_life=200_000,
    views_per_class=2048,
    chunk=64,
    trace_every=32,
    save_every=90.0,
    score_every=180.0,
)


@dataclass(frozen=True)
class LatentViews:
    """n encoded pictures. z: (n, 4, 32, 32) float16 on the device; the rest are (n,) arrays: rows of the colours,
    shading modes, radians, whether the camera is one of FRAMED_CAMERAS."""

    z: Tensor
    color: np.ndarray
    modes: np.ndarray
    azimuth: np.ndarray
    elevation: np.ndarray
    framed: np.ndarray


class Latents:
    """A ring buffer of encoded pictures for every class, SHADES of each traced view."""

    def __init__(self, config: TrainPriorConfig, vae, random: np.random.Generator, device: str):
        self.vae, self.random, self.device, self.room = vae, random, device, config.views_per_class * SHADES
        self.reservoir = Reservoir(replace(config, views_per_class=config.chunk), random, device, SIDE)
        shape = (len(CLASSES), self.room)
        self.z = torch.empty(*shape, LATENTS, SIDE // FACTOR, SIDE // FACTOR, dtype=torch.float16, device=device)
        self.labels = np.zeros((*shape, 5))
        self.added = np.zeros(len(CLASSES), int)  # ever

    def fill(self) -> None:
        """Trace a chunk of every class; the rest follows during the training."""
        for _ in CLASSES:
            self.grow()

    def grow(self) -> None:
        """Trace a chunk of views of the next class, shade each SHADES times and encode the pictures."""
        index = self.reservoir.next % len(CLASSES)
        self.reservoir.grow()
        shelves, n = self.reservoir.shelves, self.reservoir.config.chunk
        views = np.repeat(np.arange(n), SHADES)
        for part in np.array_split(views, -(-len(views) // ENCODED)):
            at = sent(part, self.device)
            azimuth, elevation = shelves.angles[index, part].T
            batch = TracedViews(
                shelves.buffer[index, at],
                torch.from_numpy(shelves.position[index, part]),
                azimuth,
                elevation,
                shelves.framed[index, part],
            )
            self.add(index, batch)

    def add(self, index: int, views: TracedViews) -> None:
        n = len(views.position)
        color, modes = self.random.integers(len(COLORS), size=n), sample_modes(LIGHTS, n, 1.0, self.random)
        image = shade_views(views, color, modes, self.random).permute(0, 3, 1, 2).contiguous() * 2 - 1
        rows = (self.added[index] + np.arange(n)) % self.room
        self.z[index, sent(rows, self.device)] = encode(self.vae, image).half()
        self.labels[index, rows] = np.stack([color, modes, views.azimuth, views.elevation, views.framed], 1)
        self.added[index] += n

    def draw(self, classes: np.ndarray, random: np.random.Generator) -> LatentViews:
        """A random latent of each of `classes` (n,), none of which may be empty."""
        rows = random.integers(np.minimum(self.added, self.room)[classes])
        color, modes, azimuth, elevation, framed = self.labels[classes, rows].T
        z = self.z[sent(classes, self.device), sent(rows, self.device)]
        return LatentViews(z, color.astype(int), modes.astype(int), azimuth, elevation, framed > 0)


@torch.no_grad()
def encode(vae, image: Tensor) -> Tensor:
    """(n, 4, 32, 32) float32 latents, as a guidance sees them, of pictures (n, 3, 256, 256) in [-1, 1]."""
    with autocast(image.device):
        code = vae.encode(image.contiguous(memory_format=ENCODER_LAYOUT))
    return code.latent_dist.mean.float() * vae.config.scaling_factor


class LatentTask:
    """See `task.Task`."""

    name, outer = "unet", OUTER

    def __init__(self, model: LatentPrior, config: TrainPriorConfig):
        self.model, self.config = model, config
        self.sheet: Callable[[Any, Path], None] | None = partial(sheet, steps=config.sheet_steps)

    def modules(self, model: LatentPrior) -> list:
        return [model.unet, model.text_encoder]

    def open(self, random: np.random.Generator, device: str) -> Latents:
        self.random, self.latents = random, Latents(self.config, self.model.vae, random, device)
        return self.latents

    def batch(self, progress: float) -> tuple[Tensor, ...]:
        n = self.config.batch
        classes, steps = self.latents.reservoir.draw_classes(n), sample_noise_levels(n, self.random, 0.0)
        drawn, names = self.latents.draw(classes, self.random), list(COLORS)
        labels = (drawn.color, drawn.azimuth, drawn.elevation, drawn.modes, drawn.framed)
        texts = [
            caption(CLASSES[c], names[k], azimuth, elevation, mode, self.random, framed)
            for c, k, azimuth, elevation, mode, framed in zip(classes, *(v.tolist() for v in labels), strict=True)
        ]
        ids = caption_ids(self.model.tokenizer, texts)
        return drawn.z.float(), *(sent(values, drawn.z.device) for values in (ids, steps))

    def loss(self, z: Tensor, ids: Tensor, steps: Tensor) -> Tensor:
        return noise_loss(self.model, z, ids, steps)


def noise_loss(prior: LatentPrior, z: Tensor, ids: Tensor, steps: Tensor) -> Tensor:
    """E || eps_hat - eps ||^2 / alpha_t^2, the squared error of v (Salimans & Ho 2022): with the error of the noise the
    text, which matters where alpha is small, would hardly count. z: (n, 4, 32, 32) float32; ids: (n, MAX_TOKENS) int64,
    whose padding is not masked, as in Stable Diffusion's pipelines; steps: (n,) int64 timesteps; all on the device of
    the prior and of its scheduler's table."""
    abar = prior.scheduler.alphas_cumprod[steps].view(-1, 1, 1, 1)
    noise = torch.randn_like(z)
    hidden = embed_words(prior.text_encoder, ids)
    with autocast(z.device):
        noise_hat = prior.unet(abar.sqrt() * z + (1 - abar).sqrt() * noise, steps, hidden).sample
    return ((noise_hat.float() - noise).square() / abar).mean()


def build_task(config: TrainPriorConfig, folder: Path, device: str) -> LatentTask:
    """The task that resumes the prior in `folder`; an untrained UNet starts from the shipped pixel prior. Raises
    PriorError where the autoencoder has not been trained."""
    model = load_latent_prior(folder)
    model.vae.requires_grad_(False)
    if not read_log(folder, "autoencoder")["images"]:
        raise PriorError(f"{folder}: its autoencoder is not trained yet; train that first")
    if not read_log(folder, "unet")["images"]:
        begin(model, load_prior(), config.seed)
    prepare_for_training(Prior(model.unet, model.text_encoder, model.tokenizer, model.scheduler), device)
    model.vae.to(device=device, memory_format=ENCODER_LAYOUT)
    return LatentTask(model, config)


def begin(model: LatentPrior, pixel: Prior, seed: int) -> None:
    """Scale latents to mean 0 and spread 1, and start the UNet from the pixel prior's; on the CPU, with the same result
    in every process."""
    torch.manual_seed(seed)
    pictures, _ = pictures_of_all(START_PER_CLASS, seed)
    unit_latents(model.vae, pictures)
    z = torch.cat([encode(model.vae, part) for part in pictures.split(ENCODED)])
    random = np.random.default_rng(seed)
    texts = [
        caption(
            CLASSES[i % len(CLASSES)], list(COLORS)[i % len(COLORS)], *random.uniform(0, 1.5, 2), mode=0, random=random
        )
        for i in range(len(z))
    ]
    start_from_pixels(model, pixel, z, pictures, torch.tensor(caption_ids(model.tokenizer, texts)))
