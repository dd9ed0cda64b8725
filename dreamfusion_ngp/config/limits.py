"""Fields of the config dataclasses with their limits: numbers, intervals, choices."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def number(default, low: float, high: float):
    """A setting of one number from `low` to `high`, or of several."""
    return field(default=default, metadata={"range": (low, high)})


def interval(lowest: float, highest: float, low: float, high: float) -> Any:
    """A setting (lowest, highest), both from `low` to `high`."""
    return field(default=(lowest, highest), metadata={"range": (low, high), "interval": True})


def maybe(low: float, high: float):
    """A setting of one number from `low` to `high`, or None, its default, which older versions wrote as 0."""
    return field(default=None, metadata={"range": (low, high), "was": 0})


def choice(default: str, *others: str):
    """A setting that is one of a few words."""
    return field(default=default, metadata={"choices": (default, *others)})


def maybe_choice(*words: str):
    """A setting that is one of a few words, or None, its default, which older versions wrote as "none"."""
    return field(default=None, metadata={"choices": (None, *words), "was": "none"})
