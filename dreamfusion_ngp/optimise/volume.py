"""The volume stage: a field under score distillation, DreamFusion's loop (Poole et al., ICLR 2023)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Self

import torch
from torch import Tensor

from ..base.errors import UsageError
from ..config.schema import RunConfig
from ..guidance.protocol import Guidance
from ..render.volume import Rendering, flat_background, render
from ..scene.cameras import Cameras
from .executors import Eager, Graphed, executor
from .stage import Stage, StepRecord, check_finite, check_update, merge
from .step import State, fill_numbers, refresh_is_due

EAGER = Eager()


class VolumeStage(State):
    """A `Stage` (stage.py) whose steps run in CUDA graphs where they can."""

    executor: Eager | Graphed | None = None  # made at the first step: what it captures must stay where it is

    @classmethod
    def start(cls, config: RunConfig, device: str | torch.device, previous: Stage | None = None) -> Self:
        stage = cls(config, device)
        if previous is not None:
            stage.take_over(previous)
        return stage

    def take_over(self, previous: Stage) -> None:
        """Start from the scene of a volume with the same networks and grid, with a fresh optimiser."""
        targets = {k: v for k, v in self.tensors().items() if not k.startswith(("adam.", "guidance."))}
        tensors = previous.tensors()
        if any(k not in tensors or tensors[k].shape != v.shape for k, v in targets.items()):
            raise UsageError("a volume goes on from a volume with the same field, background and occupancy grid only")
        for name, value in targets.items():
            value.copy_(tensors[name])
        self.restore(0, {"before": previous.before + previous.step})

    def advance(self, guidance: Guidance, clock: Callable[[], float]) -> StepRecord:
        self.executor = self.executor or executor(self)
        return train_step(self, guidance, self.config, clock, self.executor)

    def counters(self) -> dict[str, int]:
        return {"refreshed": self.refreshed, "before": self.before}

    def restore(self, step: int, counters: Mapping[str, int]) -> None:
        self.field.refresh()
        self.step, self.refreshed = step, counters.get("refreshed", -1)
        self.before = counters.get("before", self.before)
        self.show_progress(min(1.0, step / self.config.steps))

    @torch.no_grad()
    def show(self, cameras: Cameras, shading: Tensor, colors: Tensor, resolution: int) -> Iterator[Rendering]:
        config = self.config.render
        for i in range(len(cameras)):
            one = slice(i, i + 1)
            while True:  # at a high resolution the training budget would cut rays off
                args = (self.field, self.occupancy, cameras[one], shading[one], flat_background(colors[one]), config)
                result = render(*args, resolution=resolution)
                if not int(result.info[1]):
                    break
                config = replace(config, budget=2 * config.budget)
            yield result

    def occupied(self) -> float:
        return self.occupancy.fraction()


def train_step(
    state: State, guidance: Guidance, config: RunConfig, clock: Callable[[], float], executor: Eager | Graphed = EAGER
) -> StepRecord:
    """One step: draw views and differentiate `accumulate` times; the last part updates. executor: as the function of
    that name makes it."""
    records = [differentiate(state, guidance, config, part, clock, executor) for part in range(config.accumulate)]
    state.step += 1
    state.whole = True
    return records[0] if len(records) == 1 else merge(records)


def differentiate(
    state: State,
    guidance: Guidance,
    config: RunConfig,
    part: int,
    clock: Callable[[], float],
    executor: Eager | Graphed = EAGER,
) -> StepRecord:
    """Draw views, render, distil, and add the gradient of part `part` of a step; the last part updates. Its random
    numbers, and the guidance's, are a function of the seed and the number of parts before it in the run."""
    step, began = state.step, clock()
    drawn = executor.draw(state, step * config.accumulate + part)
    fill_numbers(state, drawn)
    ready = clock()
    if (
        refresh_is_due(config, drawn.number) and state.refreshed != drawn.number
    ):  # not twice where an interrupted step is made again
        state.occupancy.update(state.field.density, config.seed, step, full=step == 0)
        state.refreshed = drawn.number
    rendering = executor.look(state, drawn)
    rendered = clock()
    output = guidance(rendering.rgb.detach(), drawn.views, drawn.number, drawn.progress)
    terms = {"sds": output.value.detach(), **{k: v.detach() for k, v in rendering.terms.items()}}
    check_finite(terms, step)
    gradient = output.gradient.contiguous()
    d_rgb = gradient if config.accumulate == 1 else gradient / config.accumulate
    guided = clock()
    state.whole = part < config.accumulate - 1
    executor.learn(state, rendering, d_rgb, last=part == config.accumulate - 1)
    if part == config.accumulate - 1:
        check_update(state.adam, step, partial(at_fault, state))
    done = clock()
    seconds = {"guidance": guided - rendered, "field": (rendered - ready) + (done - guided), "other": ready - began}
    return StepRecord(step, terms, output.log, rendering.opacity, rendering.info, state.adam.nonfinite, seconds)


def at_fault(state: State) -> dict[str, Tensor]:
    """The tensors that can be why Adam skips an update, but for the occupancy, which its next update heals."""
    learnt = {k: v for k, v in state.tensors().items() if not k.startswith("occupancy")}
    return learnt | {"Adam's factors": state.numbers["factors"]}
