"""The library's log on the terminal."""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager


class TerminalHandler(logging.Handler):
    """Prints the library's log to standard output, warnings to standard error. results_only: everything to standard
    error, since standard output is for the verb's result."""

    def __init__(self, results_only: bool = False):
        super().__init__()
        self.results_only = results_only

    def emit(self, record: logging.LogRecord) -> None:
        warning = record.levelno >= logging.WARNING
        text = f"warning: {record.getMessage()}" if warning else record.getMessage()
        print(text, file=sys.stderr if warning or self.results_only else sys.stdout, flush=True)


@contextmanager
def shown_log(results_only: bool = False):
    """Show the library's log for the length of the block."""
    log, handler = logging.getLogger("dreamfusion_ngp"), TerminalHandler(results_only)
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)
