"""Training of the embedded prior: `dreamfusion-ngp train-prior`.

Denoising-diffusion training (prediction of the clean picture) on pictures of toys. Every process keeps a reservoir of
G-buffers that grows and turns over while it trains, and shades each batch afresh. Several one-thread processes with
averaged gradients are faster on a CPU than one process with several threads. Resumes from a saved folder alone: the
optimiser's state is rebuilt by a short warm-up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..cameras import sample_cameras
from ..config import FRAMED_CAMERAS, CameraConfig, LightConfig
from ..lights import sample_light_positions, sample_modes, shading_rows
from .captions import caption
from .model import MAX_TOKENS, Prior
from .shapes import CLASSES, COLORS, MAIN, PARAMETERS, SHADE
from .world import GBuffer, part_colors, shade, trace

PAPER_CAMERA_SHARE = 0.2        # the rest has constant framing, what preset `fast` uses
REPAINT_PROBABILITY = 0.35      # of a secondary part, to a random colour
COLOR_JITTER = 0.04             # standard deviation per channel
HIGH_NOISE_POWER = 0.65         # t = u^power: more high noise, where shape and view are decided
TEXT_SHARE, TEXT_FROM = 0.3, 0.92  # of the pictures, at t above this, where the text is all that there is to go by
BLIND = 980                     # timesteps from here on show at most 1/34 of a background
MAX_WEIGHT = 5.0                # of the squared error of a picture with little noise
# Six primitives are learnt early; the composed toys get twice the pictures.
PRIMITIVES = ("sphere", "cube", "cylinder", "cone", "torus", "pyramid")
CLASS_WEIGHTS = np.array([0.5 if name in PRIMITIVES else 1.0 for name in CLASSES])
# Paper: lit with probability 0.75, half of these textureless; here for the whole run, since the prior must know all
# three modes.
LIGHTS = LightConfig(albedo_only_until=0.0)


@dataclass(frozen=True)
class TrainPriorConfig:
    images: int = 1_500_000             # training images of this run
    minutes: float = 0.0                # stop (and anneal) by time instead; 0: by images
    batch: int = 48                     # per process
    learning_rate: float = 1.2e-3
    warmup_images: int = 3000
    final_learning_rate: float = 0.03   # factor at the end of the run (cosine)
    ema_half_life: int = 40_000         # images
    views_per_class: int = 1200         # reservoir size of one process
    chunk: int = 12                     # views of one class traced at a time
    trace_every: int = 6                # steps between new chunks
    seed: int = 0
    save_every: float = 300.0           # seconds
    report_every: int = 100             # steps
    sheet_steps: int = 30               # steps of the sampler for the sheet at the end


class Reservoir:
    """G-buffers with their class and camera angles; new chunks replace the oldest of their class once it is full."""

    def __init__(self, config: TrainPriorConfig, random: np.random.Generator):
        self.config, self.random = config, random
        self.buffers: list[list[tuple]] = [[] for _ in CLASSES]
        self.next = 0

    def grow(self) -> None:
        """Trace one chunk of the next class."""
        index, n = self.next % len(CLASSES), self.config.chunk
        self.next += 1
        camera = CameraConfig() if self.random.random() < PAPER_CAMERA_SHARE else FRAMED_CAMERAS
        cameras = sample_cameras(replace(camera, stratified_azimuth=False), n, self.random)
        u = torch.tensor(self.random.uniform(-1, 1, (n, PARAMETERS)), dtype=torch.float32)
        shelf = self.buffers[index]
        shelf.append((trace(CLASSES[index], u, cameras), cameras))
        if len(shelf) > max(1, self.config.views_per_class // n):
            shelf.pop(0)

    def batch(self, n: int):
        """n random views: G-buffer, class indices, camera positions, azimuths, elevations."""
        filled = [i for i, shelf in enumerate(self.buffers) if shelf]
        weights = CLASS_WEIGHTS[filled] / CLASS_WEIGHTS[filled].sum()
        classes = [filled[k] for k in self.random.choice(len(filled), size=n, p=weights)]
        picks = [(self.buffers[c][self.random.integers(len(self.buffers[c]))], self.random.integers(self.config.chunk))
                 for c in classes]
        buffer = GBuffer.cat([chunk[0][k:k + 1] for chunk, k in picks])
        position, azimuth, elevation = (torch.stack([getattr(chunk[1], name)[k] for chunk, k in picks])
                                        for name in ("position", "azimuth", "elevation"))
        return buffer, classes, position, azimuth, elevation


def backgrounds(n: int, resolution: int, random: np.random.Generator) -> torch.Tensor:
    """(n, H, W, 3): one grey or colour (75 %), a linear gradient of two (15 %), or a smooth random field (10 %)."""
    def colors():
        c = torch.tensor(random.random((n, 1, 1, 3)), dtype=torch.float32)
        return torch.where(torch.tensor(random.random((n, 1, 1, 1)) < 0.3), c[..., :1].expand_as(c), c)

    kind = torch.tensor(random.random((n, 1, 1, 1)))
    axis = torch.linspace(-1, 1, resolution)
    angle = torch.tensor(random.random((n, 1, 1)) * 2 * math.pi, dtype=torch.float32)
    ramp = (0.5 + 0.35 * (axis[None, :, None] * angle.sin() + axis[None, None, :] * angle.cos()))[..., None]
    low = torch.tensor(random.random((n, 3, 4, 4)), dtype=torch.float32)
    smooth = torch.nn.functional.interpolate(low, size=resolution, mode="bicubic", align_corners=True)
    smooth = smooth.permute(0, 2, 3, 1)
    one = colors()
    out = torch.where(kind < 0.75, one, torch.where(kind < 0.9, one + (colors() - one) * ramp, smooth))
    return out.clamp(0, 1)


def sample_noise_levels(n: int, random: np.random.Generator) -> np.ndarray:
    """(n,) int64 timesteps of 1000, stratified: TEXT_SHARE of them uniform above TEXT_FROM, the others
    u^HIGH_NOISE_POWER.

    The mean picture of a class from one side is sharp, but it differs little between sides beside what random colours
    and backgrounds do to a batch: few pictures at full noise leave the view words unlearnt for very long.
    """
    u = (np.arange(n) + random.random(n)) / n
    text = TEXT_FROM + (1 - TEXT_FROM) * u / TEXT_SHARE
    rest = ((u - TEXT_SHARE).clip(0) / (1 - TEXT_SHARE)) ** HIGH_NOISE_POWER
    return (np.where(u < TEXT_SHARE, text, rest) * 1000).astype(np.int64).clip(0, 999)


def training_batch(reservoir: Reservoir, n: int,
                   random: np.random.Generator) -> tuple[torch.Tensor, list[str], np.ndarray]:
    """(n, 3, 64, 64) images in [-1, 1], their captions and the timesteps at which to show them.

    Where the noise hides the background (BLIND), it is its mean, mid-grey, which is what the model should answer: a
    random one there would only be noise in the gradient, several times what the toys have to say.
    """
    steps = sample_noise_levels(n, random)
    buffer, classes, position, azimuth, elevation = reservoir.batch(n)
    palette = torch.tensor(list(COLORS.values()), dtype=torch.float32)
    color = random.integers(len(COLORS), size=n)
    jitter = lambda *shape: torch.tensor(random.normal(0, COLOR_JITTER, shape), dtype=torch.float32)  # noqa: E731
    colors = part_colors(palette[color])
    repaint = torch.tensor(random.random(colors.shape[:2]) < REPAINT_PROBABILITY)
    repaint[:, [MAIN, SHADE]] = False
    other = palette[random.integers(len(COLORS), size=colors.shape[:2])]
    colors = (torch.where(repaint[..., None], other, colors) + jitter(*colors.shape)).clamp(0, 1)
    modes = sample_modes(LIGHTS, n, 1.0, random)
    rows = shading_rows(LIGHTS, sample_light_positions(LIGHTS, position, random), modes)
    behind = backgrounds(n, buffer.slot.shape[-1], random)
    behind[steps >= BLIND] = 0.5
    image = shade(buffer, colors, rows, behind)
    names = list(COLORS)
    texts = [caption(CLASSES[c], names[k], float(a), float(e), int(m), random)
             for c, k, a, e, m in zip(classes, color, azimuth, elevation, modes)]
    return image.permute(0, 3, 1, 2) * 2 - 1, texts, steps


def denoising_loss(prior: Prior, image: torch.Tensor, texts: list[str], steps: np.ndarray) -> torch.Tensor:
    """E w(t) || x_hat - x ||^2 with w = min(1 / sigma_t^2, MAX_WEIGHT): the squared error of v (Salimans & Ho 2022),
    bounded where there is little noise as in Hang et al. (2023). steps: (n,) int64 timesteps."""
    steps = torch.tensor(steps).to(image.device)
    abar = prior.scheduler.alphas_cumprod.to(image.device)[steps].view(-1, 1, 1, 1)
    noisy = abar.sqrt() * image + (1 - abar).sqrt() * torch.randn_like(image)
    factor = pixel_shuffle_factor(prior.unet)
    squeeze = lambda x: torch.nn.functional.pixel_unshuffle(x, factor)  # noqa: E731
    tokens = tokenize(prior.tokenizer, texts).to(image.device)
    with torch.autocast(image.device.type, torch.bfloat16):
        hidden = prior.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        x = prior.unet(squeeze(noisy), steps, hidden, encoder_attention_mask=tokens.attention_mask).sample
    weight = (1 / (1 - abar)).clamp(max=MAX_WEIGHT)
    return (weight * (x.float() - squeeze(image)).square()).mean()


def pixel_shuffle_factor(unet) -> int:
    """How many pixels a side the UNet packs into channels: in_channels = 3 * factor^2."""
    return math.isqrt(unet.config.in_channels // 3)


def tokenize(tokenizer, texts: list[str]):
    return tokenizer(texts, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
