"""When the state of a run is saved: at the start, then at growing intervals, and however the run ends."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from pathlib import Path

from ..base.errors import DivergenceError, OutputError, writing
from ..optimise.stage import Stage
from .checkpoint import save_checkpoint
from .folder import CHECKPOINT

log = logging.getLogger(__name__)

SHORTEST, LONGEST = 5.0, 60.0  # seconds between saves: the age of the run, clamped to these


class Saver:
    """Saves `state` into `folder`. step: of the last checkpoint that it wrote, None before the first. is_new: whether
    that was of the stage before."""

    def __init__(self, state: Stage, folder: Path):
        self.state, self.path, self.step, self.is_new = state, folder / CHECKPOINT, None, False
        self.began = self.due = time.monotonic()

    def save(self) -> None:
        """Write the checkpoint, unless this step is saved. Raises OutputError, and for a diverged state
        DivergenceError, which says what the checkpoint holds."""
        if self.step == self.steps_made and not self.is_new:
            return
        try:
            self.write()
        except DivergenceError as error:
            raise DivergenceError(f"{error}; {self.checkpoint_note()}") from None

    def write(self) -> None:
        """`save`, in any case; a DivergenceError does not say what the checkpoint holds."""
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)  # it may have been deleted since the run began
        save_checkpoint(self.path, self.state)
        self.step, self.is_new = self.steps_made, False

    def follow(self, state: Stage) -> None:
        """Save the next stage of the run from now on. A failed write may succeed later; before a state that has
        diverged, the finished stage is what there is to save."""
        before, self.state, self.is_new = self.state, state, True
        try:
            self.write()
        except DivergenceError:
            self.state, self.is_new = before, False
            raise
        except OutputError as error:
            log.warning("%s; going on without it", error)

    @property
    def steps_made(self) -> int:
        """Steps of the run so far, those of earlier stages too."""
        return self.state.before + self.state.step

    def save_if_due(self) -> None:
        """Save after the first step, then when the interval has passed."""
        if time.monotonic() < self.due:
            return
        try:
            self.save()
        finally:
            now = time.monotonic()
            self.due = now + min(max(now - self.began, SHORTEST), LONGEST)

    def rescue(self) -> bool:
        """Save at any point of a step. Returns False in the middle of an update, which cannot be saved."""
        if self.state.whole:
            self.save()
        return self.state.whole

    @contextmanager
    def saved_on_error(self):
        """Save after an exception of the block, and raise it; a DivergenceError says what the checkpoint holds. A
        resumed run makes the interrupted step again."""
        try:
            yield
        except BaseException as error:
            hindered = ""
            try:
                self.rescue()
            except Exception as other:  # the error that ended the block is the one to see
                hindered = f" (the last steps could not be saved: {' '.join(str(other).split())})"
            if not isinstance(error, DivergenceError):
                log.info("stopped at step %d; %s%s", self.steps_made, self.checkpoint_note(), hindered)
            elif self.checkpoint_note() not in str(error):
                raise DivergenceError(f"{error}; {self.checkpoint_note()}") from None
            raise

    def checkpoint_note(self) -> str:
        return "there is no checkpoint" if self.step is None else f"{self.path} is good, of step {self.step}"
