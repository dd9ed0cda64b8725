"""What is seen of a running optimisation: a bar or lines, metrics, previews."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from ..base.errors import DivergenceError
from ..optimise.loop import State, StepRecord
from .display import write_preview
from .folder import append_metrics
from .interrupt import Interrupt
from .saver import Saver

FIRST_PREVIEW = 8.0  # seconds after the start; the first picture is wanted early
PREVIEW_INTERVAL = 45.0  # seconds
LOG_INTERVAL = 10  # steps
LINE_INTERVAL = 15.0  # seconds between lines where there is no terminal


class Conveniences:
    """Runs what a run can do without. Of what goes wrong in it the first is said, in one line; only a DivergenceError
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
                print(
                    f"warning: {text}; going on without it (what follows of this kind is not reported)",
                    file=sys.stderr,
                    flush=True,
                )


class Observer:
    """Progress on the terminal, metrics, previews and checkpoints of a running optimisation. Nothing of it stops the
    run but a state that is not to be saved."""

    def __init__(self, state: State, folder: Path, saver: Saver, interrupt: Interrupt, bar):
        self.state, self.folder, self.saver, self.interrupt, self.bar = state, folder, saver, interrupt, bar
        self.spare = Conveniences()
        self.task = bar.add_task("", total=state.config.steps, completed=state.step)
        self.began = time.monotonic()
        self.first = state.step
        self.next_preview = self.began + FIRST_PREVIEW
        self.preview = ""
        self.totals = {"guidance": 0.0, "field": 0.0, "other": 0.0}
        self.line_at = self.began

    def __call__(self, record: StepRecord) -> bool:
        now = time.monotonic()
        for key, seconds in record.seconds.items():
            self.totals[key] += seconds
        self.spare(self.saver.save_if_due)  # what cannot be written may be later; at the end it is an error
        last = self.state.step == self.state.config.steps
        if record.step % LOG_INTERVAL == 0 or last:
            plain = record.plain()
            self.spare(append_metrics, self.folder, plain)
            self.spare(self.show, plain, now, last)
        if now > self.next_preview or last:
            self.preview = self.spare(write_preview, self.folder, self.state) or self.preview
            self.next_preview = time.monotonic() + PREVIEW_INTERVAL
        self.totals["other"] += time.monotonic() - now
        return bool(self.interrupt.signal)

    def show(self, plain: dict, now: float, last: bool) -> None:
        """A moving bar on a terminal; elsewhere a line now and then."""
        done, steps = self.state.step, self.state.config.steps
        text = (
            f"loss {plain['sds']:.2e}  opacity {plain['opacity']:.2f}  "
            f"occupied {self.state.occupancy.fraction():.1%}  {self.preview}"
        )
        self.bar.update(self.task, completed=done, description=text)
        if not self.bar.console.is_terminal and (last or now - self.line_at > LINE_INTERVAL or done == self.first + 1):
            self.line_at = now
            rate = (done - self.first) / max(now - self.began, 1e-9)
            left = (steps - done) / max(rate, 1e-9)
            print(
                f"step {done}/{steps}  {rate:.1f} steps/s  {int(left // 60)}:{int(left % 60):02d} left  {text}",
                flush=True,
            )


def progress_bar():
    """A bar with step, rate and time left; silent where the output is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console()
    return Progress(
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(30),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
        console=console,
        disable=not console.is_terminal,
    )


def shares(totals: dict[str, float]) -> str:
    """ "prior 41 %, field 55 %, elsewhere 4 %"."""
    whole = max(sum(totals.values()), 1e-9)
    return ", ".join(
        f"{name} {100 * totals[key] / whole:.0f} %"
        for name, key in (("prior", "guidance"), ("field", "field"), ("elsewhere", "other"))
    )
