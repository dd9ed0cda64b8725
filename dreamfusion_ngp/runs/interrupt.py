"""Catches the signals that end a run, so that no work is lost."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

STOPS = ("SIGINT", "SIGTERM")  # Ctrl-C, kill: a second one of these counts too
LOSSES = ("SIGHUP", "SIGXCPU", "SIGUSR1", "SIGUSR2")  # a closed terminal, limits of a shell or a batch system


class Interrupt:
    """First signal: finish the step, save and export. Second Ctrl-C or SIGTERM: save and stop. Third: stop at once.
    Once everything is saved (`ending`): Ctrl-C and SIGTERM stop, the others are only recorded.

    rescue: saves the state; returns False in the middle of an update. catch: False leaves all signals alone. signal:
    number of the first one, 0 before. hurried: whether a second one asked to stop without exports.
    """

    def __init__(self, rescue: Callable[[], bool], catch: bool = True):
        self.rescue, self.catches = rescue, catch
        self.signal, self.stops, self.hurried, self.ending = 0, 0, False, False

    def __enter__(self):
        self.old = {}
        if self.catches and threading.current_thread() is threading.main_thread():  # no other thread may catch signals
            signals = {getattr(signal, name) for name in STOPS + LOSSES if hasattr(signal, name)}
            self.stopping = {signal.SIGINT, signal.SIGTERM}
            # Of the other signals only those with their default action are caught: nohup ignores SIGHUP, and a program
            # around this one may use the rest.
            chosen = [s for s in signals if s in self.stopping or signal.getsignal(s) == signal.SIG_DFL]
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
        with suppress(Exception):  # the process must end even if the save fails
            if self.stops == 2 and not self.rescue():
                return  # the step's end, which is near, saves and stops
        if sys.stdout.isatty():
            with suppress(OSError):
                os.write(1, b"\x1b[?25h\n")  # the progress bar has hidden the cursor
        os._exit(128 + number)


def say(text: str) -> None:
    """Write a line to standard error by a system call, since the signal may have interrupted a print."""
    with suppress(OSError):
        os.write(2, f"\n{text}\n".encode())
