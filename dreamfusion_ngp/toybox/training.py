"""Training of the embedded prior: `dreamfusion-ngp train-prior`.

Denoising-diffusion training (prediction of the clean picture) on pictures of toys. Every process keeps a reservoir of
G-buffers that grows and turns over while it trains, and shades each batch afresh. Several one-thread processes with
averaged gradients are faster on a CPU than one process with several threads. Resumes from a saved folder alone: the
optimiser's state is rebuilt by a short warm-up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from ..cameras import Cameras, sample_cameras
from ..config import FRAMED_CAMERAS, CameraConfig, LightConfig
from ..lights import sample_light_positions, sample_modes, shading_rows
from ..packing import pack, unpack
from ..prompts import fine_view
from .captions import caption
from .model import MAX_TOKENS, Prior
from .shapes import CLASSES, COLORS, MAIN, PARAMETERS, SHADE
from .world import GBuffer, part_colors, shade, trace

PAPER_CAMERA_SHARE = 0.2        # the rest has constant framing, what preset `fast` uses
REPAINT_PROBABILITY = 0.35      # of a secondary part, to a random colour
COLOR_JITTER = 0.04             # standard deviation per channel
HIGH_NOISE_POWER = 0.65         # t = u^power: more high noise, where shape and view are decided
TEXT_SHARE, TEXT_FROM = 0.2, 0.92  # of the pictures, at t above this, where little but the text is there to go by
BLIND = 980                     # timesteps from here on show nothing: 1/34 of a background, less of a toy
BLIND_SHARE = (0.75, 0.12)      # of the pictures, at these timesteps: in the first part of a run and after
WHOLE_CAPTIONS = 0.75           # of the captions in the first part of a run leave nothing out
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
    learning_rate: float = 0.9e-3
    text_phase: float = 0.3             # part of the run that mostly learns what the text alone says
    warmup_images: int = 3000
    final_learning_rate: float = 0.03   # factor at the end of the run (cosine)
    ema_half_life: int = 40_000         # images
    views_per_class: int = 1200         # reservoir size of one process
    chunk: int = 6                      # views of one class under the same view words, traced at a time
    trace_every: int = 6                # steps between new chunks
    seed: int = 0
    save_every: float = 300.0           # seconds
    report_every: int = 100             # steps
    sheet_steps: int = 30               # steps of the sampler for the sheet at the end


class Reservoir:
    """G-buffers with their class and cameras; new chunks replace the oldest of their class once it is full.

    A chunk shows one class under the same view words, so that its pictures in the same colours average to what their
    caption says.
    """

    def __init__(self, config: TrainPriorConfig, random: np.random.Generator):
        self.config, self.random = config, random
        self.buffers: list[list[tuple]] = [[] for _ in CLASSES]
        self.next = 0

    def fill(self) -> None:
        """Trace until every class has all its views, which takes minutes."""
        for _ in range(len(CLASSES) * max(1, self.config.views_per_class // self.config.chunk)):
            self.grow()

    def grow(self) -> None:
        """Trace one chunk of the next class."""
        index, n = self.next % len(CLASSES), self.config.chunk
        self.next += 1
        camera = CameraConfig() if self.random.random() < PAPER_CAMERA_SHARE else FRAMED_CAMERAS
        cameras = cameras_under_one_word(replace(camera, stratified_azimuth=False), n, self.random)
        u = torch.tensor(self.random.uniform(-1, 1, (n, PARAMETERS)), dtype=torch.float32)
        shelf = self.buffers[index]
        shelf.append((trace(CLASSES[index], u, cameras), cameras))
        if len(shelf) > max(1, self.config.views_per_class // n):
            shelf.pop(0)

    def batch(self, whole: np.ndarray):
        """A random view for each False of `whole` (n,), a whole random chunk for each True.

        Returns: G-buffer of m >= n views, for each of them the index of its sample (m,), class indices (n,), camera
        positions (m, 3), azimuths and elevations (n,).
        """
        filled = [i for i, shelf in enumerate(self.buffers) if shelf]
        weights = CLASS_WEIGHTS[filled] / CLASS_WEIGHTS[filled].sum()
        classes = [filled[k] for k in self.random.choice(len(filled), size=len(whole), p=weights)]
        chunks = [self.buffers[c][self.random.integers(len(self.buffers[c]))] for c in classes]
        first = self.random.integers(self.config.chunk, size=len(whole))
        rows = [slice(None) if w else slice(k, k + 1) for w, k in zip(whole, first)]
        buffer = GBuffer.cat([traced[row] for (traced, _), row in zip(chunks, rows)])
        position = torch.cat([cameras.position[row] for (_, cameras), row in zip(chunks, rows)])
        owner = torch.tensor(np.repeat(np.arange(len(whole)), np.where(whole, self.config.chunk, 1)))
        azimuth, elevation = (torch.stack([getattr(cameras, name)[k] for (_, cameras), k in zip(chunks, first)])
                              for name in ("azimuth", "elevation"))
        return buffer, owner, classes, position, azimuth, elevation


def cameras_under_one_word(config: CameraConfig, n: int, random: np.random.Generator) -> Cameras:
    """n random cameras whose views have the same words as that of the first."""
    pool = sample_cameras(config, 40 * n, random)
    words = [fine_view(a, e) for a, e in zip(pool.azimuth.tolist(), pool.elevation.tolist())]
    same = np.array([i for i, word in enumerate(words) if word == words[0]])
    pick = torch.tensor(np.resize(same, n))  # the rarest words come less often than n times: then some repeat
    return Cameras(*(getattr(pool, f.name)[pick] for f in fields(Cameras)))


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


def sample_noise_levels(n: int, random: np.random.Generator, blind: float = BLIND_SHARE[1]) -> np.ndarray:
    """(n,) int64 timesteps of 1000, stratified: the share `blind` uniform from BLIND on; of the others TEXT_SHARE
    uniform from TEXT_FROM to BLIND, the rest u^HIGH_NOISE_POWER.

    The mean picture of a class from one side is sharp, but it differs little between sides: few pictures at full noise
    leave the view words unlearnt for very long.
    """
    u = (np.arange(n) + random.random(n)) / n
    v = ((u - blind) / (1 - blind)).clip(0)
    end = BLIND / 1000
    text = TEXT_FROM + (end - TEXT_FROM) * v / TEXT_SHARE
    rest = ((v - TEXT_SHARE).clip(0) / (1 - TEXT_SHARE)) ** HIGH_NOISE_POWER
    t = np.where(u < blind, end + (1 - end) * u / max(blind, 1e-9), np.where(v < TEXT_SHARE, text, rest))
    return (t * 1000).astype(np.int64).clip(0, 999)


def training_batch(reservoir: Reservoir, n: int, random: np.random.Generator,
                   blind: float = BLIND_SHARE[1]) -> tuple[torch.Tensor, list[str], np.ndarray]:
    """(n, 3, 64, 64) images in [-1, 1], their captions and the timesteps at which to show them.

    Where the noise hides everything (from BLIND on) the right answer is the mean of all that the caption may mean.
    There the picture is the mean over a chunk, of other proportions, lights and repainted parts, before mid-grey: the
    same expectation with less noise in the gradient.
    """
    steps = sample_noise_levels(n, random, blind)
    hidden = steps >= BLIND
    buffer, owner, classes, position, azimuth, elevation = reservoir.batch(hidden)
    palette = torch.tensor(list(COLORS.values()), dtype=torch.float32)
    color = random.integers(len(COLORS), size=n)
    jitter = lambda *shape: torch.tensor(random.normal(0, COLOR_JITTER, shape), dtype=torch.float32)  # noqa: E731
    colors = part_colors(palette[color])[owner]
    repaint = torch.tensor(random.random(colors.shape[:2]) < REPAINT_PROBABILITY)
    repaint[:, [MAIN, SHADE]] = False
    other = palette[random.integers(len(COLORS), size=colors.shape[:2])]
    colors = (torch.where(repaint[..., None], other, colors) + jitter(*colors.shape)).clamp(0, 1)
    modes = sample_modes(LIGHTS, n, 1.0, random)
    rows = shading_rows(LIGHTS, sample_light_positions(LIGHTS, position, random), modes[owner.numpy()])
    behind = backgrounds(n, buffer.slot.shape[-1], random)
    behind[hidden] = 0.5
    shaded = shade(buffer, colors, rows, behind[owner])
    image = torch.zeros_like(behind).expand(-1, *shaded.shape[1:]).index_add(0, owner, shaded)
    image = image / torch.bincount(owner).view(-1, 1, 1, 1)
    names = list(COLORS)
    # While the text is all that is learnt, most captions of hidden pictures say all there is to say.
    whole = hidden & (blind > 0.5) & (random.random(n) < WHOLE_CAPTIONS)
    texts = [caption(CLASSES[c], names[k], float(a), float(e), int(m), random, bool(w))
             for c, k, a, e, m, w in zip(classes, color, azimuth, elevation, modes, whole)]
    return image.permute(0, 3, 1, 2) * 2 - 1, texts, steps


def denoising_loss(prior: Prior, image: torch.Tensor, texts: list[str], steps: np.ndarray) -> torch.Tensor:
    """E w(t) || x_hat - x ||^2 with w = min(1 / sigma_t^2, MAX_WEIGHT): the squared error of v (Salimans & Ho 2022),
    bounded where there is little noise as in Hang et al. (2023). steps: (n,) int64 timesteps."""
    steps = torch.tensor(steps).to(image.device)
    abar = prior.scheduler.alphas_cumprod.to(image.device)[steps].view(-1, 1, 1, 1)
    noisy = abar.sqrt() * image + (1 - abar).sqrt() * torch.randn_like(image)
    tokens = tokenize(prior.tokenizer, texts).to(image.device)
    with torch.autocast(image.device.type, torch.bfloat16):
        hidden = prior.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        x = prior.unet(pack(noisy, prior.unet.config.in_channels), steps, hidden,
                       encoder_attention_mask=tokens.attention_mask).sample
    weight = (1 / (1 - abar)).clamp(max=MAX_WEIGHT)
    return (weight * (unpack(x.float()) - image).square()).mean()


def tokenize(tokenizer, texts: list[str]):
    return tokenizer(texts, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
