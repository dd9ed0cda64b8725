"""Training of the embedded judge: `dreamfusion-ngp train-judge`.

Its pictures show the same toys as the prior's and share nothing else with them: cameras have longer lenses and no
jitter, none is at the elevation from which results are judged; colours vary by brightness and hue, not by noise;
backgrounds are checkerboards, stripes and light greys. Blur and noise imitate the artefacts of an optimisation.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..base.cuda_graphs import CudaCapture, Repeated
from ..base.errors import DivergenceError, UsageError
from ..base.precision import autocast
from ..base.rng import SEED_LIMIT
from ..base.slots import sent
from ..scene.cameras import orbit
from ..toybox.prior.cache import Shelves
from ..toybox.prior.optimizer import MuonAdamW, check_device
from ..toybox.world.captions import subject
from ..toybox.world.shapes import CLASSES, COLORS, DIRECTIONAL, MAIN, PARAMETERS, SHADE
from ..toybox.world.tracer import part_colors, shade, trace
from .azimuths import right_sides
from .judge import SIZE, Judge, save_judge, word_counts
from .pictures import AZIMUTHS, ELEVATION, judging_cameras, shaded
from .retrieval import AZIMUTH_STEP, azimuth_captions, retrieved, toy_captions

FOCAL = (1.4, 2.2)  # image widths; the prior's end at 1.35
FRAMING = (1.2, 1.5)  # distance in world units per focal length
ELEVATIONS = (0.0, 65.0)  # degrees, except within APART of the elevation at which results are judged
APART = 3.0
BRIGHTNESS, HUE = (0.75, 1.15), 0.06  # factor; largest change of a channel
REPAINT = 0.4  # probability, of a secondary part, of any colour
CLAY_SHARE, FLAT_SHARE = 0.4, 0.15  # of the pictures: textureless; unlit; the others are lit
GREY_SHARE = 0.4  # of the backgrounds; on these white clay is hardest to see
REPORT_EVERY = 15.0  # seconds
OUTER = ("image.0",)  # the first convolution is not a hidden matrix
PALETTE = torch.tensor(list(COLORS.values()))


@dataclass(frozen=True)
class TrainJudgeConfig:
    minutes: float = 25.0  # of training, without the held-out test at its end
    images: int = 0  # stop after so many instead; 0: by time
    batch: int = 64
    learning_rate: float = 1.25e-3  # of AdamW; Muon's is `toybox.optimizer.MATRIX_RATE` times that
    warmup: int = 50  # steps
    views_per_class: int = 240
    chunk: int = 6  # views of one toy traced at a time
    trace_every: int = 2  # steps between new chunks
    seed: int = 0


# On a GPU larger batches, as launches cost the same for any: on an H200 14,700 pictures a second.
GPU = TrainJudgeConfig(batch=256, views_per_class=2048, chunk=256, trace_every=32)


class Views:
    """G-buffers of every class, the oldest replaced by new ones."""

    def __init__(self, config: TrainJudgeConfig, random: np.random.Generator, device: str | torch.device = "cpu"):
        self.config, self.random, self.device, self.next = config, random, device, 0
        self.shelves = Shelves(config.views_per_class, device, SIZE)
        for _ in range(len(CLASSES) * max(1, min(4, config.views_per_class // config.chunk))):
            self.grow()

    def grow(self) -> None:
        """Trace one chunk of the next class."""
        index, self.next, n = self.next % len(CLASSES), self.next + 1, self.config.chunk
        cameras = training_cameras(n, self.random)
        u = sent(self.random.uniform(-1, 1, (n, PARAMETERS)), self.device, torch.float32)
        self.shelves.add(index, trace(CLASSES[index], u, cameras.to(self.device), SIZE), cameras)


def training_cameras(n: int, random: np.random.Generator):
    """n cameras that occur neither in the prior's training nor in the evaluation."""
    low, high = ELEVATIONS
    elevation = low + (high - low - 2 * APART) * random.random(n)
    elevation = np.where(elevation > ELEVATION - APART, elevation + 2 * APART, elevation)
    focal = random.uniform(*FOCAL, n)
    return orbit(360 * random.random(n), elevation, focal * random.uniform(*FRAMING, n), focal)


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


