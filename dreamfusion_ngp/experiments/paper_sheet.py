"""The pictures of the paper's table as one JPEG: a row per method, a column per prompt."""

from __future__ import annotations

import io
import textwrap

import numpy as np

from ..evaluation.sheet import THUMBNAIL
from .diversity import pixels

MARGIN, HEAD = 150, 34  # pixels to the left for the methods, above for the prompts
COLUMNS = 24  # prompts at most
LETTERS = 9  # of a heading's line, at most as wide as a picture


def sheet(table: dict) -> bytes | None:
    """A JPEG of every method's first run of each of the first COLUMNS prompts, from the front right: lit, and below
    textureless. None where table.json has no pictures."""
    from PIL import Image, ImageDraw, ImageFont

    rows = {
        row["name"]: {run["prompt"]: run["picture"] for run in reversed(row["runs"]) if run.get("picture")}
        for row in table["rows"]
    }
    rows = {name: pictures for name, pictures in rows.items() if pictures}
    prompts = list(dict.fromkeys(run["prompt"] for row in table["rows"] for run in row["runs"]))[:COLUMNS]
    if not rows:
        return None
    size = MARGIN + THUMBNAIL * len(prompts), HEAD + 2 * THUMBNAIL * len(rows)
    image = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(11)
    for column, prompt in enumerate(prompts):
        draw.multiline_text((MARGIN + THUMBNAIL * column + 3, 3), heading(prompt), "black", font, spacing=2)
    for number, (name, pictures) in enumerate(rows.items()):
        top = HEAD + 2 * THUMBNAIL * number
        draw.text((4, top + THUMBNAIL - 6), name, "black", font)
        for column, prompt in enumerate(prompts):
            if prompt in pictures:
                first = (pixels(pictures[prompt])[:, :THUMBNAIL] * 255).round().astype(np.uint8)
                image.paste(Image.fromarray(first), (MARGIN + THUMBNAIL * column, top))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80, optimize=True)
    return buffer.getvalue()


def heading(prompt: str) -> str:
    """A prompt without its article, in two lines of LETTERS at most: its end, after "..", if it is longer."""
    article, _, rest = prompt.partition(" ")
    lines = textwrap.wrap(rest if rest and article.lower() in ("a", "an", "the") else prompt, LETTERS)
    return "\n".join(lines if len(lines) < 3 else [f"..{lines[-2]}", lines[-1]])
