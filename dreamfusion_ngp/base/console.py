"""Standard output and standard error: a line that nobody can read costs no work."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import contextmanager, suppress

STDOUT = "standard output"
LOST = f"note: {STDOUT} cannot be written (%s); going on without it"


def open_streams() -> None:
    """Give a process that was started without standard streams ones that lead nowhere. Otherwise the next file that is
    opened would take the number of a missing one, and whoever writes there would write into that file."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (for good)


class Tolerant:
    """A text stream that drops everything from the first write on that fails: the disk is full, the reader or the
    terminal is gone. note: a line for standard error, said where that is a fault that somebody can mend."""

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
    """A text stream whose errors say which one it is."""

    def _try(self, call, *arguments) -> None:
        try:
            call(*arguments)
        except OSError as error:
            raise OSError(error.errno, error.strerror, STDOUT) from None


@contextmanager
def named_errors():
    """Let standard output be Named for the length of the block."""
    before, sys.stdout = sys.stdout, Named(sys.stdout)
    try:
        yield
    finally:
        sys.stdout = before


@contextmanager
def tolerant(*names: str):
    """Let the streams `names` of sys ("stdout", "stderr") be Tolerant for the length of the block."""
    before = {name: getattr(sys, name) for name in names if not isinstance(getattr(sys, name), Tolerant)}
    for name, stream in before.items():
        setattr(sys, name, Tolerant(stream, LOST if name == "stdout" else ""))
    try:
        yield
    finally:
        for name, stream in before.items():
            setattr(sys, name, stream)


def silence(stream) -> None:
    """Lead a stream, with what it still holds, nowhere: the interpreter would stumble over it at its end."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()


def settle() -> OSError | None:
    """Flush both streams at the end of the program. The error of standard output, if it has one."""
    found = None
    for stream in (sys.stderr, sys.stdout):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            found = error if isinstance(error, OSError) and stream is sys.stdout else None
            silence(stream)
    return found


def silent(line: str) -> None:
    """Shows nothing, where a function takes another that is called with lines for people."""
