"""Training of the embedded judge: `dreamfusion-ngp train-judge`.

Its pictures are of the same toys as the prior's and share nothing else with them: cameras have longer lenses and no
jitter, none is at the elevation from which results are judged; colours differ by brightness and hue, not by noise;
backgrounds are checkerboards, stripes and light greys. Blur and noise stand for what an optimisation leaves.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..cameras import orbit
from ..errors import UsageError
from ..guidance.unet import multiplies_bfloat16
from ..toybox.captions import subject
from ..toybox.optimizer import MuonAdamW
from ..toybox.shapes import CLASSES, COLORS, DIRECTIONAL, MAIN, PARAMETERS, SHADE
from ..toybox.world import GBuffer, part_colors, shade, trace
from .azimuths import right_sides
from .judge import SIZE, Judge, save_judge
from .pictures import AZIMUTHS, ELEVATION, judging_cameras, shaded
from .retrieval import AZIMUTH_STEP, azimuth_captions, retrieved, toy_captions

FOCAL = (1.4, 2.2)             # image widths; the prior's end at 1.35
FRAMING = (1.2, 1.5)           # distance in world units by focal length
ELEVATIONS = (0.0, 65.0)       # degrees, except within APART of the elevation at which results are judged
APART = 3.0
BRIGHTNESS, HUE = (0.75, 1.15), 0.06  # factor; largest change of a channel
REPAINT = 0.4                  # probability, of a secondary part, of any colour
CLAY_SHARE, FLAT_SHARE = 0.4, 0.15    # of the pictures: textureless; albedo as it is; the others are lit
GREY_SHARE = 0.4               # of the backgrounds; before them white clay is hardest to see
CHUNK = 6                      # views of one toy traced at a time
TRACE_EVERY = 2                # steps between new chunks
REPORT_EVERY = 15.0            # seconds
OUTER = ("image.0",)           # what takes pictures in is no hidden matrix
PALETTE = torch.tensor(list(COLORS.values()))
HAS_FRONT = torch.tensor([name in DIRECTIONAL for name in CLASSES])


@dataclass(frozen=True)
class TrainJudgeConfig:
    minutes: float = 25.0      # of training, besides the held-out test at its end
    images: int = 0            # stop after so many instead; 0: by time
    batch: int = 64
    learning_rate: float = 1.25e-3  # of AdamW; Muon's is `toybox.optimizer.MATRIX_RATE` times that
    warmup: int = 50           # steps
    views_per_class: int = 240
    seed: int = 0


class Views:
    """G-buffers of every class, the oldest replaced by new ones."""

    def __init__(self, config: TrainJudgeConfig, random: np.random.Generator):
        self.random, self.next = random, 0
        self.room = max(1, config.views_per_class // CHUNK)
        self.shelves: list[list] = [[] for _ in CLASSES]
        for _ in range(len(CLASSES) * min(4, self.room)):
            self.grow()

    def grow(self) -> None:
        index, self.next = self.next % len(CLASSES), self.next + 1
        cameras = training_cameras(CHUNK, self.random)
        u = torch.tensor(self.random.uniform(-1, 1, (CHUNK, PARAMETERS)), dtype=torch.float32)
        shelf = self.shelves[index]
        shelf.append((trace(CLASSES[index], u, cameras, SIZE), cameras.position, torch.rad2deg(cameras.azimuth)))
        if len(shelf) > self.room:
            shelf.pop(0)

    def draw(self, classes: np.ndarray) -> tuple[GBuffer, torch.Tensor, torch.Tensor]:
        """A view of each class: G-buffers, camera positions (n, 3), azimuths (n,) in degrees."""
        chosen = [(self.shelves[c][self.random.integers(len(self.shelves[c]))], self.random.integers(CHUNK))
                  for c in classes]
        rows = [slice(k, k + 1) for _, k in chosen]
        buffers, positions, azimuths = zip(*[[part[row] for part in chunk] for (chunk, _), row in zip(chosen, rows)])
        return GBuffer.cat(list(buffers)), torch.cat(positions), torch.cat(azimuths)


def training_cameras(n: int, random: np.random.Generator):
    """n cameras that neither the prior's training nor the evaluation has."""
    low, high = ELEVATIONS
    elevation = low + (high - low - 2 * APART) * random.random(n)
    elevation = np.where(elevation > ELEVATION - APART, elevation + 2 * APART, elevation)
    focal = random.uniform(*FOCAL)
    return orbit(360 * random.random(n), elevation, focal * random.uniform(*FRAMING), focal)


