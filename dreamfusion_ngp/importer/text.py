"""Parses text files of millions of lines with numpy: finds lines by keyword and reads their numbers."""

from __future__ import annotations

import re
import warnings

import numpy as np

from ..base.errors import MeshError
from .files import excerpt

SPACES = (32, 9, 13, 11, 12)
NEWLINE = 10
SLOW_INDENT = 64  # characters: deeper indents are stripped line by line


class Lines:
    """The lines of a text. data: (N,) uint8. start, end: (L,) int64, the positions of the first character that is no
    space, and of the newline (or the end)."""

    def __init__(self, text: bytes) -> None:
        self.data = np.frombuffer(text, np.uint8)
        newlines = np.flatnonzero(self.data == NEWLINE)
        self.start = np.concatenate([[0], newlines + 1])
        self.end = np.concatenate([newlines, [len(text)]])
        for _ in range(SLOW_INDENT):
            indented = np.flatnonzero((self.start < self.end) & np.isin(self._at(self.start), SPACES))
            if not len(indented):
                return
            self.start[indented] += 1
        for line in indented:
            body = text[self.start[line] : self.end[line]]
            self.start[line] += len(body) - len(body.lstrip(b" \t\r\v\f"))

    def __len__(self) -> int:
        return len(self.start)

    def _at(self, place: np.ndarray) -> np.ndarray:
        return self.data[np.minimum(place, len(self.data) - 1)] if len(self.data) else np.zeros(len(place), np.uint8)

    def starting(self, keyword: bytes) -> np.ndarray:
        """The numbers of the lines whose first word is `keyword`."""
        lines = np.arange(len(self))
        for k, letter in enumerate(keyword):
            lines = lines[self._at(self.start[lines] + k) == letter]
        after = self.start[lines] + len(keyword)
        whole = (after >= self.end[lines]) | np.isin(self._at(after), SPACES)
        return lines[whole & (after <= self.end[lines])]

    def rest(self, line: int, skip: int) -> bytes:
        """A line from its `skip`th character on, without spaces around it."""
        return self.data[self.start[line] + skip : self.end[line]].tobytes().strip()

    def joined(self, lines: np.ndarray, skip: int) -> bytes:
        """These lines, in order, each from its `skip`th character to a newline."""
        if not len(lines):
            return b""
        keep = np.zeros(len(self.data) + 2, np.int8)
        keep[self.start[lines] + skip] += 1
        keep[np.minimum(self.end[lines] + 1, len(self.data) + 1)] -= 1
        text = self.data[np.cumsum(keep[:-2], dtype=np.int8).view(bool)].tobytes()
        text = text if text.endswith(b"\n") else text + b"\n"
        return re.sub(rb"#[^\n]*", b"", text) if b"#" in text else text


def words_per_line(text: bytes) -> np.ndarray:
    """(L,) the number of words in each line of a text that ends with a newline."""
    data = np.frombuffer(text, np.uint8)
    space = data <= 32
    word = ~space
    word[1:] &= space[:-1]
    ends = np.cumsum(word, dtype=np.int64)[data == NEWLINE]
    return np.diff(ends, prepend=0)


def parse_numbers(text: bytes, dtype, count: int, what: str) -> np.ndarray:
    """(count,) numbers separated by spaces. Raises MeshError that names `what`."""
    with warnings.catch_warnings(action="error"):
        try:
            numbers = np.fromstring(text, dtype, sep=" ") if text.strip() else np.zeros(0, dtype)
        except (ValueError, DeprecationWarning):
            numbers = np.zeros(0, dtype)
    if len(numbers) != count:
        bad = next((word for word in text.split() if not is_number(word, dtype)), b"")
        raise MeshError(f"has {what} with {excerpt(bad.decode(errors='replace'))}, which is no number")
    return numbers


def is_number(word: bytes, dtype) -> bool:
    try:
        int(word) if np.dtype(dtype).kind == "i" else float(word)
    except ValueError:
        return False
    return True


def fans(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Consecutive polygons of `counts` (P,) corners as fans of triangles: (T, 3) indices of their corners and (T,) the
    polygon of each."""
    polygon = np.repeat(np.arange(len(counts)), counts - 2)
    first = np.cumsum(counts) - counts
    within = np.arange(len(polygon)) - (np.cumsum(counts - 2) - (counts - 2))[polygon]
    corner = first[polygon]
    return np.stack([corner, corner + within + 1, corner + within + 2], -1), polygon