def backgrounds(n: int, random: np.random.Generator, device: str | torch.device = "cpu") -> torch.Tensor:
    """(n, SIZE, SIZE, 3): checkerboards or stripes of two colours, cells of 4 to 24 pixels; GREY_SHARE of them are
    light greys."""

    def draw(*shape, low=0.0, high=1.0):
        return sent(random.uniform(low, high, shape), device, torch.float32)

    cell, phase = draw(n, 1, 1, low=4, high=24), draw(2, n, 1, 1, low=0, high=48)
    axis = torch.arange(SIZE, dtype=torch.float32, device=device)
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
    strength = sent(random.uniform(0, 0.05, (len(pictures), 1, 1, 1)), pictures.device, torch.float32)
    return (soft + torch.randn_like(soft) * strength).clamp(0, 1)


def training_batch(views: Views, n: int, random: np.random.Generator):
    """(pictures (n, SIZE, SIZE, 3), classes (n,), colours (n,), clay (n,) bool, azimuths (n,) in degrees), on the
    device of the views."""
    classes, color = random.integers(len(CLASSES), size=n), random.integers(len(COLORS), size=n)
    clay = random.random(n) < CLAY_SHARE
    batch = views.shelves.draw(classes, random)
    colors, rows = training_colors(color, random), training_lights(batch.position, clay, random)
    pictures = shade(
        batch.buffer, sent(colors, views.device), sent(rows, views.device), backgrounds(n, random, views.device)
    )
    return (
        wear(pictures.clamp(0, 1), random),
        *(sent(values, views.device) for values in (classes, color, clay)),
        sent(np.rad2deg(batch.azimuth), views.device, torch.float32),
    )


class RetrievalLoss:
    """Cross-entropy of the class's caption among all toys for every picture, plus, for coloured ones, that of the whole
    caption among all toys in all colours, plus, for toys with a front, that of the azimuth."""

    def __init__(self, judge: Judge):
        colored, plain = toy_captions()
        turned = [caption for name in CLASSES for caption in azimuth_captions(name)]
        self.judge, self.sizes = judge, [len(plain), len(colored), len(turned)]
        weight = judge.words.weight
        self.counts = word_counts([*plain, *colored, *turned]).to(weight)
        self.has_front = torch.tensor([name in DIRECTIONAL for name in CLASSES]).to(weight)

    def __call__(self, pictures, classes, color, clay, azimuth) -> torch.Tensor:
        judge, device = self.judge, pictures.device
        with autocast(device):
            features = judge.encode_images(pictures)
        named, whole, views = judge.encode_counts(self.counts).split(self.sizes)
        scale, n = judge.scale(), len(features)
        loss = torch.nn.functional.cross_entropy(scale * features @ named.T, classes)
        colors = torch.nn.functional.cross_entropy(
            scale * features @ whole.T, classes * len(COLORS) + color, reduction="none"
        )
        azimuth_rows = views.view(len(CLASSES), -1, views.shape[1])[classes]
        nearest = (azimuth / AZIMUTH_STEP).round().long() % azimuth_rows.shape[1]
        sides = torch.nn.functional.cross_entropy(
            scale * (azimuth_rows @ features[..., None]).view(n, -1), nearest, reduction="none"
        )
        return loss + masked_mean(colors, ~clay) + masked_mean(sides, self.has_front[classes])


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (values * mask).sum() / mask.sum().clamp(min=1)