def training_colors(color: np.ndarray, random: np.random.Generator) -> torch.Tensor:
    """(n, slots, 3) colours of toys whose main colours are rows of the palette."""
    n = len(color)
    factor = torch.tensor(random.uniform(*BRIGHTNESS, (n, 1)), dtype=torch.float32)
    shift = torch.tensor(random.uniform(-HUE, HUE, (n, 3)), dtype=torch.float32)
    colors = part_colors((PALETTE[color] * factor + shift).clamp(0, 1))
    repaint = torch.tensor(random.random(colors.shape[:2]) < REPAINT)
    repaint[:, [MAIN, SHADE]] = False
    return torch.where(repaint[..., None], torch.tensor(random.random(colors.shape), dtype=torch.float32), colors)


def training_lights(position: torch.Tensor, clay: np.ndarray, random: np.random.Generator) -> torch.Tensor:
    """(n, 6) rows of the shade op: lights about the viewer's shoulder; some coloured pictures unlit."""
    n = len(clay)
    light = position * 1.3 + torch.tensor(random.normal(0, 0.6, (n, 3)), dtype=torch.float32)
    ambient = np.where((random.random(n) < FLAT_SHARE / (1 - CLAY_SHARE)) & ~clay, 1.0, random.uniform(0.25, 0.75, n))
    rows = torch.tensor(np.stack([ambient, 1 - ambient, clay], -1), dtype=torch.float32)
    return torch.cat([light, rows], -1)


def backgrounds(n: int, random: np.random.Generator) -> torch.Tensor:
    """(n, SIZE, SIZE, 3): checkerboards or stripes of two colours, cells of 4 to 24 pixels; GREY_SHARE of them are
    light greys."""
    def draw(*shape, low=0.0, high=1.0):
        return torch.tensor(random.uniform(low, high, shape), dtype=torch.float32)

    cell, phase = draw(n, 1, 1, low=4, high=24), draw(2, n, 1, 1, low=0, high=48)
    axis = torch.arange(SIZE, dtype=torch.float32)
    rows = ((axis[None, :, None] + phase[0]) / cell).floor()
    columns = ((axis[None, None, :] + phase[1]) / cell).floor() * (draw(n, 1, 1) < 0.6)
    board = ((rows + columns) % 2)[..., None]
    a, b, grey = draw(n, 1, 1, 3), draw(n, 1, 1, 3), draw(n, 1, 1, 1, low=0.8)
    return torch.where(draw(n, 1, 1, 1) < GREY_SHARE, grey, a + (b - a) * board)


