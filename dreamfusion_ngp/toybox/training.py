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
from ..packing import pack, unpack
from .captions import caption
from .means import MeanPictures, picture
from .model import MAX_TOKENS, Prior
from .shapes import CLASSES, COLORS, MAIN, PARAMETERS, SHADE
from .world import GBuffer, part_colors, shade, trace

PAPER_CAMERA_SHARE = 0.2        # the rest has constant framing, what preset `fast` uses
REPAINT_PROBABILITY = 0.35      # of a secondary part, to a random colour
COLOR_JITTER = 0.04             # standard deviation per channel
HIGH_NOISE_POWER = 0.65         # t = u^power: more high noise, where shape and view are decided
TEXT_SHARE, TEXT_FROM = 0.55, 0.85  # of the pictures, at t above this, where little but the text is there to go by
BLIND = 980                     # timesteps from here on show nothing: 1/34 of a background, less of a toy
BLIND_SHARE = (0.75, 0.3)       # of the pictures, at these timesteps: in the first part of a run and after
WHOLE_CAPTIONS = 0.75           # of the captions in the first part of a run leave nothing out
MAX_WEIGHT = 5.0                # of the squared error of a picture with little noise
# Six primitives are learnt early, four others look alike from all sides. The views of three toys are learnt last.
EASY = ("sphere", "cube", "cylinder", "cone", "torus", "pyramid", "lamp", "mushroom", "tree", "snowman")
HARD = ("airplane", "house", "mug")
CLASS_WEIGHTS = np.array([0.4 if name in EASY else 1.6 if name in HARD else 1.0 for name in CLASSES])
# Paper: lit with probability 0.75, half of these textureless; here for the whole run, since the prior must know all
# three modes.
LIGHTS = LightConfig(albedo_only_until=0.0)
PALETTE = torch.tensor(list(COLORS.values()), dtype=torch.float32)


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
    chunk: int = 6                      # views of one class, traced at a time
    trace_every: int = 6                # steps between new chunks
    seed: int = 0
    save_every: float = 300.0           # seconds
    score_every: float = 1500.0         # seconds between scores of samples
    report_every: int = 100             # steps
    sheet_steps: int = 30               # steps of the sampler for the sheet at the end


