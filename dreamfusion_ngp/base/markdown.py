"""Tables in Markdown."""

from __future__ import annotations


def table(head: list[str], rows: list[list[str]], align: str = "") -> list[str]:
    """Lines of a table. align: a letter a column, "r" for right; columns beyond its end are left-aligned."""
    rule = ["---:" if letter == "r" else "---" for letter in align.ljust(len(head), "l")]
    return [f"| {' | '.join(head)} |", f"|{'|'.join(rule)}|", *(f"| {' | '.join(row)} |" for row in rows)]
