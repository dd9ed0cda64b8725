"""The optimisation loop: the only module that knows the step's functions and the guidance at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..base.errors import DivergenceError
from ..config.schema import RunConfig
from .adam import Adam, unsound
from .executors import Eager, Graphed, executor
from .step import State, fill_numbers, refresh_is_due

__all__ = ["Adam", "State", "StepRecord", "device_clock", "differentiate", "train", "train_step"]

EAGER = Eager()
CHECK_INTERVAL_CUDA = 16  # steps between looks at the loss terms on CUDA: a look waits for the device


@dataclass(frozen=True)
class StepRecord:
    """What one step did. terms: loss terms, unweighted. log: the guidance's own numbers. seconds: {"guidance", "field",
    "other"}. samples: taken and dropped. nonfinite: updates of single numbers left out so far in the run because they
    would not have been finite. Values are tensors on the device until `plain()` reads them."""

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
        return {
            "step": self.step,
            **numbers,
            "opacity": float(self.opacity),
            "samples": taken,
            "dropped": dropped,
            "nonfinite": int(self.nonfinite),
            **{f"{k}_ms": round(v * 1e3, 2) for k, v in self.seconds.items()},
        }


def train_step(
    state: State, guidance, config: RunConfig, clock: Callable[[], float], run: Eager | Graphed = EAGER
) -> StepRecord:
    """One step: `accumulate` times draw views and differentiate, and update with the last. run: `executor(state)`."""
    records = [differentiate(state, guidance, config, part, clock, run) for part in range(config.accumulate)]
    state.step += 1
    state.whole = True
    return records[0] if len(records) == 1 else merge(records)


def differentiate(
    state: State, guidance, config: RunConfig, part: int, clock: Callable[[], float], run: Eager | Graphed = EAGER
) -> StepRecord:
    """Draw views, render, distil, and add the gradient of the part `part` of a step; the last part updates. What is
    random in it, and in the guidance, is that of the number of parts before it in the run."""
    step, began = state.step, clock()
    drawn = run.draw(state, step * config.accumulate + part)
    fill_numbers(state, drawn)
    ready = clock()
    if refresh_is_due(config, drawn.number) and state.refreshed != drawn.number:  # else a step that is made again
        state.occupancy.update(state.field.density, config.seed, step, full=step == 0)
        state.refreshed = drawn.number
    seen = run.look(state, drawn)
    rendered = clock()
    output = guidance(seen.rgb.detach(), drawn.views, drawn.number, drawn.progress)
    terms = {"sds": output.value.detach(), **{k: v.detach() for k, v in seen.terms.items()}}
    check_finite(terms, step)
    gradient = output.gradient.contiguous()
    d_rgb = gradient if config.accumulate == 1 else gradient / config.accumulate
    guided = clock()
    state.whole = part < config.accumulate - 1
    run.learn(state, seen, d_rgb, last=part == config.accumulate - 1)
    if part == config.accumulate - 1:
        check_update(state, step)
    done = clock()
    seconds = {"guidance": guided - rendered, "field": (rendered - ready) + (done - guided), "other": ready - began}
    return StepRecord(step, terms, output.log, seen.opacity, seen.info, state.adam.nonfinite, seconds)


def merge(records: list[StepRecord]) -> StepRecord:
    """One record of the parts of a step: means, and sums of samples and times."""

    def mean(values: list):
        return sum(values[1:], values[0]) / len(values)

    first = records[0]
    return StepRecord(
        first.step,
        {key: mean([r.terms[key] for r in records]) for key in first.terms},
        {key: mean([r.log[key] for r in records]) for key in first.log},
        mean([r.opacity for r in records]),
        sum(r.samples for r in records),
        first.nonfinite,
        {key: sum(r.seconds[key] for r in records) for key in first.seconds},
    )


def check_finite(terms: dict[str, Tensor], step: int) -> None:
    """Raise DivergenceError that names the step and the term. On CUDA only every CHECK_INTERVAL_CUDA steps; what slips
    through in between cannot reach the parameters, because adam_step leaves out what would not be finite."""
    if next(iter(terms.values())).is_cuda and step % CHECK_INTERVAL_CUDA:
        return
    for name, value in terms.items():
        if not math.isfinite(float(value)):
            raise DivergenceError(
                f"the loss term {name!r} is {float(value)} at step {step}: stopped "
                "(a lower learning rate or another seed may help)"
            )


def check_update(state: State, step: int) -> None:
    """Raise DivergenceError if the reason why Adam left something out in `step` is in the state itself, and so would
    stay: name the tensor. A gradient that is not finite is counted, and the run goes on. On CUDA only every
    CHECK_INTERVAL_CUDA steps."""
    adam = state.adam
    if (adam.nonfinite.is_cuda and step % CHECK_INTERVAL_CUDA) or int(adam.nonfinite) == adam.examined:
        return
    adam.examined = int(adam.nonfinite)
    learnt = {k: v for k, v in state.tensors().items() if not k.startswith("occupancy")}  # its next update heals that
    if fault := unsound(learnt | {"Adam's factors": state.numbers["factors"]}):
        raise DivergenceError(f"{fault} at step {step}: stopped (a lower learning rate or another seed may help)")


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
    exact, run = device_clock(device), executor(state)
    while state.step < state.config.steps:
        clock = exact if state.step % measure_every == 0 else time.perf_counter
        if observe(train_step(state, guidance, state.config, clock, run)):
            break
    state.show_progress(min(1.0, state.step / state.config.steps))  # what a checkpoint of this step is loaded with
