"""Tables and paragraphs in Markdown."""

from __future__ import annotations

import re
import textwrap


def table(head: list[str], rows: list[list[str]], align: str = "") -> list[str]:
    """Lines of a table. align: a letter a column, "r" for right; columns beyond its end are left-aligned."""
    rule = ["---:" if letter == "r" else "---" for letter in align.ljust(len(head), "l")]
    return [f"| {' | '.join(head)} |", f"|{'|'.join(rule)}|", *(f"| {' | '.join(row)} |" for row in rows)]


def wrapped(text: str, width: int = 100) -> str:
    """The text with its paragraphs broken at `width` columns. Headings, tables, pictures and paragraphs that are a list
    or one span of code stay as they are, and so do spans of code and links within a line."""
    blocks = []
    for block in text.strip().split("\n\n"):
        if not re.match(r"[#|!\-]|`[^`]*`$", block):
            whole = re.sub(
                r"`[^`]*`|\[[^]]*]\([^)]*\)", lambda span: span[0].replace(" ", "\0"), " ".join(block.split())
            )
            block = textwrap.fill(whole, width, break_long_words=False, break_on_hyphens=False).replace("\0", " ")
        blocks.append(block)
    return "\n\n".join(blocks) + "\n"
