"""Standard output and standard error: a line that cannot be printed must not cost finished work."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import contextmanager, suppress

STDOUT = "standard output"
LOST = f"note: {STDOUT} cannot be written (%s); going on without it"


def open_streams() -> None:
    """Open missing standard streams on the null device. Otherwise the next file that is opened would get the number of
    a missing stream, and whatever is printed there would land in that file."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (for good)


class Tolerant:
    """A text stream that drops everything from its first failed write on (disk full, reader or terminal gone). note: a
    line for standard error, printed where the user can do something about the cause."""

    def __init__(self, stream, note: str = ""):
        self.stream, self.note, self.broken = stream, note, False

    def write(self, text: str) -> int:
        self._try(self.stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self.stream.flush)

    def _try(self, call, *arguments) -> None:
        if self.broken:
            return
        try:
            call(*arguments)
        except UnicodeError:
            pass  # this text alone cannot be shown
        except (OSError, ValueError) as error:
            self.broken = True
            silence(self.stream)
            if self.note and isinstance(error, OSError) and error.errno not in (errno.EPIPE, errno.EIO, None):
                print(self.note % error.strerror, file=sys.stderr)

    def __getattr__(self, name: str):
        return getattr(self.stream, name)


class Named(Tolerant):
    """Standard output, whose write errors name it."""

    def _try(self, call, *arguments) -> None:
        try:
            call(*arguments)
        except OSError as error:
            raise OSError(error.errno, error.strerror, STDOUT) from None


@contextmanager
def named_errors():
    """Make standard output `Named` within the block."""
    before, sys.stdout = sys.stdout, Named(sys.stdout)
    try:
        yield
    finally:
        sys.stdout = before


@contextmanager
def tolerant(*names: str):
    """Make the streams `names` of sys ("stdout", "stderr") `Tolerant` within the block."""
    before = {name: getattr(sys, name) for name in names if not isinstance(getattr(sys, name), Tolerant)}
    for name, stream in before.items():
        setattr(sys, name, Tolerant(stream, LOST if name == "stdout" else ""))
    try:
        yield
    finally:
        for name, stream in before.items():
            setattr(sys, name, stream)


def silence(stream) -> None:
    """Redirect a broken stream, and what it has buffered, to the null device: the interpreter flushes it at exit and
    would fail."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()


def settle() -> OSError | None:
    """Flush both streams at the end of the program; returns the error of standard output, if any."""
    failure = None
    for stream in (sys.stderr, sys.stdout):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            failure = error if isinstance(error, OSError) and stream is sys.stdout else None
            silence(stream)
    return failure


def silent(line: str) -> None:
    """Prints nothing: for functions that report their progress by calling another with lines of text."""
