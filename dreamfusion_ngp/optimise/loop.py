"""The optimisation loop, the same for every stage and every guidance."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..guidance.protocol import Guidance
from .stage import Stage, StepRecord, adopt, device_clock


def train(
    stage: Stage, guidance: Guidance, observe: Callable[[StepRecord], bool | None], *, measure_every: int = 10
) -> None:
    """Advance `stage` until `config.steps`. `observe` sees every step's record and ends the run by returning True.
    Raises CheckpointError where the stage comes from a checkpoint with another guidance, and DivergenceError.

    On CUDA every `measure_every`-th step is timed with synchronisation; the times of the others are host times.
    """
    exact = device_clock(stage.device)
    adopt(stage, guidance)
    while stage.step < stage.config.steps:
        clock = exact if stage.step % measure_every == 0 else time.perf_counter
        if observe(stage.advance(guidance, clock)):
            break
    stage.restore(stage.step, stage.counters())
