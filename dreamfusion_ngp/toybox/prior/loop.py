"""The training loop of the priors: optimiser, moving average, saving, progress."""

from __future__ import annotations

import copy
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ...base.console import tolerant
from ...base.cuda_graphs import CudaCapture, Repeated
from ...base.errors import DivergenceError, OutputError, PriorError, writing
from .loss import TrainPriorConfig
from .optimizer import MuonAdamW, trainable
from .processes import run_group
from .task import Task

NOT_SAVED = "stopped, and not saved (a lower learning rate may help)"
EMPTY_LOG = {"images": 0, "loss": [], "scores": []}


def run_task(
    build: Callable[..., Task],
    arguments: tuple,
    config: TrainPriorConfig,
    out: Path,
    log: dict,
    processes: int,
    device: str,
    score: Callable[[Any], dict] | None,
    show: Callable[[str], None],
) -> None:
    """Train the task that `build(*arguments)` makes, in `processes` processes. build, arguments, score, show: must be
    picklable. log: the whole training.json so far."""
    task_args = (build, arguments, config, Path(out), log, device, score, show)
    if device != "cpu" or processes <= 1:
        _train(0, 1, *task_args)
    else:
        run_group(_train, processes, *task_args)


def _train(rank, world, build, arguments, config, out, log, device, score, show) -> None:
    if device == "cpu":
        torch.set_num_threads(1)
    task = build(*arguments)
    with tolerant("stdout"):  # a closed pipe must not end the training
        Training(task, config, out, rank, world, device, log, score, show).loop()


