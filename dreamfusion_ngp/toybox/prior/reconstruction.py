"""The training of the latent prior's autoencoder, on freshly shaded crops around toys and whole pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...base.precision import autocast
from ...base.slots import sent
from ...scene.lights import sample_modes
from ..world.shapes import COLORS
from ..world.tracer import GBuffer
from .autoencoder import FACTOR, LATENTS, SIDE, start_as_thumbnail, trained_modules
from .cache import TracedViews
from .latent_model import LatentPrior, build_latent_prior, load_latent_prior
from .loop import read_log
from .loss import LIGHTS, Reservoir, TrainPriorConfig, shade_views
from .optimizer import OUTER

CROP = 128  # pixels a side
WHOLE = 0.2  # of the steps use whole pictures, a quarter as many: normalisation must learn both sizes
EDGES = 0.5  # weight of the absolute error of differences between neighbours
KL = 1e-4  # weight of the mean divergence per latent
GRID = 0.3  # weight of `grid_penalty`, on a window of CROP pixels of one picture per step

AUTOENCODER = TrainPriorConfig(
    images=40_000,
    batch=8,
    learning_rate=4e-4,
    warmup_images=320,
    ema_half_life=400,
    views_per_class=64,
    trace_every=12,
    save_every=300.0,
    score_every=900.0,
    report_every=50,
    sheet_steps=0,
)
AUTOENCODER_GPU = TrainPriorConfig(
    images=1_500_000,
    batch=32,
    learning_rate=6e-4,
    warmup_images=3_000,
    ema_half_life=8_000,
    views_per_class=512,
    chunk=16,
    trace_every=32,
    save_every=90.0,
    score_every=90.0,
    sheet_steps=0,
)


class AutoencoderTask:
    """See `task.Task`. The encoder is trained until a UNet has learnt its latents, then frozen."""

    name, sheet = "autoencoder", None
    outer: tuple[str, ...] = (*OUTER, "")  # "": the 1 x 1 convolutions around the latents

    def __init__(self, model: LatentPrior, config: TrainPriorConfig, encoder: bool):
        """encoder: whether it learns."""
        self.model, self.config, self.encoder = model, config, encoder
        self.modules(model)

    def modules(self, model: LatentPrior) -> list:
        return trained_modules(model.vae, self.encoder)

    def open(self, random: np.random.Generator, device: str) -> Reservoir:
        self.random, self.reservoir = random, Reservoir(self.config, random, device, SIDE)
        return self.reservoir

    def pictures(self, n: int, side: int) -> Tensor:
        """(n, 3, side, side) in [-1, 1]: crops around a point of a toy, or whole pictures."""
        views = crop(self.reservoir.shelves.draw(self.reservoir.draw_classes(n), self.random), side, self.random)
        modes = sample_modes(LIGHTS, n, 1.0, self.random)
        image = shade_views(views, self.random.integers(len(COLORS), size=n), modes, self.random)
        return image.permute(0, 3, 1, 2).contiguous() * 2 - 1

    def batch(self, progress: float) -> tuple[Tensor, ...]:
        if self.random.random() < WHOLE:
            return (self.pictures(max(1, self.config.batch * CROP**2 // SIDE**2), SIDE),)
        return (self.pictures(self.config.batch, CROP),)

    def loss(self, image: Tensor) -> Tensor:
        return reconstruction_loss(self.model.vae, image, self.encoder)


def crop(views: TracedViews, side: int, random: np.random.Generator) -> TracedViews:
    """Views of `side` pixels around a random covered pixel, placed at random in them."""
    buffer, whole = views.buffer, views.buffer.slot.shape[-1]
    if side >= whole:
        return views
    n, device = len(views.position), buffer.slot.device
    covered = (buffer.alpha.flatten(1) > 0).float() + 1e-9
    middle = torch.multinomial(covered, 1)[:, 0]
    shift = sent(random.integers(side, size=(2, n)), device)
    corner = torch.stack([middle // whole, middle % whole]) - shift
    y, x = corner.clamp(0, whole - side)[..., None] + torch.arange(side, device=device)
    picked = (torch.arange(n, device=device)[:, None, None], y[:, :, None], x[:, None, :])
    windows = GBuffer(*(values[picked] for values in (buffer.position, buffer.normal, buffer.slot, buffer.alpha)))
    return TracedViews(windows, views.position, views.azimuth, views.elevation, views.framed)


def reconstruction_loss(vae, image: Tensor, encoder: bool) -> Tensor:
    """Absolute and squared error of reconstructed pictures (n, 3, H, H) in [-1, 1], absolute error of their edges, the
    divergence of the posterior from a unit normal (Rombach et al. 2022, without the adversary, whose invented detail a
    guidance would pull into the scene), and the grid in the encoder's gradient. encoder: whether it is trained."""
    with torch.set_grad_enabled(encoder), autocast(image.device):
        moments = vae.quant_conv(vae.encoder(image)).float()
    mean, logvar = moments.chunk(2, 1)
    logvar = logvar.clamp(-20, 10)
    with autocast(image.device):
        back = vae.decode(mean + (0.5 * logvar).exp() * torch.randn_like(mean)).sample
    error = back.float() - image
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    loss = error.abs().mean() + error.square().mean() + EDGES * edges
    if not encoder:
        return loss
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return loss + KL * divergence + GRID * grid_penalty(vae, window(image[:1]))


