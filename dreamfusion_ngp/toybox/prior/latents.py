"""The training of the latent UNet: encoded pictures kept on a device, captions and noise drawn afresh at every use."""

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
from ...base.precision import autocast
from ...base.slots import sent
from ...scene.lights import sample_modes
from ..world.captions import caption
from ..world.shapes import CLASSES, COLORS
from .autoencoder import FACTOR, LATENTS, SIDE, unit_latents
from .cache import Seen
from .latent_model import LatentPrior, load_latent_prior
from .latent_sampling import sheet
from .latent_start import start_from_pixels
from .loop import read_log
from .loss import LIGHTS, Reservoir, TrainPriorConfig, caption_ids, sample_noise_levels, shown_pictures
from .model import Prior, embed_words, load_prior
from .optimizer import OUTER
from .pixels import prepare_for_training
from .reconstruction import pictures_of_all

SHADES = 6  # latents of every traced view: colours, lights and backgrounds
ENCODED = 8  # pictures at once
START_PER_CLASS = 4  # pictures on which the start is fitted

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
class Coded:
    """n encoded pictures. z: (n, 4, 32, 32) float16 on the device; the rest are (n,) arrays: rows of the colours,
    shading modes, radians, whether the camera is one of FRAMED_CAMERAS."""

    z: Tensor
    color: np.ndarray
    modes: np.ndarray
    azimuth: np.ndarray
    elevation: np.ndarray
    framed: np.ndarray


