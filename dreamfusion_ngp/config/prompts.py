"""View-dependent prompts: which words a camera adds to the text (DreamFusion section 3.2 and appendix A.2).

Three vocabularies. `paper_view` has the paper's four words, taken from the nearest quadrant. `fine_view` tells left
from right, eight directions and four heights, because with only front, side and back a field can show a face to both
sides. `degree_view` names a direction to within 7.5 degrees, for guidance models that were trained with such words (the
embedded prior): the mean of all views within 45 degrees has lost the mug's handle.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ..base.characters import clean_text, lookalike
from ..base.errors import PromptError

OVERHEAD_DEG = 60.0  # above this elevation the paper says "overhead view"

_EIGHT = ("front", "front right", "right side", "back right", "back", "back left", "left side", "front left")


def paper_view(azimuth: float, elevation: float) -> str:
    """The paper's words for a camera at azimuth, elevation (radians): "front view", "side view", "back view" by the
    nearest quadrant, "overhead view" above 60 degrees."""
    if math.degrees(elevation) > OVERHEAD_DEG:
        return "overhead view"
    a = abs((math.degrees(azimuth) + 180.0) % 360.0 - 180.0)
    return "front view" if a < 45.0 else "back view" if a > 135.0 else "side view"


def fine_view(azimuth: float, elevation: float) -> str:
    """Eight directions and four heights for a camera at azimuth, elevation (radians), e.g. "front left view, high
    angle".

    "right" is the viewer's: the camera stands on +X, at azimuth 90 degrees, and sees the side of the object that faces
    +X.
    """
    direction = _EIGHT[round(math.degrees(azimuth) / 45.0) % 8]
    e = math.degrees(elevation)
    height = (
        "overhead" if e > OVERHEAD_DEG else "high angle" if e > 35.0 else "raised angle" if e > 12.0 else "low angle"
    )
    return f"{direction} view, {height}"


def degree_view(azimuth: float, elevation: float) -> str:
    """The nearest of 24 azimuths and 7 elevations (from 0 up) for a camera at azimuth, elevation (radians), in degrees,
    e.g. "az45 el15"."""
    a, e = (15 * round(math.degrees(angle) / 15.0) for angle in (azimuth, elevation))
    return f"az{a % 360} el{max(e, 0)}"


DEGREE_VIEWS = 24 * 7


def degree_views(azimuth, elevation):
    """The numbers, from 0 to DEGREE_VIEWS - 1, of the words that `degree_view` has for n cameras: arrays (n,) in
    radians -> (n,) int64."""
    import numpy as np

    a, e = (np.round(np.degrees(angle) / 15.0).astype(np.int64) for angle in (azimuth, elevation))
    return a % 24 * 7 + np.maximum(e, 0)


VIEW_WORDS = {"paper": paper_view, "fine": fine_view, "degrees": degree_view, "none": lambda azimuth, elevation: ""}


@dataclass(frozen=True)
class ViewText:
    """The words of one view: the embeddings of `start` and `end`, mixed as share : 1 - share, and words to steer away
    from, with their weights (below zero)."""

    start: str
    end: str
    share: float
    against: tuple[tuple[str, float], ...] = ()


def blended_view(azimuth: float, elevation: float) -> ViewText:
    """The paper's words mixed by the azimuth (radians): from front at 0 to side at 90 to back at 180 degrees, linearly;
    "overhead view" unmixed above 60 degrees of elevation."""
    if math.degrees(elevation) > OVERHEAD_DEG:
        return ViewText("overhead view", "overhead view", 1.0)
    a = abs((math.degrees(azimuth) + 180.0) % 360.0 - 180.0)
    if a < 90.0:
        return ViewText("front view", "side view", 1.0 - a / 90.0)
    return ViewText("side view", "back view", 2.0 - a / 90.0)


def perp_neg_view(azimuth: float, elevation: float) -> ViewText:
    """`blended_view` with negative views: "side" from the front and the reverse, "front" from behind (Perp-Neg,
    Armandpour et al. 2023). Weights are -(a exp(-b r) + c), r the share of the nearer words; a, b and c are those in
    common use (threestudio's defaults), which reach 0 where the words apply themselves. Overhead the weights are 0, but
    there are still two texts, so that every view has the same number of branches."""
    text = blended_view(azimuth, elevation)
    r = text.share
    if text.start == "overhead view":
        against = (("front view", 0.0), ("side view", 0.0))
    elif text.start == "front view":
        against = (("front view", _decay(4.0, 0.5, -2.426, r)), ("side view", _decay(4.0, 0.5, -2.426, 1.0 - r)))
    else:
        against = (("side view", _decay(1.0, 0.5, -0.606, r)), ("front view", _decay(1.0, 0.5, 0.967, r)))
    return ViewText(text.start, text.end, r, against)


def _decay(a: float, b: float, c: float, r: float) -> float:
    return -(a * math.exp(-b * r) + c)


def view_text(words: str, blend: str, azimuth: float, elevation: float) -> ViewText:
    """words: a key of VIEW_WORDS. blend: "nearest", or for the paper's words "linear" or "perp-neg". azimuth,
    elevation: radians."""
    if blend == "nearest":
        word = VIEW_WORDS[words](azimuth, elevation)
        return ViewText(word, word, 1.0)
    return (perp_neg_view if blend == "perp-neg" else blended_view)(azimuth, elevation)


# Only for models trained with these words (the embedded prior): an unlit, a lit and an untextured rendering, in the
# order of the modes in `lights`.
MODE_WORDS = ("flat colors", "lit", "clay")


def view_prompt(prompt: str, view: str, mode: str = "") -> str:
    """ "a red mug", "front view", "clay" -> "a red mug, front view, clay"."""
    return ", ".join(part for part in (prompt, view, mode) if part)


# Weights, LoRAs, blends and flags in the syntax of AUTOMATIC1111, ComfyUI, compel, NovelAI and Midjourney.
FOREIGN = re.compile(
    r"<(?:lora|lyco|loha|hypernet|embedding)\w*:[^<>]*>|\bembedding:\S+|__[\w/]+__"
    r"|\([^()]*:\s*[-+]?\d*\.?\d+\s*\)|\({2,}[^()]*\){2,}|\([^()]*\)(?:\d*\.\d+|[+-]+)|\w{2,}\+\+"
    r"|\[[^\[\]]*\]|\{[^{}]*\}|\\[()]|::-?\d*\.?\d+|(?<!\S)--[a-z]+(?: [\d:.]+)?"
    r"|\b(?:BREAK|AND|ADD(?:ROW|COL|BASE|COMM))\b"
)


def foreign_syntax(text: str) -> list[str]:
    """The parts of a text that are prompt syntax in other programs: "(mug:1.2)", "[mug]", "<lora:toy:1>", "BREAK". In a
    text that is all capitals, AND is a word."""
    matches = dict.fromkeys(FOREIGN.findall(text))
    return [part for part in matches if not (part.isalpha() and text == text.upper())]


def clean_prompt(text: str) -> str:
    """The prompt in normal form (`clean_text`). Raises PromptError for a text that is empty (or invisible) or too long,
    and for codes that are no characters. All other characters are plain text: slashes, dots and quotes have no special
    meaning.
    """
    text = clean_text(text, "the prompt")
    if not lookalike(text):
        raise PromptError('the prompt is empty; try: dreamfusion-ngp generate "a red mug"')
    return text
