"""The optimisation loop: the only module that knows the field, the renderer, the guidance and the losses at once."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Callable

import torch
from torch import Tensor

from .config import OptimConfig, RunConfig, resolution_at
from .errors import DivergenceError
from .fields import Background, HashField, random_background
from .losses import entropy_loss, entropy_weight, opacity_loss, orientation_loss, orientation_weight, smoothness_loss
from .ops.adam import adam_step
from .ops.field import recycle_gradient
from .render import Occupancy, flat_background, render
from .rng import Stream, generator
from .views import sample_views

CHECK_INTERVAL_CUDA = 16  # steps between looks at the loss terms on CUDA: a look waits for the device


class Adam:
    """Fused Adam over (parameter, learning rate) pairs; `moments` is its whole state besides the step number."""

    def __init__(self, pairs: list[tuple[Tensor, float]], config: OptimConfig):
        self.pairs, self.config = pairs, config
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p, _ in pairs]
        self.nonfinite = torch.zeros(1, dtype=torch.int64, device=pairs[0][0].device)

    def step(self, step: int, steps: int) -> None:
        """Apply the gradients at `step` (from 0) of `steps`, and leave none: linear warm-up, cosine to `final`. A
        parameter without a gradient has one of zero."""
        config = self.config
        warmup = min(1.0, (step + 1) / max(1.0, config.warmup * steps))
        factor = warmup * (config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for (parameter, rate), (first, second) in zip(self.pairs, self.moments):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            adam_step(parameter.data, parameter.grad, first, second, self.nonfinite, lr=rate * factor,
                      beta1=config.betas[0], beta2=config.betas[1], eps=config.eps, step=step + 1)
            recycle_gradient(parameter)


class State:
    """Everything that a run changes: field, background network, occupancy grid, optimiser, and the number of the next
    step."""

    def __init__(self, config: RunConfig, device: str | torch.device):
        self.config, self.step = config, 0
        self.field = HashField(config.field, config.seed).to(device)
        self.background = Background(config.field, config.seed).to(device) if config.field.background_hidden else None
        self.occupancy = Occupancy(config.render, config.field.bound).to(device)
        optim = config.optim
        pairs = [(p, optim.lr_grid if name == "table" else optim.lr_mlp) for name, p in self.field.named_parameters()]
        if self.background is not None:
            pairs += [(p, optim.lr_background) for p in self.background.parameters()]
        self.adam = Adam(pairs, optim)

    def tensors(self) -> dict[str, Tensor]:
        """Named tensors of the whole state, in place: what a checkpoint holds besides the config and the step."""
        found = {f"field.{k}": v.data for k, v in self.field.named_parameters()}
        if self.background is not None:
            found |= {f"background.{k}": v.data for k, v in self.background.named_parameters()}
        found |= {f"occupancy.{k}": v for k, v in self.occupancy.named_buffers()}
        for i, (first, second) in enumerate(self.adam.moments):
            found |= {f"adam.{i}.first": first, f"adam.{i}.second": second}
        return found


@dataclass(frozen=True)
class StepRecord:
    """What one step did. terms: loss terms, unweighted. log: the guidance's own numbers. seconds: {"guidance", "field",
    "other"}. samples: taken and dropped. nonfinite: elements of gradients left out so far in the run because they were
    not finite. Values are tensors on the device until `plain()` reads them."""

    step: int
    terms: dict[str, Tensor]
    log: dict[str, Tensor | float]
    opacity: Tensor
    samples: Tensor
    nonfinite: Tensor
    seconds: dict[str, float]

    def plain(self) -> dict:
        """JSON-ready numbers. Waits for the device."""
        numbers = {k: float(v) for k, v in {**self.terms, **self.log}.items()}
        taken, dropped = (int(v) for v in self.samples)
        return {"step": self.step, **numbers, "opacity": float(self.opacity), "samples": taken, "dropped": dropped,
                "nonfinite": int(self.nonfinite),
                **{f"{k}_ms": round(v * 1e3, 2) for k, v in self.seconds.items()}}


def choose_background(state: State, config: RunConfig, views: int, random):
    """The background network, or with the configured probability (always, without a network) one random colour per
    view."""
    colors, use_random = random_background(views, random), random.random() < config.render.random_background
    return flat_background(colors) if state.background is None or use_random else state.background


def train_step(state: State, guidance, config: RunConfig, clock: Callable[[], float]) -> StepRecord:
    """One step: `accumulate` times draw views and differentiate, then update."""
    records = [differentiate(state, guidance, config, part, clock) for part in range(config.accumulate)]
    began = clock()
    state.adam.step(state.step, config.steps)
    state.field.refresh()
    record = records[0] if len(records) == 1 else merge(records)
    record.seconds["field"] += clock() - began
    state.step += 1
    return record


def differentiate(state: State, guidance, config: RunConfig, part: int, clock: Callable[[], float]) -> StepRecord:
    """Draw views, render, distil, and add the gradient of the part `part` of a step. What is random in it, and in the
    guidance, is that of the number of parts before it in the run."""
    step, progress = state.step, state.step / config.steps
    drawn_before = step * config.accumulate + part
    began = clock()
    random = generator(config.seed, drawn_before, Stream.VIEWS)
    views = sample_views(config.camera, config.light, config.views, progress, random)
    background = choose_background(state, config, len(views), random)
    state.field.progress = progress
    drawn = clock()
    if part == 0 and step % config.render.occupancy_interval == 0:
        state.occupancy.update(state.field.density, config.seed, step, full=step == 0)
    rendering = render(state.field, state.occupancy, views.cameras, views.shading, background, config.render,
                       density=config.field.density, resolution=resolution_at(config.render, progress),
                       seed=config.seed, step=drawn_before)
    rendered = clock()
    sds = guidance(rendering.rgb, views, drawn_before)
    guided = clock()
    terms = {"sds": sds.loss, "orientation": orientation_loss(rendering.orientation),
             "opacity_loss": opacity_loss(rendering.opacity), "entropy": entropy_loss(rendering.opacity)}
    if config.loss.smoothness:
        terms["smoothness"] = smoothness_loss(rendering.normal, rendering.opacity)
    check_finite(terms, step)
    total_loss(config, terms, progress).backward()
    done = clock()
    seconds = {"guidance": guided - rendered, "field": (rendered - drawn) + (done - guided), "other": drawn - began}
    return StepRecord(step, {k: v.detach() for k, v in terms.items()}, sds.log, rendering.opacity.detach().mean(),
                      rendering.info, state.adam.nonfinite, seconds)


def total_loss(config: RunConfig, terms: dict[str, Tensor], progress: float) -> Tensor:
    """The weighted sum of the loss terms at `progress` in [0, 1] of the run, as one of `accumulate` parts."""
    weights = config.loss
    loss = (terms["sds"] + orientation_weight(weights, progress) * terms["orientation"]
            + weights.opacity * terms["opacity_loss"] + entropy_weight(weights, progress) * terms["entropy"])
    if "smoothness" in terms:
        loss = loss + weights.smoothness * terms["smoothness"]
    return loss if config.accumulate == 1 else loss / config.accumulate


def merge(records: list[StepRecord]) -> StepRecord:
    """One record of the parts of a step: means, and sums of samples and times."""
    def mean(values: list):
        return sum(values[1:], values[0]) / len(values)

    first = records[0]
    return StepRecord(first.step, {key: mean([r.terms[key] for r in records]) for key in first.terms},
                      {key: mean([r.log[key] for r in records]) for key in first.log},
                      mean([r.opacity for r in records]), sum(r.samples for r in records), first.nonfinite,
                      {key: sum(r.seconds[key] for r in records) for key in first.seconds})


def check_finite(terms: dict[str, Tensor], step: int) -> None:
    """Raise DivergenceError that names the step and the term. On CUDA only every CHECK_INTERVAL_CUDA steps; what slips
    through in between cannot reach the parameters, because adam_step leaves out non-finite gradients."""
    if next(iter(terms.values())).is_cuda and step % CHECK_INTERVAL_CUDA:
        return
    for name, value in terms.items():
        if not math.isfinite(float(value.detach())):
            raise DivergenceError(f"the loss term {name!r} is {float(value.detach())} at step {step}: stopped; "
                                  "a checkpoint saved before is good (a lower learning rate or another seed may help)")


def device_clock(device: torch.device) -> Callable[[], float]:
    """Seconds, after everything queued on the device is done. On CUDA this waits, so use it for measured steps only."""
    def cuda_clock() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return cuda_clock if device.type == "cuda" else time.perf_counter


def train(state: State, guidance, observe: Callable[[StepRecord], bool | None], *, measure_every: int = 10) -> None:
    """Run until `config.steps`. `observe` sees every step's record and ends the run by returning True.

    On CUDA every `measure_every`-th step is timed with synchronisation; the times of the others are host times.
    """
    device = state.occupancy.bits.device
    exact = device_clock(device)
    while state.step < state.config.steps:
        clock = exact if state.step % measure_every == 0 else time.perf_counter
        if observe(train_step(state, guidance, state.config, clock)):
            return
