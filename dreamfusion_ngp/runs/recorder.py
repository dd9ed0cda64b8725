"""Records a running optimisation, as metrics, previews and checkpoints, and notifies its observer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import DivergenceError
from ..optimise.stage import Stage, StepRecord
from .display import write_preview
from .folder import append_metrics
from .interrupt import Interrupt
from .saver import Saver
from .stages import steps_in_all

log = logging.getLogger(__name__)

FIRST_PREVIEW = 8.0  # seconds after the start: users want a first picture early
PREVIEW_INTERVAL = 45.0  # seconds
LOG_INTERVAL = 10  # steps


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    step: steps made so far, of `steps` in all. first: step at which this process started, `seconds` ago. figures: of
    the last step, as `StepRecord.plain()` has them; {} before the first. occupied: share of the scene's cells that may
    hold something. preview: path of the newest picture in the run's folder, or "". ending: no step follows.
    """

    step: int
    steps: int
    first: int
    seconds: float
    figures: dict[str, float]
    occupied: float
    preview: str
    ending: bool


Observer = Callable[[Progress], None]


class BestEffort:
    """Calls functions whose failure must not end a run. The first error is logged, in one line; only a DivergenceError
    is raised."""

    def __init__(self):
        self.warned = False

    def __call__(self, act: Callable, *arguments):
        try:
            return act(*arguments)
        except DivergenceError:
            raise
        except Exception as error:
            if not self.warned:
                self.warned = True
                text = " ".join(str(error).split()) or type(error).__name__
                log.warning("%s; going on without it (what follows of this kind is not reported)", text)


class Recorder:
    """Called with the record of every step: writes metrics, previews and checkpoints, and calls the observer before the
    first step, every LOG_INTERVAL steps and at the end. None of its errors stops the run, except that of a diverged
    state."""

    def __init__(
        self, state: Stage, folder: Path, saver: Saver, interrupt: Interrupt, observer: Observer | None = None
    ):
        self.state, self.folder, self.saver, self.interrupt, self.observer = state, folder, saver, interrupt, observer
        self.best_effort = BestEffort()
        self.began = time.monotonic()
        self.first = state.before + state.step
        self.next_preview = self.began + FIRST_PREVIEW
        self.preview = ""
        self.times = {"guidance": 0.0, "field": 0.0, "other": 0.0}  # seconds
        self.best_effort(self.notify, {}, self.finished)

    def __call__(self, record: StepRecord) -> bool:
        now = time.monotonic()
        for key, seconds in record.seconds.items():
            self.times[key] += seconds
        self.best_effort(self.saver.save_if_due)  # a failed write may succeed later; at the end it is an error
        last = self.state.step == self.state.config.steps
        due = record.step % LOG_INTERVAL == 0 or last
        if due:
            self.best_effort(append_metrics, self.folder, self.figures(record))
        if now > self.next_preview or last:
            self.preview = self.best_effort(write_preview, self.folder, self.state) or self.preview
            self.next_preview = time.monotonic() + PREVIEW_INTERVAL
        stopped = bool(self.interrupt.signal)
        if due or stopped:
            self.best_effort(self.notify, self.figures(record), self.finished or stopped)
        self.times["other"] += time.monotonic() - now
        return stopped

    def follow(self, state: Stage) -> None:
        """Go on with the next stage of the run."""
        self.state = state

    @property
    def finished(self) -> bool:
        """Whether no step follows, in this stage or a later one."""
        return self.state.step >= self.state.config.steps and self.state.config.then is None

    def figures(self, record: StepRecord) -> dict[str, float]:
        """The numbers of a step, which is counted from the start of the run."""
        return {**record.plain(), "step": self.state.before + record.step}

    def notify(self, figures: dict[str, float], ending: bool) -> None:
        if self.observer is None:
            return
        state, seconds = self.state, time.monotonic() - self.began
        self.observer(
            Progress(
                state.before + state.step,
                state.before + steps_in_all(state.config),
                self.first,
                seconds,
                figures,
                state.occupied(),
                self.preview,
                ending,
            )
        )
