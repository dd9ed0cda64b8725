"""Signals that end a run, caught so that they cost no work."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

STOPS = ("SIGINT", "SIGTERM")  # Ctrl-C, kill: of these a second one is heard
LOSSES = ("SIGHUP", "SIGXCPU", "SIGUSR1", "SIGUSR2")  # a closed terminal, limits of a shell or a batch system


class Interrupt:
    """A signal once: finish the step, save and export. Ctrl-C or SIGTERM twice: save and stop. Thrice: stop at once.
    Later (`ending`), when everything is saved: Ctrl-C and SIGTERM stop, the others are noted only.

    rescue: called to save what there is; returns False where the state is in the middle of an update. catch: False
    leaves all signals alone. signal: the first one's number, 0 before. hurried: whether a second asked to stop without
    exports.
    """

    def __init__(self, rescue: Callable[[], bool], catch: bool = True):
        self.rescue, self.catches = rescue, catch
        self.signal, self.stops, self.hurried, self.ending = 0, 0, False, False

    def __enter__(self):
        self.old = {}
        if self.catches and threading.current_thread() is threading.main_thread():  # no other may catch signals
            known = {getattr(signal, name) for name in STOPS + LOSSES if hasattr(signal, name)}
            self.stopping = {signal.SIGINT, signal.SIGTERM}
            # nohup ignores SIGHUP, and a program around this one may use the others: both have their reasons.
            chosen = [s for s in known if s in self.stopping or signal.getsignal(s) == signal.SIG_DFL]
            self.old = {s: signal.signal(s, self.catch) for s in chosen}
        return self

    def __exit__(self, *_):
        for s, handler in self.old.items():
            signal.signal(s, handler)

    def catch(self, number, _frame):
        self.stops += number in self.stopping
        if self.ending and number in self.stopping:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        if self.stops > 1 and number in self.stopping:
            self.stop(number)
        elif not self.signal:
            self.signal = number
            say("stopping after this step: saving and exporting what is there (once more: save and stop)")

    def stop(self, number: int) -> None:
        """Save, unless this is the third time, and end the process."""
        self.hurried = True
        with suppress(Exception):  # whatever hinders a save, the process is to end
            if self.stops == 2 and not self.rescue():
                return  # the step's end, which is near, saves and stops
        if sys.stdout.isatty():
            with suppress(OSError):
                os.write(1, b"\x1b[?25h\n")  # the progress bar has hidden the cursor
        os._exit(128 + number)


def say(text: str) -> None:
    """A line on standard error, by the system alone: a signal may have come in the middle of a print."""
    with suppress(OSError):
        os.write(2, f"\n{text}\n".encode())
