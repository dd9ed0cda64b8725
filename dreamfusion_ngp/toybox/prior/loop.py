"""The training run of the prior: processes, optimiser, moving average, saving, progress."""

from __future__ import annotations

import copy
import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from ...base.console import tolerant
from ...base.cuda_graphs import CudaCapture, Repeated
from ...base.errors import PriorError, UsageError
from ...base.slots import sent
from .loss import BLIND_SHARE, Reservoir, TrainPriorConfig, caption_ids, denoising_loss, training_batch
from .model import Prior, build_prior, load_prior, with_all_words
from .optimizer import MuonAdamW, check_device
from .processes import run_group
from .sampling import sheet


def silent(line: str) -> None:
    """Shows nothing."""


def train_prior(
    config: TrainPriorConfig,
    out: Path,
    *,
    resume: Path | None = None,
    processes: int = 1,
    device: str = "cpu",
    score: Callable[[Prior], dict] | None = None,
    show: Callable[[str], None] = silent,
) -> None:
    """Train and leave a diffusers folder in `out`, with `training.json` (images seen, loss curve, scores) and
    `samples.jpg` beside it.

    resume: a folder to start from (weights only). processes: one-thread CPU processes with averaged gradients; on CUDA
    always 1. score: a function of a module, called with the averaged weights every `score_every` seconds, and after a
    run that took longer. show: a function of a module, called with a line of progress now and then, in the process that
    trains. KeyboardInterrupt and SystemExit end the training with what it has learnt saved. Raises UsageError or
    PriorError before anything is written where that cannot be done.
    """
    check_request(config, Path(out), resume, device)
    if device != "cpu" or processes <= 1:
        _run(0, 1, config, out, resume, device, score, show)
    else:
        run_group(_run, processes, config, out, resume, device, score, show)


def check_request(config: TrainPriorConfig, out: Path, resume: Path | None, device: str) -> None:
    """Whatever would fail hours later, or in another process, fails here."""
    for name in ("images", "batch", "views_per_class", "chunk", "trace_every", "report_every", "sheet_steps"):
        least = 0 if name == "sheet_steps" else 1
        if getattr(config, name) < least:
            raise UsageError(f"train-prior: {name} must be at least {least}, got {getattr(config, name)}")
    if not 0 <= config.text_phase <= 1:
        raise UsageError(f"train-prior: text_phase must be from 0 to 1, got {config.text_phase}")
    if config.seed < 0 or not 0 <= config.minutes < math.inf:
        raise UsageError(f"train-prior: seed and minutes must not be negative, got {config.seed} and {config.minutes}")
    check_device("train-prior", device)
    if out.exists() and not (out / "model_index.json").is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} exists and is no prior; it would be replaced, so choose another folder")
    if resume is not None:
        read_log(resume)
        try:
            target = with_all_words(load_prior(resume)).scheduler.config.prediction_type
            if target != "sample":
                raise ValueError(f"it predicts {target}, not the clean picture")
        except (OSError, ValueError, RuntimeError) as error:
            raise PriorError(f"{resume} cannot be resumed from: {str(error).strip().splitlines()[0]}") from error
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as error:
        raise UsageError(f"cannot write to {out.parent}: {error.strerror}") from error


def _run(
    rank: int,
    world: int,
    config: TrainPriorConfig,
    out: Path,
    resume: Path | None,
    device: str,
    score: Callable[[Prior], dict] | None,
    show: Callable[[str], None],
) -> None:
    if device == "cpu":
        torch.set_num_threads(1)
    prior = with_all_words(load_prior(resume)) if resume else build_prior(config.seed)
    prepare_for_training(prior, device)
    log = read_log(resume) if resume else EMPTY_LOG
    with tolerant("stdout"):  # lines that nobody reads cost no work
        Run(prior, config, Path(out), rank, world, device, log, score, show).loop()


def prepare_for_training(prior: Prior, device: str) -> None:
    """Plain attention, whose backward is quicker than that of the fused one on a CPU, and for 64 positions and 16 words
    no matter on a GPU. On a CPU plain memory order, in which bf16 group normalisation is several times as fast as
    channels last (20 % of a step)."""
    from diffusers.models.attention_processor import AttnProcessor

    prior.unet.set_attn_processor(AttnProcessor())
    order = torch.contiguous_format if device == "cpu" else torch.channels_last
    prior.unet.to(device=device, memory_format=order).train()
    prior.text_encoder.to(device).train()
    prior.scheduler.alphas_cumprod = prior.scheduler.alphas_cumprod.to(device)


EMPTY_LOG = {"images": 0, "loss": [], "scores": []}