class Latents:
    """Encoded pictures of every class in a ring, SHADES of each view that is traced."""

    def __init__(self, config: TrainPriorConfig, vae, random: np.random.Generator, device: str):
        self.vae, self.random, self.device, self.room = vae, random, device, config.views_per_class * SHADES
        self.reservoir = Reservoir(replace(config, views_per_class=config.chunk), random, device, SIDE)
        shape = (len(CLASSES), self.room)
        self.z = torch.empty(*shape, LATENTS, SIDE // FACTOR, SIDE // FACTOR, dtype=torch.float16, device=device)
        self.told = np.zeros((*shape, 5))
        self.added = np.zeros(len(CLASSES), int)  # ever

    def fill(self) -> None:
        """A chunk of every class; the rest comes while the training runs."""
        for _ in CLASSES:
            self.grow()

    def grow(self) -> None:
        """Trace a chunk of views of the next class, shade each SHADES times and encode what is seen."""
        index = self.reservoir.next % len(CLASSES)
        self.reservoir.grow()
        shelves, n = self.reservoir.shelves, self.reservoir.config.chunk
        views = np.repeat(np.arange(n), SHADES)
        for part in np.array_split(views, -(-len(views) // ENCODED)):
            at = sent(part, self.device)
            azimuth, elevation = shelves.angles[index, part].T
            seen = Seen(
                shelves.buffer[index, at],
                torch.from_numpy(shelves.position[index, part]),
                azimuth,
                elevation,
                shelves.framed[index, part],
            )
            self.add(index, seen)

    def add(self, index: int, seen: Seen) -> None:
        n = len(seen.position)
        color, modes = self.random.integers(len(COLORS), size=n), sample_modes(LIGHTS, n, 1.0, self.random)
        image = shown_pictures(seen, color, modes, self.random).permute(0, 3, 1, 2).contiguous() * 2 - 1
        rows = (self.added[index] + np.arange(n)) % self.room
        self.z[index, sent(rows, self.device)] = encoded(self.vae, image).half()
        self.told[index, rows] = np.stack([color, modes, seen.azimuth, seen.elevation, seen.framed], 1)
        self.added[index] += n

    def draw(self, classes: np.ndarray, random: np.random.Generator) -> Coded:
        """A random latent of each of `classes` (n,), which must all have some."""
        rows = random.integers(np.minimum(self.added, self.room)[classes])
        color, modes, azimuth, elevation, framed = self.told[classes, rows].T
        z = self.z[sent(classes, self.device), sent(rows, self.device)]
        return Coded(z, color.astype(int), modes.astype(int), azimuth, elevation, framed > 0)


@torch.no_grad()
def encoded(vae, image: Tensor) -> Tensor:
    """(n, 4, 32, 32) float32: what a guidance sees of pictures (n, 3, 256, 256) in [-1, 1]."""
    with autocast(image.device):
        return vae.encode(image).latent_dist.mean.float() * vae.config.scaling_factor


class LatentTask:
    """See `loop.Task`."""

    name, outer = "unet", OUTER

    def __init__(self, model: LatentPrior, config: TrainPriorConfig):
        self.model, self.config = model, config
        self.sheet: Callable[[Any, Path], None] | None = partial(sheet, steps=config.sheet_steps)

    def parts(self, model: LatentPrior) -> list:
        return [model.unet, model.text_encoder]

    def open(self, random: np.random.Generator, device: str) -> None:
        self.random, self.latents = random, Latents(self.config, self.model.vae, random, device)

    def fill(self) -> None:
        self.latents.fill()

    def grow(self) -> None:
        self.latents.grow()

    def batch(self, progress: float) -> tuple[Tensor, ...]:
        n = self.config.batch
        classes, steps = self.latents.reservoir.draw_classes(n), sample_noise_levels(n, self.random, 0.0)
        coded, names = self.latents.draw(classes, self.random), list(COLORS)
        told = (coded.color, coded.azimuth, coded.elevation, coded.modes, coded.framed)
        texts = [
            caption(CLASSES[c], names[k], azimuth, elevation, mode, self.random, framed)
            for c, k, azimuth, elevation, mode, framed in zip(classes, *(v.tolist() for v in told), strict=True)
        ]
        ids = caption_ids(self.model.tokenizer, texts)
        return coded.z.float(), *(sent(values, coded.z.device) for values in (ids, steps))

    def loss(self, z: Tensor, ids: Tensor, steps: Tensor) -> Tensor:
        return noise_loss(self.model, z, ids, steps)


def noise_loss(prior: LatentPrior, z: Tensor, ids: Tensor, steps: Tensor) -> Tensor:
    """E || eps_hat - eps ||^2 / alpha_t^2, the squared error of v (Salimans & Ho 2022): in that of the noise alone the
    text, which is heard where alpha is small, would hardly count. z: (n, 4, 32, 32) float32; ids: (n, MAX_TOKENS)
    int64, whose padding is shown as in Stable Diffusion's pipelines; steps: (n,) int64 timesteps; all on the device of
    the prior and of its scheduler's table."""
    abar = prior.scheduler.alphas_cumprod[steps].view(-1, 1, 1, 1)
    noise = torch.randn_like(z)
    hidden = embed_words(prior.text_encoder, ids)
    with autocast(z.device):
        found = prior.unet(abar.sqrt() * z + (1 - abar).sqrt() * noise, steps, hidden).sample
    return ((found.float() - noise).square() / abar).mean()


def build_task(config: TrainPriorConfig, folder: Path, device: str) -> LatentTask:
    """The task that goes on with the prior in `folder`; one whose UNet has seen nothing starts from the shipped pixel
    prior. Raises PriorError where its autoencoder has not been trained."""
    model = load_latent_prior(folder)
    model.vae.requires_grad_(False)
    if not read_log(folder, "autoencoder")["images"]:
        raise PriorError(f"{folder}: its autoencoder is not trained yet; train that first")
    if not read_log(folder, "unet")["images"]:
        begin(model, load_prior(), config.seed)
    prepare_for_training(Prior(model.unet, model.text_encoder, model.tokenizer, model.scheduler), device)
    order = torch.contiguous_format if device == "cpu" else torch.channels_last
    model.vae.to(device=device, memory_format=order)
    return LatentTask(model, config)


def begin(model: LatentPrior, pixel: Prior, seed: int) -> None:
    """Latents of mean 0 and spread 1, and a UNet that starts from the pixel prior's; on the CPU, in every process
    alike."""
    torch.manual_seed(seed)
    pictures, _ = pictures_of_all(START_PER_CLASS, seed)
    unit_latents(model.vae, pictures)
    z = torch.cat([encoded(model.vae, part) for part in pictures.split(ENCODED)])
    random = np.random.default_rng(seed)
    texts = [
        caption(
            CLASSES[i % len(CLASSES)], list(COLORS)[i % len(COLORS)], *random.uniform(0, 1.5, 2), mode=0, random=random
        )
        for i in range(len(z))
    ]
    start_from_pixels(model, pixel, z, pictures, torch.tensor(caption_ids(model.tokenizer, texts)))
