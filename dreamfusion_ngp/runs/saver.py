"""When the state of a run is saved: at its start, ever more seldom while it goes on, and on every way out of it."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from pathlib import Path

from ..base.errors import DivergenceError, writing
from ..optimise.stage import Stage
from .checkpoint import save_checkpoint
from .folder import CHECKPOINT

log = logging.getLogger(__name__)

SHORTEST, LONGEST = 5.0, 60.0  # seconds between saves: as many as the run is old, within these


class Saver:
    """Saves `state` into `folder`. step: of the checkpoint that it left there, None before the first."""

    def __init__(self, state: Stage, folder: Path):
        self.state, self.path, self.step = state, folder / CHECKPOINT, None
        self.began = self.due = time.monotonic()

    def save(self) -> None:
        """Raises OutputError, or DivergenceError, which says what the checkpoint holds, for a state that is not to be
        saved."""
        if self.step == self.made:
            return
        try:
            with writing(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)  # it may be gone since the run began
            save_checkpoint(self.path, self.state)
        except DivergenceError as error:
            raise DivergenceError(f"{error}; {self.told()}") from None
        self.step = self.made

    def follow(self, state: Stage) -> None:
        """Save the next stage of the run from now on."""
        self.state, self.step = state, None
        self.save()

    @property
    def made(self) -> int:
        """Steps of the run."""
        return self.state.before + self.state.step

    def save_if_due(self) -> None:
        """Save after the first step and then by the time."""
        if time.monotonic() < self.due:
            return
        try:
            self.save()
        finally:
            now = time.monotonic()
            self.due = now + min(max(now - self.began, SHORTEST), LONGEST)

    def rescue(self) -> bool:
        """Save from anywhere in a step. False where parameters are in the middle of an update, which cannot be kept."""
        if self.state.whole:
            self.save()
        return self.state.whole

    @contextmanager
    def kept(self):
        """Save after an exception of the block, which is raised all the same; a DivergenceError says what the
        checkpoint holds. The step that was interrupted is made again when the run is resumed."""
        try:
            yield
        except BaseException as error:
            hindered = ""
            try:
                self.rescue()
            except Exception as other:  # the error that ended the block is the one to see
                hindered = f" (the last steps could not be saved: {' '.join(str(other).split())})"
            if not isinstance(error, DivergenceError):
                log.info("stopped at step %d; %s%s", self.made, self.told(), hindered)
            elif self.told() not in str(error):
                raise DivergenceError(f"{error}; {self.told()}") from None
            raise

    def told(self) -> str:
        return "there is no checkpoint" if self.step is None else f"{self.path} is good, of step {self.step}"