def wear(pictures: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """The whole batch blurred by up to five pixels, each picture with noise of its own strength."""
    width = int(random.choice([1, 1, 3, 5]))
    x = torch.nn.functional.pad(pictures.permute(0, 3, 1, 2), (width // 2,) * 4, mode="replicate")
    soft = torch.nn.functional.avg_pool2d(x, width, 1).permute(0, 2, 3, 1)
    noise = torch.tensor(random.normal(0, 1, pictures.shape) * random.uniform(0, 0.05, (len(pictures), 1, 1, 1)))
    return (soft + noise.float()).clamp(0, 1)


def training_batch(views: Views, n: int, random: np.random.Generator):
    """(pictures (n, SIZE, SIZE, 3), classes (n,), colours (n,), clay (n,) bool, azimuths (n,) in degrees)."""
    classes, color = random.integers(len(CLASSES), size=n), random.integers(len(COLORS), size=n)
    clay = random.random(n) < CLAY_SHARE
    buffer, position, azimuth = views.draw(classes)
    pictures = shade(buffer, training_colors(color, random), training_lights(position, clay, random),
                     backgrounds(n, random))
    return (wear(pictures.clamp(0, 1), random), torch.tensor(classes), torch.tensor(color), torch.tensor(clay),
            azimuth)


def retrieval_loss(judge: Judge, pictures, classes, color, clay, azimuth) -> torch.Tensor:
    """Cross-entropy of the class's caption among the toys' for every picture, plus, for coloured ones, that of the
    whole caption among all toys in all colours, plus, where there is a front, that of the azimuth of the class."""
    colored, plain = toy_captions()
    turned = [caption for name in CLASSES for caption in azimuth_captions(name)]
    with torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bfloat16(pictures.device)):
        seen = judge.encode_images(pictures)
    texts = judge.encode_texts([*plain, *colored, *turned])
    named, whole, views = texts.split([len(plain), len(colored), len(turned)])
    scale, n = judge.scale(), len(seen)
    loss = torch.nn.functional.cross_entropy(scale * seen @ named.T, classes)
    colors = torch.nn.functional.cross_entropy(scale * seen @ whole.T, classes * len(COLORS) + color, reduction="none")
    own = views.view(len(CLASSES), -1, views.shape[1])[classes]
    nearest = (azimuth / AZIMUTH_STEP).round().long() % own.shape[1]
    sides = torch.nn.functional.cross_entropy(scale * (own @ seen[..., None]).view(n, -1), nearest, reduction="none")
    return loss + masked_mean(colors, ~clay) + masked_mean(sides, HAS_FRONT[classes])


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (values * mask).sum() / mask.sum().clamp(min=1)


def held_out(retrieval) -> dict:
    """Accuracy in [0, 1] on true toys, canonical, from the evaluation's own cameras: the row "GT images" of the paper's
    table. color: of 220 captions, lit; geo: of 20, textureless; view: lit, the azimuth, where there is a front
    (`azimuths`); worst: the class with the lowest of the first two, and it."""
    colored, plain = toy_captions()
    color, geo, view, cameras = [], [], [], judging_cameras()
    for index, name in enumerate(CLASSES):
        buffer = trace(name, torch.zeros(len(cameras), PARAMETERS), cameras, SIZE)
        own = [shaded(buffer, COLORS[c], cameras) for c in COLORS]
        lit = torch.cat([p.lit for p in own])
        found = retrieved(retrieval, lit, colored)
        truth = torch.tensor([colored.index(subject(name, c)) for c in COLORS]).repeat_interleave(len(cameras))
        color.append(float((found == truth).float().mean()))
        geo.append(float((retrieved(retrieval, own[0].clay, plain) == index).float().mean()))
        if name in DIRECTIONAL:
            view.append(float(right_sides(retrieval, lit, name, list(AZIMUTHS) * len(COLORS)).float().mean()))
    lowest = min(range(len(CLASSES)), key=lambda i: min(color[i], geo[i]))
    return {"color": float(np.mean(color)), "geo": float(np.mean(geo)), "view": float(np.mean(view)),
            "worst": {"class": CLASSES[lowest], "color": color[lowest], "geo": geo[lowest]}}


def train_judge(config: TrainJudgeConfig, out: Path, show=print) -> Judge:
    """Train, test on held-out true renderings, and write `out`. Raises UsageError before anything is done."""
    check_request(config, Path(out))
    random = np.random.default_rng([config.seed, 7])
    torch.manual_seed(config.seed)
    judge = Judge().to(memory_format=torch.channels_last).train()
    optimizer = MuonAdamW([judge], outer=OUTER)
    views, steps, recent, curve = Views(config, random), 0, [], []
    began = reported = time.monotonic()
    while (done := progress(config, steps, began)) < 1:
        rate = config.learning_rate * min(1, (steps + 1) / config.warmup) * (0.5 + 0.5 * math.cos(math.pi * done))
        loss = retrieval_loss(judge, *training_batch(views, config.batch, random))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
        optimizer.step(rate)
        recent.append(float(loss.detach()))
        steps += 1
        if steps % TRACE_EVERY == 0:
            views.grow()
        if time.monotonic() - reported > REPORT_EVERY:
            curve.append([steps * config.batch, round(float(np.mean(recent)), 4)])
            show(f"images {curve[-1][0]:>8,}  loss {curve[-1][1]:.3f}  {done:.0%}")
            reported, recent = time.monotonic(), []
    if recent:
        curve.append([steps * config.batch, round(float(np.mean(recent)), 4)])
    judge.eval().requires_grad_(False)
    minutes = round((time.monotonic() - began) / 60, 2)
    judge.log = {"images": steps * config.batch, "seed": config.seed, "minutes": minutes, "loss": curve,
                 "held_out": held_out(judge)}
    save_judge(out, judge)
    return judge


def progress(config: TrainJudgeConfig, steps: int, began: float) -> float:
    """Fraction of the run that is done, by images or by time."""
    if config.images:
        return steps * config.batch / config.images
    return (time.monotonic() - began) / (60 * config.minutes)


def check_request(config: TrainJudgeConfig, out: Path) -> None:
    if config.images < 0 or not 0 < config.minutes < math.inf or config.seed < 0:
        raise UsageError("train-judge: --images and --seed must not be negative, --minutes must be above 0")
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise UsageError(f"train-judge: {out} is a folder or lies in none; give a file, e.g. -o judge.safetensors")
