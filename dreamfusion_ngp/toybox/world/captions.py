"""Captions of toys: "a red mug, front left view, high angle, clay", with parts left out at random for training."""

from __future__ import annotations

import logging
import re
import unicodedata

import numpy as np

from ...base.characters import visible
from ...base.errors import PromptError
from ...config.prompts import MODE_WORDS, degree_view, fine_view, paper_view, view_prompt
from ...scene.lights import TEXTURELESS
from .shapes import CLASSES, COLORS

FILLER = ("a", "an", "the", "toy", "photo", "of", "dslr", "3d", "model", "render")
VIEW_VOCABULARY = ("front", "back", "side", "left", "right", "view", "overhead", "high", "raised", "low", "angle")
MODE_VOCABULARY = ("flat", "colors", "clay", "lit")
DEGREES = tuple(f"az{a}" for a in range(0, 360, 15)) + tuple(f"el{e}" for e in range(0, 91, 15))
WORDS = FILLER + tuple(COLORS) + CLASSES + VIEW_VOCABULARY + MODE_VOCABULARY + DEGREES
# Other spellings of words that the prior was trained with.
SPELLINGS = {"grey": "gray", "colours": "colors", "aeroplane": "airplane"}
BETWEEN_WORDS = re.compile(
    r"""[\s,.;:!?()"'`\u00ab\u00bb\u2018-\u201f\u2039\u203a\u3001\u3002\u300c-\u300f]"""
    r"|[-_\u2012-\u2015\u2212]"
)
RUN_TOGETHER = re.compile(f"(an?|the)?({'|'.join(COLORS)}|grey)?({'|'.join(CLASSES)})")

log = logging.getLogger(__name__)

# Dropout rates of training captions. Empty text trains the unconditional branch, view words without a subject a branch
# that keeps the view; the other rates let every shorter caption work.
P_EMPTY, P_NO_SUBJECT, P_NO_COLOR, P_NO_VIEW, P_NO_MODE = 0.08, 0.07, 0.08, 0.10, 0.35
P_NO_COLOR_IF_CLAY, P_PHOTO = 0.3, 0.08
# Shares of the captions with a view. Degrees are only used with constant framing (`framed`), so they imply the size of
# the toy too.
P_DEGREES, P_PAPER_VIEW = 0.7, 0.15


def subject(name: str, color: str = "") -> str:
    """ "a red mug", "an orange torus", "a mug"."""
    words = f"{color} {name}".strip()
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def caption(
    name: str,
    color: str,
    azimuth: float,
    elevation: float,
    mode: int,
    random: np.random.Generator,
    framed: bool = True,
    whole: bool = False,
    views: bool = True,
) -> str:
    """A training caption for a picture of a toy; `random` decides what it mentions (always seven draws). framed: the
    camera is one of config.FRAMED_CAMERAS.  whole: it mentions everything, the view in degrees.  views: whether it may
    mention the view."""
    draw = random.random(7)
    if not framed:
        draw[4] *= 1 - P_DEGREES
    if whole:
        draw[:] = 1.0
    if draw[0] < P_EMPTY:
        return ""
    clay = mode == TEXTURELESS
    text = subject(name, "" if draw[2] < (P_NO_COLOR_IF_CLAY if clay else P_NO_COLOR) else color)
    if draw[6] < P_PHOTO:
        text = f"a photo of {text}"
    words = paper_view if draw[4] < P_PAPER_VIEW else fine_view if draw[4] < 1 - P_DEGREES else degree_view
    view = words(azimuth, elevation)
    return view_prompt(
        "" if draw[1] < P_NO_SUBJECT else text,
        view if views and draw[3] >= P_NO_VIEW else "",
        "" if draw[5] < P_NO_MODE else MODE_WORDS[mode],
    )


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case, without punctuation, hyphens and quotes, in the spelling of WORDS. Words that
    run together, as after removing a zero-width space, are split: "redmug" is "red", "mug"."""
    plain = unicodedata.normalize("NFKC", visible(text)).lower().replace("3-d", "3d")
    words: list[str] = []
    for word in filter(None, BETWEEN_WORDS.split(plain)):
        match = None if word in WORDS else RUN_TOGETHER.fullmatch(word)
        words += [part for part in match.groups() if part] if match else [word]
    return [SPELLINGS.get(word, word) for word in words]


def known_words(text: str, name: str) -> str:
    """`text` in the vocabulary of the embedded prior; unknown words are dropped with a warning."""
    words = words_of(text)
    if unknown := [word for word in words if word not in WORDS]:
        log.warning("the embedded prior does not know these words of %s and ignores them: %s", name, ", ".join(unknown))
    return " ".join(word for word in words if word in WORDS)


def parse_prompt(prompt: str) -> tuple[str, str]:
    """(class, colour) named by a prompt for the embedded prior; the colour may be "".

    Raises PromptError that lists what the prior knows, for an unknown word, no class, or two classes or colours.
    """
    words = words_of(prompt)
    unknown = [w for w in words if w not in WORDS]
    classes, colors = [w for w in words if w in CLASSES], [w for w in words if w in COLORS]
    if unknown:
        problem = f"the embedded prior does not know {', '.join(repr(w[:40]) for w in unknown[:3])}"
    elif len(classes) != 1 or len(colors) > 1:
        problem = "the embedded prior wants one object and at most one colour"
    else:
        return classes[0], (colors or [""])[0]
    raise PromptError(
        f"{problem}. Objects: {', '.join(CLASSES)}. Colours: {', '.join(COLORS)}. For any other "
        "prompt give another diffusion model: --guidance sd21 (fetched from the hub once), or --guidance "
        "FOLDER (in diffusers format)"
    )