def window(image: Tensor) -> Tensor:
    """The middle CROP pixels of pictures."""
    edge = (image.shape[-1] - CROP) // 2
    return image[..., edge : edge + CROP, edge : edge + CROP]


def grid_penalty(vae, image: Tensor) -> Tensor:
    """Variance, over the pixels of a cell, of the energy of random gradients pulled back through the encoder, relative
    to its mean."""
    with torch.enable_grad():
        energy = cell_energy(vae, image, create_graph=True)
    return (energy / energy.mean() - 1).square().mean()


def cell_energy(vae, image: Tensor, create_graph: bool = False) -> Tensor:
    """(8, 8): mean squared gradient of unit noise on the latents, by the position of a pixel (of image (n, 3, H, H) in
    [-1, 1]) within its cell; without the outermost cells."""
    inner = pull_back(vae, image, create_graph)[..., FACTOR:-FACTOR, FACTOR:-FACTOR]
    n = inner.shape[-1] // FACTOR
    return inner.square().unflatten(-2, (n, FACTOR)).unflatten(-1, (n, FACTOR)).mean((0, 1, 2, 4))


def pull_back(vae, image: Tensor, create_graph: bool = False) -> Tensor:
    """(n, 3, H, H): the gradient on pictures from unit noise on their latents."""
    x = image.detach().requires_grad_()
    z = vae.quant_conv(vae.encoder(x))[:, :LATENTS]
    (gradient,) = torch.autograd.grad(z, x, torch.randn_like(z), create_graph=create_graph)
    return gradient


def pictures_of_all(per_class: int, seed: int) -> tuple[Tensor, Tensor]:
    """(20 per_class, 3, 256, 256) pictures in [-1, 1] as the training draws them, always the same for a seed, and their
    coverage (20 per_class, 1, 256, 256) bool."""
    config, random = TrainPriorConfig(views_per_class=per_class, chunk=1), np.random.default_rng([seed, SIDE])
    reservoir = Reservoir(config, random, resolution=SIDE)
    reservoir.fill()
    buffer = GBuffer(*(values.transpose(0, 1).flatten(0, 1) for values in vars(reservoir.shelves.buffer).values()))
    position = torch.from_numpy(reservoir.shelves.position).transpose(0, 1).flatten(0, 1)
    n, nothing = len(position), np.zeros(len(position))
    views = TracedViews(buffer, position, nothing, nothing, nothing > 0)
    modes = sample_modes(LIGHTS, n, 1.0, random)
    image = shade_views(views, random.integers(len(COLORS), size=n), modes, random)
    return image.permute(0, 3, 1, 2).contiguous() * 2 - 1, buffer.alpha[:, None] > 0


def build_task(config: TrainPriorConfig, folder: Path | None, device: str) -> AutoencoderTask:
    """The task that resumes the prior in `folder`, or starts a new one."""
    model = load_latent_prior(folder) if folder else build_latent_prior(config.seed)
    if folder is None:
        start_as_thumbnail(model.vae, pictures_of_all(1, config.seed)[0])
    order = torch.contiguous_format if device == "cpu" else torch.channels_last
    model.vae.to(device=device, memory_format=order)
    return AutoencoderTask(model, config, encoder=folder is None or not read_log(folder, "unet")["images"])