def read_log(folder: Path) -> dict:
    """training.json of a saved prior: {"images": images seen in all runs, "loss": [[images, loss], ...], "scores":
    [{"images": ..., ...}, ...]}.

    Raises PriorError where it is damaged.
    """
    path = Path(folder) / "training.json"
    if not path.exists():
        return EMPTY_LOG
    try:
        log = json.loads(path.read_text(encoding="utf-8"))
        return {
            "images": int(log["images"]),
            "loss": [[int(n), float(loss)] for n, loss in log["loss"]],
            "scores": [dict(score) for score in log.get("scores", [])],
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PriorError(f"{path} is damaged: {error}") from error


class Run:
    def __init__(self, prior, config, out, rank, world, device, log, score, show):
        self.prior, self.config, self.out, self.score, self.show = prior, config, out, score, show
        self.rank, self.world, self.device = rank, world, device
        self.start, self.losses, self.scores = log["images"], list(log["loss"]), list(log["scores"])
        self.random = np.random.default_rng([config.seed, self.start, rank])
        torch.manual_seed(int(self.random.integers(1 << 31)))
        self.optimizer = MuonAdamW([prior.unet, prior.text_encoder], rank, world)
        self.parameters = self.optimizer.parameters
        self.average = [p.detach().clone() for p in self.parameters]
        self.reservoir = Reservoir(config, self.random, device)
        self.learn = Repeated(self.gradients, CudaCapture()) if torch.device(device).type == "cuda" else self.gradients

    def loop(self) -> None:
        config, per_step = self.config, self.config.batch * self.world
        self.reservoir.fill()
        self.began = saved = scored = time.monotonic()
        recent, images = [], 0
        try:
            while (progress := self.progress(images)) < 1.0:
                recent.append(self.step(images, progress))
                images += per_step
                if images // per_step % config.trace_every == 0:
                    self.reservoir.grow()
                if len(recent) == config.report_every:
                    self.report(images, progress, recent)
                if self.rank == 0 and time.monotonic() - saved > config.save_every:
                    due = time.monotonic() - scored > config.score_every
                    self.save(self.start + images, score=due)
                    saved = time.monotonic()
                    scored = saved if due else scored
        except (KeyboardInterrupt, SystemExit):
            if self.rank == 0:
                self.save(self.start + images)
            raise
        if recent:
            self.report(images, progress, recent)
        if self.rank == 0:
            long = time.monotonic() - self.began > config.score_every
            self.save(self.start + images, score=long, with_sheet=True)

    def progress(self, images: int) -> float:
        """Fraction of the run that is done, by time or by images; rank 0 decides for all."""
        config = self.config
        by_time = (time.monotonic() - self.began) / (config.minutes * 60) if config.minutes else 0.0
        value = torch.tensor(by_time if config.minutes else images / config.images, dtype=torch.float64)
        if self.world > 1:
            dist.broadcast(value, 0)
        return float(value)

    def report(self, images: int, progress: float, recent: list[torch.Tensor]) -> None:
        """Log and print the mean of the recent losses, and empty their list."""
        loss = float(torch.stack(recent).mean())
        recent.clear()
        self.losses.append([self.start + images, round(loss, 5)])
        if self.rank:
            return
        seconds = time.monotonic() - self.began
        self.show(
            f"images {self.start + images:>9,}  loss {loss:.4f}  {images / seconds:.0f} images/s  "
            f"{seconds * (1 - progress) / max(progress, 1e-6) / 60:.0f} min left"
        )

    def step(self, images: int, progress: float) -> torch.Tensor:
        """One optimiser step; returns the loss, on the device."""
        config = self.config
        final = config.final_learning_rate
        cosine = final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))
        rate = config.learning_rate * min(1.0, (images + 1) / config.warmup_images) * cosine
        blind = BLIND_SHARE[progress >= config.text_phase]
        image, texts, steps = training_batch(self.reservoir, config.batch, self.random, blind)
        ids = caption_ids(self.prior.tokenizer, texts)
        loss = self.learn(image, *(sent(values, self.device) for values in (ids, steps)))
        self.optimizer.move(rate)
        decay = 0.5 ** (config.batch * self.world / config.ema_half_life)
        with torch.no_grad():
            decay = min(decay, (images + 1) / (images + 20 * config.batch))
            torch._foreach_lerp_(self.average, self.parameters, 1 - decay)
        return loss.clone()

    def gradients(self, image, ids, steps) -> torch.Tensor:
        """The loss, its gradients and where Muon would go: the same work every time."""
        self.optimizer.zero_grad()
        loss = denoising_loss(self.prior, image, ids, steps)
        loss.backward()
        self.average_gradients()
        torch.nn.utils.clip_grad_norm_([p for p in self.parameters if p.grad is not None], 1.0)
        self.optimizer.aim()
        return loss.detach()

    def average_gradients(self) -> None:
        if self.world == 1:
            return
        grads = [p.grad for p in self.parameters if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in grads])
        dist.all_reduce(flat)
        for g, part in zip(grads, flat.div_(self.world).split([g.numel() for g in grads]), strict=True):
            g.copy_(part.view_as(g))

    def save(self, total: int, score: bool = False, with_sheet: bool = False) -> None:
        """Write the averaged weights into a new folder, then replace `out` by it."""
        averaged = copy.deepcopy(self.prior)
        with torch.no_grad():
            for p, a in zip(
                [p for m in (averaged.unet, averaged.text_encoder) for p in m.parameters()], self.average, strict=True
            ):
                p.copy_(a)
        part = self.out.with_name(self.out.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        averaged.save(part)
        averaged.unet.eval()
        if score and self.score:
            self.scores.append({"images": total, **self.score(averaged)})
            self.show(f"scored {self.scores[-1]}")
        log = {
            "images": total,
            "loss": self.losses,
            "scores": self.scores,
            "batch": self.config.batch * self.world,
            "seed": self.config.seed,
        }
        (part / "training.json").write_text(json.dumps(log) + "\n")
        if with_sheet and self.config.sheet_steps:
            sheet(averaged, part / "samples.jpg", steps=self.config.sheet_steps)
        old = self.out.with_name(self.out.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if self.out.exists():
            self.out.rename(old)
        part.rename(self.out)
        shutil.rmtree(old, ignore_errors=True)
        self.show(f"saved {self.out} after {total:,} images")