def read_log(folder: Path, part: str = "") -> dict:
    """training.json of a saved prior, or its entry of one part: {"images": images seen in all runs, "loss": [[images,
    loss], ...], "scores": [{"images": ..., ...}, ...]}.

    Raises PriorError where it is damaged.
    """
    path = Path(folder) / "training.json"
    try:
        log = read_logs(folder)
        log = log.get(part, EMPTY_LOG) if part else log
        return {
            "images": int(log["images"]),
            "loss": [[int(n), float(loss)] for n, loss in log["loss"]],
            "scores": [dict(score) for score in log.get("scores", [])],
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PriorError(f"{path} is damaged: {error}") from error


def read_logs(folder: Path) -> dict:
    """All of training.json; an empty log where there is no file. Raises PriorError."""
    path = Path(folder) / "training.json"
    if not path.exists():
        return EMPTY_LOG
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PriorError(f"{path} is damaged: {error}") from error


class Training:
    """A training run of one task. log: the whole training.json so far."""

    def __init__(self, task: Task, config, out: Path, rank, world, device, log, score, show):
        self.task, self.config, self.out, self.score, self.show = task, config, out, score, show
        self.rank, self.world, self.device, self.log = rank, world, device, log
        task_log = log.get(task.name, EMPTY_LOG) if task.name else log
        self.start, self.losses, self.scores = task_log["images"], list(task_log["loss"]), list(task_log["scores"])
        self.random = np.random.default_rng([config.seed, self.start, rank])
        torch.manual_seed(int(self.random.integers(1 << 31)))
        self.optimizer = MuonAdamW(task.modules(task.model), rank, world, task.outer)
        self.parameters: list[Tensor] = [*self.optimizer.parameters]
        self.average = [p.detach().clone() for p in self.parameters]
        self.views = task.open(self.random, device)
        self.capture = CudaCapture() if torch.device(device).type == "cuda" else None
        self.captured: dict[tuple, Repeated] = {}

    def loop(self) -> None:
        config, per_step = self.config, self.config.batch * self.world
        self.views.fill()
        self.began = saved = scored = time.monotonic()
        recent, images = [], 0
        try:
            while (progress := self.progress(images)) < 1.0:
                recent.append(self.step(images, progress))
                images += per_step
                if images // per_step % config.trace_every == 0:
                    self.views.grow()
                if len(recent) == config.report_every:
                    self.log_progress(images, progress, recent)
                if self.rank == 0 and time.monotonic() - saved > config.save_every:
                    due = time.monotonic() - scored > config.score_every
                    self.try_to_save(self.start + images, score=due)
                    saved = time.monotonic()
                    scored = saved if due else scored
            if recent:
                self.log_progress(images, progress, recent)
            if self.rank == 0:
                long = time.monotonic() - self.began > config.score_every
                self.save(self.start + images, score=long, with_sheet=True)
        except (KeyboardInterrupt, SystemExit):
            if self.rank == 0 and images:
                self.save(self.start + images)
            raise

    def progress(self, images: int) -> float:
        """Fraction of the run that is done, by time or by images; rank 0 decides for all."""
        config = self.config
        by_time = (time.monotonic() - self.began) / (config.minutes * 60) if config.minutes else 0.0
        value = torch.tensor(by_time if config.minutes else images / config.images, dtype=torch.float64)
        if self.world > 1:
            dist.broadcast(value, 0)
        return float(value)

    def log_progress(self, images: int, progress: float, recent: list[Tensor]) -> None:
        """Log and print the mean of the recent losses, and empty their list."""
        loss = float(torch.stack(recent).mean())
        recent.clear()
        if not math.isfinite(loss):
            raise DivergenceError(f"the loss is {loss} at {self.start + images:,} images: {NOT_SAVED}")
        self.losses.append([self.start + images, round(loss, 5)])
        if self.rank:
            return
        seconds = time.monotonic() - self.began
        self.show(
            f"images {self.start + images:>9,}  loss {loss:.4f}  {images / seconds:.3g} "
            f"images/s  {seconds * (1 - progress) / max(progress, 1e-6) / 60:.0f} min left"
        )

    def step(self, images: int, progress: float) -> Tensor:
        """One optimiser step; returns the loss, on the device."""
        config = self.config
        final = config.final_learning_rate
        cosine = final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))
        rate = config.learning_rate * min(1.0, (images + 1) / config.warmup_images) * cosine
        loss = self.learn(*self.task.batch(progress))
        self.optimizer.move(rate)
        decay = 0.5 ** (config.batch * self.world / config.ema_half_life)
        with torch.no_grad():
            decay = min(decay, (images + 1) / (images + 20 * config.batch))
            torch._foreach_lerp_(self.average, self.parameters, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        return loss.clone()

    def learn(self, *batch: Tensor) -> Tensor:
        """`gradients`; on a GPU from a CUDA graph for each set of shapes, all of which add to the same gradients."""
        if self.capture is None:
            return self.gradients(*batch)
        shapes = tuple(value.shape for value in batch)
        if shapes not in self.captured:
            self.captured[shapes] = Repeated(self.gradients, self.capture)
        return self.captured[shapes](*batch)

    def gradients(self, *batch: Tensor) -> Tensor:
        """The loss, its gradients and Muon's goals: the same kernels every time."""
        self.optimizer.zero_grad()
        loss = self.task.loss(*batch)
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

    def try_to_save(self, total: int, score: bool) -> None:
        """`save` in the middle of the training: a failed write may succeed later."""
        try:
            self.save(total, score)
        except OutputError as error:
            self.show(f"{error}; going on without it")

    def save(self, total: int, score: bool = False, with_sheet: bool = False) -> None:
        """Write the averaged weights into a new folder, then replace `out` by it. Raises OutputError, and
        DivergenceError for weights that are not finite; what `out` held before stays."""
        averaged = copy.deepcopy(self.task.model)
        modules = self.task.modules(averaged)
        with torch.no_grad():
            for p, a in zip(trainable(modules), self.average, strict=True):
                p.copy_(a)
        if not all(bool(a.isfinite().all()) for a in self.average):
            raise DivergenceError(f"a weight is not finite after {total:,} images: {NOT_SAVED}")
        folder = self.out.with_name(self.out.name + ".part")
        with written(self.out):
            shutil.rmtree(folder, ignore_errors=True)
            averaged.save(folder)
            for module in modules:
                module.eval()
            if score and self.score:
                self.scores.append({"images": total, **self.score(averaged)})
                self.show(f"scored {self.scores[-1]}")
            (folder / "training.json").write_text(json.dumps(self.training_log(total)) + "\n")
            if with_sheet and self.config.sheet_steps and self.task.sheet:
                self.task.sheet(averaged, folder / "samples.jpg")
            replace_folder(folder, self.out)
        self.show(f"saved {self.out} after {total:,} images")

    def training_log(self, total: int) -> dict:
        """training.json after `total` images of this task."""
        log = {
            "images": total,
            "loss": self.losses,
            "scores": self.scores,
            "batch": self.config.batch * self.world,
            "seed": self.config.seed,
        }
        if not self.task.name:
            return log
        others = {name: entry for name, entry in self.log.items() if isinstance(entry, dict)}
        return others | {self.task.name: log}


@contextmanager
def written(out: Path) -> Iterator[None]:
    """`writing`, for what safetensors writes too."""
    from safetensors import SafetensorError

    try:
        with writing(out):
            yield
    except SafetensorError as error:
        raise OutputError(f"cannot write {out}: {' '.join(str(error).split())}") from None


def replace_folder(folder: Path, out: Path) -> None:
    """Replace `out` by the finished `folder`."""
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    folder.rename(out)
    shutil.rmtree(old, ignore_errors=True)
