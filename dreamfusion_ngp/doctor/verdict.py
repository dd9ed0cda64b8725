"""The outcome of a check."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARN, FAIL, SKIP = "OK", "WARN", "FAIL", "SKIP"


@dataclass(frozen=True)
class Verdict:
    """One check's outcome; `remedy` is empty unless something should be done."""

    status: str
    detail: str
    remedy: str = ""


def describe(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:400]
