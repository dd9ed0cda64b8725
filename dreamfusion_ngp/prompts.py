"""View-dependent prompts: which words a camera adds to the text (DreamFusion section 3.2 and appendix A.2).

Two vocabularies. `paper_view` has the paper's four words, taken from the nearest quadrant. `fine_view` tells left from
right, eight directions and four heights; it serves guidance models that were trained with such words (the embedded
prior), because with only front, side and back a field can show a face to both sides.
"""

from __future__ import annotations

import math
import unicodedata

from .errors import PromptError

OVERHEAD_DEG = 60.0     # above this elevation the paper says "overhead view"
UNPRINTABLE = ("Cc", "Cs", "Co", "Cn")  # control, surrogate, private, unassigned
MAX_PROMPT = 2000       # characters; a longer text is a mistake (a file pasted in), not a prompt

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
    height = ("overhead" if e > OVERHEAD_DEG else "high angle" if e > 35.0 else
              "raised angle" if e > 12.0 else "low angle")
    return f"{direction} view, {height}"


VIEW_WORDS = {"paper": paper_view, "fine": fine_view, "none": lambda azimuth, elevation: ""}

# Only for models that know the words (the embedded prior): an unlit, a lit and an untextured rendering, in the order of
# the modes in `lights`.
MODE_WORDS = ("flat colors", "lit", "clay")


def view_prompt(prompt: str, view: str, mode: str = "") -> str:
    """"a red mug", "front view", "clay" -> "a red mug, front view, clay"."""
    return ", ".join(part for part in (prompt, view, mode) if part)


def clean_prompt(text: str) -> str:
    """The prompt in normal form (NFC, single spaces). Raises PromptError for empty, over-long or non-printable text.

    Whatever is printable stays text: slashes, dots and quotes have no meaning here. Invisible format characters alone
    are no prompt.
    """
    if len(text) > MAX_PROMPT:
        raise PromptError(f"the prompt has {len(text)} characters; at most {MAX_PROMPT} are accepted")
    bad = sorted({f"U+{ord(c):04X}" for c in text if unicodedata.category(c) in UNPRINTABLE and c not in "\t\n\r"})
    if bad:
        raise PromptError(f"the prompt contains control or unassigned characters ({', '.join(bad[:4])})")
    text = " ".join(unicodedata.normalize("NFC", text).split())
    if all(unicodedata.category(c) in ("Cf", "Zs") for c in text):
        raise PromptError('the prompt is empty; try: dreamfusion-ngp generate "a red mug"')
    return text
