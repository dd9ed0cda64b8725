"""How different the results of one prompt are from seed to seed."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from itertools import combinations

import numpy as np


def pixels(address: str) -> np.ndarray:
    """(H, W, 3) float32 in [0, 1] of a picture given as a data URI (`evaluation.sheet.thumbnails`)."""
    from PIL import Image

    data = base64.b64decode(address.partition("base64,")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.float32) / 255


def diversity(addresses: Sequence[str]) -> float | None:
    """Mean over all pairs of the root mean square difference of their pixels, lit and untextured views alike; None for
    fewer than two pictures."""
    pictures = [pixels(address) for address in addresses]
    differences = [float(np.sqrt(np.square(a - b).mean())) for a, b in combinations(pictures, 2)]
    return sum(differences) / len(differences) if differences else None


def by_prompt(pictures: dict[str, list[str]], before: dict[str, float]) -> dict[str, float]:
    """The diversity of every prompt with pictures, and for other prompts the value in `before`."""
    values = {prompt: diversity(addresses) for prompt, addresses in pictures.items()}
    return before | {prompt: round(value, 4) for prompt, value in values.items() if value is not None}