class Reservoir:
    """G-buffers with their class and cameras; new chunks replace the oldest of their class once it is full. What was
    ever traced stays in `means`."""

    def __init__(self, config: TrainPriorConfig, random: np.random.Generator):
        self.config, self.random = config, random
        self.buffers: list[list[tuple]] = [[] for _ in CLASSES]
        self.means = MeanPictures(LIGHTS)
        self.next = 0

    def fill(self) -> None:
        """Trace until every class has all its views, which takes minutes."""
        for _ in range(len(CLASSES) * max(1, self.config.views_per_class // self.config.chunk)):
            self.grow()

    def grow(self) -> None:
        """Trace one chunk of the next class."""
        index, n = self.next % len(CLASSES), self.config.chunk
        self.next += 1
        framed = index not in self.means.means or bool(self.random.random() >= PAPER_CAMERA_SHARE)
        camera = FRAMED_CAMERAS if framed else CameraConfig()
        cameras = sample_cameras(replace(camera, stratified_azimuth=False), n, self.random)
        u = torch.tensor(self.random.uniform(-1, 1, (n, PARAMETERS)), dtype=torch.float32)
        shelf, buffer = self.buffers[index], trace(CLASSES[index], u, cameras)
        if framed:
            self.means.add(index, buffer, cameras, self.random)
        shelf.append((buffer, cameras, framed))
        if len(shelf) > max(1, self.config.views_per_class // n):
            shelf.pop(0)

    def draw_classes(self, n: int) -> list[int]:
        """n class indices among those that have views."""
        filled = [i for i, shelf in enumerate(self.buffers) if shelf]
        weights = CLASS_WEIGHTS[filled] / CLASS_WEIGHTS[filled].sum()
        return [filled[k] for k in self.random.choice(len(filled), size=n, p=weights)]

    def views(self, classes: list[int]):
        """A random view of each class: G-buffers, camera positions (n, 3), azimuths and elevations (n,), and whether
        the cameras are of constant framing (n,)."""
        chunks = [self.buffers[c][self.random.integers(len(self.buffers[c]))] for c in classes]
        rows = [slice(k, k + 1) for k in self.random.integers(self.config.chunk, size=len(chunks))]
        buffer = GBuffer.cat([traced[row] for (traced, _, _), row in zip(chunks, rows)])
        angles = (torch.cat([getattr(cameras, name)[row] for (_, cameras, _), row in zip(chunks, rows)])
                  for name in ("position", "azimuth", "elevation"))
        return buffer, *angles, np.array([framed for _, _, framed in chunks])


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
    There the picture is that mean before mid-grey (`means`): the same expectation without noise in the gradient.
    """
    steps = sample_noise_levels(n, random, blind)
    hidden = steps >= BLIND
    classes, names = reservoir.draw_classes(n), list(COLORS)
    color, modes = random.integers(len(names), size=n), sample_modes(LIGHTS, n, 1.0, random)
    images, angles, framed = [None] * n, [None] * n, np.ones(n, bool)
    for i in np.flatnonzero(hidden):
        mean, *angles[i] = reservoir.means.draw(classes[i], random)
        images[i] = picture(mean, mean_colors(color[i]), int(modes[i]), 0.5)
    shown = np.flatnonzero(~hidden)
    if len(shown):
        seen, azimuth, elevation, framed[shown] = shown_pictures(reservoir, [classes[i] for i in shown], color[shown],
                                                                 modes[shown], random)
        for k, i in enumerate(shown):
            images[i], angles[i] = seen[k], (float(azimuth[k]), float(elevation[k]))
    # While the text is all that is learnt, most captions of hidden pictures say all there is to say.
    whole = hidden & (blind > 0.5) & (random.random(n) < WHOLE_CAPTIONS)
    texts = [caption(CLASSES[c], names[k], *a, int(m), random, bool(f), bool(w))
             for c, k, a, m, f, w in zip(classes, color, angles, modes, framed, whole)]
    return torch.stack(images).permute(0, 3, 1, 2) * 2 - 1, texts, steps


def shown_pictures(reservoir: Reservoir, classes: list[int], color: np.ndarray, modes: np.ndarray,
                   random: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, np.ndarray]:
    """(n, H, W, 3) pictures in [0, 1] with random lights, backgrounds, jittered and repainted colours; azimuths and
    elevations (n,); whether they are of constant framing (n,)."""
    buffer, position, azimuth, elevation, framed = reservoir.views(classes)
    colors = random_colors(color, random)
    rows = shading_rows(LIGHTS, sample_light_positions(LIGHTS, position, random), modes)
    behind = backgrounds(len(classes), buffer.slot.shape[-1], random)
    return shade(buffer, colors, rows, behind), azimuth, elevation, framed


def random_colors(color: np.ndarray, random: np.random.Generator) -> torch.Tensor:
    """(n, slots, 3) colours of the parts of toys whose main colours are rows of the palette: jittered, the secondary
    parts repainted now and then."""
    colors = part_colors(PALETTE[color])
    repaint = torch.tensor(random.random(colors.shape[:2]) < REPAINT_PROBABILITY)
    repaint[:, [MAIN, SHADE]] = False
    other = PALETTE[random.integers(len(PALETTE), size=colors.shape[:2])]
    jitter = torch.tensor(random.normal(0, COLOR_JITTER, tuple(colors.shape)), dtype=torch.float32)
    return (torch.where(repaint[..., None], other, colors) + jitter).clamp(0, 1)


def mean_colors(color: int) -> torch.Tensor:
    """(slots, 3) expected colours of the parts of a toy in the palette's colour `color`."""
    own = part_colors(PALETTE[color][None])[0]
    mean = (1 - REPAINT_PROBABILITY) * own + REPAINT_PROBABILITY * PALETTE.mean(0)
    mean[[MAIN, SHADE]] = own[[MAIN, SHADE]]
    return mean


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