def held_out(retrieval, views: bool = True) -> dict:
    """Accuracy in [0, 1] on true toys, canonical, from the cameras of the evaluation: the row "GT images" of the
    paper's table. color: among 220 captions, lit; geo: among 20, textureless; view: the azimuth, lit, for toys with a
    front (`azimuths`), if the model knows words for azimuths (`views`); worst: the class with the lowest of the first
    two, and these."""
    colored, plain = toy_captions()
    color, geo, view, cameras = [], [], [], judging_cameras()
    for index, name in enumerate(CLASSES):
        buffer = trace(name, torch.zeros(len(cameras), PARAMETERS), cameras, SIZE)
        pictures = [shaded(buffer, COLORS[c], cameras) for c in COLORS]
        lit = torch.cat([p.lit for p in pictures])
        picks = retrieved(retrieval, lit, colored)
        truth = torch.tensor([colored.index(subject(name, c)) for c in COLORS]).repeat_interleave(len(cameras))
        color.append(float((picks == truth).float().mean()))
        geo.append(float((retrieved(retrieval, pictures[0].clay, plain) == index).float().mean()))
        if views and name in DIRECTIONAL:
            view.append(float(right_sides(retrieval, lit, name, list(AZIMUTHS) * len(COLORS)).float().mean()))
    lowest = min(range(len(CLASSES)), key=lambda i: min(color[i], geo[i]))
    return {
        "color": float(np.mean(color)),
        "geo": float(np.mean(geo)),
        **({"view": float(np.mean(view))} if views else {}),
        "worst": {"class": CLASSES[lowest], "color": color[lowest], "geo": geo[lowest]},
    }


def train_judge(config: TrainJudgeConfig, out: Path, show=print, device: str = "cpu") -> Judge:
    """Train, test on held-out true renderings, and write `out`. Raises UsageError before anything is done,
    DivergenceError for weights that are not finite, which are not written."""
    check_request(config, Path(out), device)
    random = np.random.default_rng([config.seed, 7])
    torch.manual_seed(config.seed)
    judge = Judge()
    judge.to(device=device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    judge.train()
    optimizer, loss_of = MuonAdamW([judge], outer=OUTER), RetrievalLoss(judge)

    def gradients(*batch) -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(*batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(judge.parameters(), 1.0)
        optimizer.aim()
        return loss.detach()

    learn = Repeated(gradients, CudaCapture()) if torch.device(device).type == "cuda" else gradients
    views, steps, recent, curve = Views(config, random, device), 0, [], []
    began = reported = time.monotonic()
    while (done := progress(config, steps, began)) < 1:
        rate = config.learning_rate * min(1, (steps + 1) / config.warmup) * (0.5 + 0.5 * math.cos(math.pi * done))
        recent.append(learn(*training_batch(views, config.batch, random)).clone())
        optimizer.move(rate)
        steps += 1
        if steps % config.trace_every == 0:
            views.grow()
        if time.monotonic() - reported > REPORT_EVERY:
            curve.append([steps * config.batch, round(float(torch.stack(recent).mean()), 4)])
            show(f"images {curve[-1][0]:>8,}  loss {curve[-1][1]:.3f}  {done:.0%}")
            reported, recent = time.monotonic(), []
    if recent:
        curve.append([steps * config.batch, round(float(torch.stack(recent).mean()), 4)])
    judge.to(device="cpu", memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    judge.eval().requires_grad_(False)
    if not all(bool(p.isfinite().all()) for p in judge.parameters()):
        raise DivergenceError("train-judge: a weight is not finite: not saved (another seed may help)")
    minutes = round((time.monotonic() - began) / 60, 2)
    judge.log = {
        "images": steps * config.batch,
        "seed": config.seed,
        "minutes": minutes,
        "loss": curve,
        "held_out": held_out(judge),
    }
    save_judge(out, judge)
    return judge


def progress(config: TrainJudgeConfig, steps: int, began: float) -> float:
    """Fraction of the run that is done, by images or by time."""
    if config.images:
        return steps * config.batch / config.images
    return (time.monotonic() - began) / (60 * config.minutes)


def check_request(config: TrainJudgeConfig, out: Path, device: str) -> None:
    check_device("train-judge", device)
    if config.images < 0 or not 0 < config.minutes < math.inf or not 0 <= config.seed < SEED_LIMIT:
        raise UsageError(
            f"train-judge: --images must not be negative, --seed be from 0 to {SEED_LIMIT - 1}, --minutes above 0"
        )
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise UsageError(f"train-judge: {out} is a folder or lies in none; give a file, e.g. -o judge.safetensors")
