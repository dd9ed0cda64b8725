"""The interface of a stage to the loop, the checkpoint and the folder of the run, and the record of a step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from ..base.errors import CheckpointError, DivergenceError
from ..config.schema import RunConfig
from ..guidance.protocol import Guidance
from ..scene.cameras import Cameras
from .adam import Adam, unsound

CHECK_INTERVAL_CUDA = 16  # steps between looks at the loss terms on CUDA: a look waits for the device


@dataclass(frozen=True)
class StepRecord:
    """What one step did. terms: loss terms, unweighted. log: the guidance's own numbers. seconds: {"guidance", "field",
    "other"}. samples: taken and dropped. nonfinite: updates of single numbers skipped so far in the run because they
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


class Picture(Protocol):
    """One view, as people and metrics see it. rgb, normal: (1, H, W, 3).  opacity: (1, H, W)."""

    @property
    def rgb(self) -> Tensor: ...

    @property
    def normal(self) -> Tensor: ...

    @property
    def opacity(self) -> Tensor: ...


class Stage(Protocol):
    """A scene, its renderer and its optimiser, from a first step to `config.steps`.

    step: number of the next step, from 0.  before: steps of the stages before it in the run.  whole: False in the
    middle of an update, when the parameters belong to no step and a save could not be resumed.  weights: digests of the
    guidance's weights, which a resumed run compares.  guided: the tensors that the guidance changes, kept with those of
    the stage.
    """

    config: RunConfig
    device: torch.device
    step: int
    before: int
    weights: dict[str, str]
    guided: dict[str, Tensor]

    @property
    def whole(self) -> bool: ...

    @classmethod
    def start(cls, config: RunConfig, device: str | torch.device, previous: Stage | None = None) -> Self:
        """The stage before its first step: from `config` alone, or with the geometry and the appearance of a finished
        one. Raises UsageError where it cannot take over what that one has made."""
        ...

    def advance(self, guidance: Guidance, clock: Callable[[], float]) -> StepRecord:
        """Make one step. All randomness is a function of the config's seed and of `step`. Raises DivergenceError."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Named tensors of everything that steps change, in place: what a checkpoint holds."""
        ...

    def counters(self) -> dict[str, int]:
        """Whole numbers that a checkpoint holds with `step`."""
        ...

    def restore(self, step: int, counters: Mapping[str, int]) -> None:
        """Set the step and the counters, after `tensors` were overwritten with those of that step."""
        ...

    def show(self, cameras: Cameras, shading: Tensor, colors: Tensor, resolution: int) -> Iterator[Picture]:
        """Yield a picture from each of the cameras, under its row of shading (B, 6) (ops.shade), over its colour (B, 3)
        of the background, without gradient; resolution: pixels a side."""
        ...

    def occupied(self) -> float:
        """Share of the scene's cube in which there may be something."""
        ...


def adopt(stage: Stage, guidance: Guidance) -> None:
    """Let `stage` hold the tensors that `guidance` changes, after they got the values that the stage has from a
    checkpoint. Raises CheckpointError where the two do not fit."""
    tensors = guidance.tensors() if hasattr(guidance, "tensors") else {}
    if tensors is stage.guided:
        return
    if (stage.guided or stage.step) and kinds(tensors) != kinds(stage.guided):
        raise CheckpointError(
            f"the checkpoint holds tensors of another guidance: {summary(stage.guided)}; "
            f"this one has {summary(tensors)}"
        )
    for name, value in stage.guided.items():
        tensors[name].data.copy_(value)
    stage.guided = tensors


def kinds(tensors: Mapping[str, Tensor]) -> dict:
    """Shapes and dtypes by name."""
    return {name: (value.shape, value.dtype) for name, value in tensors.items()}


def summary(tensors: Mapping[str, Tensor]) -> str:
    """Names and shapes, the first few of them."""
    listed = [f"{name} {tuple(value.shape)}" for name, value in list(tensors.items())[:3]]
    return ", ".join([*listed, "..."] if len(tensors) > 3 else listed) or "none"


def merge(records: list[StepRecord]) -> StepRecord:
    """One record of the parts of a step: means, and sums of samples and times."""

    def mean(values: list):
        return sum(values[1:], values[0]) / len(values)

    first, *others = records
    return StepRecord(
        first.step,
        {key: mean([r.terms[key] for r in records]) for key in first.terms},
        {key: mean([r.log[key] for r in records]) for key in first.log},
        mean([r.opacity for r in records]),
        sum((r.samples for r in others), first.samples),
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


def check_update(adam: Adam, step: int, tensors: Callable[[], dict[str, Tensor]]) -> None:
    """Raise DivergenceError, which names the tensor, where one of `tensors()`, the state, is why Adam skipped an update
    in `step`: that would not pass. A gradient that is not finite is only counted, and the run goes on. On CUDA only
    every CHECK_INTERVAL_CUDA steps."""
    if (adam.nonfinite.is_cuda and step % CHECK_INTERVAL_CUDA) or int(adam.nonfinite) == adam.examined:
        return
    adam.examined = int(adam.nonfinite)
    if fault := unsound(tensors()):
        raise DivergenceError(f"{fault} at step {step}: stopped (a lower learning rate or another seed may help)")


def device_clock(device: torch.device) -> Callable[[], float]:
    """Seconds, after everything queued on the device is done. On CUDA this waits, so use it for measured steps only."""

    def cuda_clock() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return cuda_clock if device.type == "cuda" else time.perf_counter
