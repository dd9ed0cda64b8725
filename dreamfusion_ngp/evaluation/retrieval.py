"""R-Precision (Park et al. 2021) after DreamFusion section 4: how often a retrieval model, shown a rendering, picks its
caption among distractors.

Colour: lit renderings. Geo: textureless ones, which differ only in shape. Albedo: unlit ones, which mislead, as the
paper's ablation (figure 6) shows. Eight azimuths at 30 degrees of elevation; averaging over seeds and prompts is left
to the caller.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from ..base.characters import clean_text, lookalike
from ..base.errors import PromptError, UsageError
from ..config.prompts import view_prompt
from ..toybox.world.captions import parse_prompt, subject, words_of
from ..toybox.world.shapes import CLASSES, COLORS
from .pictures import Pictures
from .prompt_lists import listed_prompts

MAX_CAPTIONS = 100_000
AZIMUTH_STEP = 15  # degrees between the azimuths that have a word

log = logging.getLogger(__name__)


class Retrieval(Protocol):
    """An image-text dual encoder. name: for reports. Rows have length 1; the caption of a picture is the one with the
    largest inner product."""

    name: str

    def images(self, pictures: torch.Tensor) -> torch.Tensor:
        """(N, H, W, 3) float32 in [0, 1] -> (N, D) float32."""
        ...

    def texts(self, captions: list[str]) -> torch.Tensor:
        """M captions -> (M, D) float32."""
        ...


@dataclass(frozen=True)
class Pool:
    """Captions among which that of a run must be found, by lit (color) and by textureless renderings (geo). *_index:
    that of the run's caption."""

    color: list[str]
    color_index: int
    geo: list[str]
    geo_index: int


def toy_captions() -> tuple[list[str], list[str]]:
    """(all colours of all toys, all toys without a colour): 220 and 20 captions."""
    return [subject(name, color) for name in CLASSES for color in COLORS], [subject(name) for name in CLASSES]


def toy_pool(prompt: str) -> Pool:
    """The pool for a prompt of the embedded prior. Textureless renderings have no colour, so only their class counts;
    so it is for lit ones where the prompt names no colour."""
    name, color = parse_prompt(prompt)
    colored, plain = toy_captions()
    index = plain.index(subject(name))
    if not color:
        return Pool(plain, index, plain, index)
    return Pool(colored, colored.index(subject(name, color)), plain, index)


def caption_pool(prompt: str, captions: Sequence[str]) -> Pool:
    """The paper's pool: the same captions for both kinds of renderings, including the prompt. A caption that looks like
    the prompt, or has the same words in other spellings ("grey"), counts as the prompt, not as a distractor."""
    for same in (lookalike, words_of):
        keys = [same(caption) for caption in captions]
        if (key := same(prompt)) in keys:
            return Pool([*captions], keys.index(key), [*captions], keys.index(key))
    return Pool([*captions, prompt], len(captions), [*captions, prompt], len(captions))


def pool_of(prompt: str, captions: Sequence[str]) -> Pool:
    """`caption_pool` where captions are given, else `toy_pool`. Raises PromptError for a prompt that has neither."""
    if captions:
        return caption_pool(prompt, captions)
    try:
        return toy_pool(prompt)
    except PromptError:
        raise PromptError(
            f"{prompt[:60]!r} is no toy: give the captions among which it is to be found (--captions FILE, one a line)"
        ) from None


def read_captions(path: Path) -> list[str]:
    """The captions of a file (`prompt_lists`), in normal form. Of those that look alike only the first stays, with a
    warning. Raises UsageError that names the line or the entry that cannot be used."""
    first, twins = {}, []
    for where, text in listed_prompts(Path(path)):
        caption = clean_text(text, f"--captions {path}, {where},")
        key = lookalike(caption)
        if key in first:
            twins.append(f"{where} (like {first[key][0]})")
        elif key:
            first[key] = where, caption
    if twins:
        more = f" and {len(twins) - 4} more" if len(twins) > 4 else ""
        log.warning(
            "--captions %s: captions that look like one before are left out: %s%s", path, ", ".join(twins[:4]), more
        )
    unique = [caption for _, caption in first.values()]
    if not 2 <= len(unique) <= MAX_CAPTIONS:
        raise UsageError(f"--captions {path} holds {len(unique)} different captions; wanted are 2 to {MAX_CAPTIONS}")
    return unique


def retrieved(retrieval: Retrieval, pictures: torch.Tensor, captions: list[str]) -> torch.Tensor:
    """(N,) index of the caption that each of the pictures (N, H, W, 3) retrieves."""
    return (retrieval.images(pictures) @ retrieval.texts(captions).T).argmax(1)


def azimuth_captions(name: str) -> list[str]:
    """Captions of a class from each azimuth that has a word, in order: for retrieval models that know these words."""
    return [view_prompt(subject(name), f"az{azimuth}") for azimuth in range(0, 360, AZIMUTH_STEP)]


def retrieved_azimuths(retrieval: Retrieval, pictures: torch.Tensor, name: str) -> torch.Tensor:
    """(N,) azimuth in degrees that each of the pictures (N, H, W, 3) of a class retrieves."""
    return AZIMUTH_STEP * retrieved(retrieval, pictures, azimuth_captions(name))


def r_precision(retrieval: Retrieval, pictures: Pictures, pool: Pool) -> dict:
    """Shares in [0, 1] of a run's views that retrieve its caption, and the caption that most views retrieve instead or
    as well."""
    result = {}
    for kind, images, captions, index in (
        ("color", pictures.lit, pool.color, pool.color_index),
        ("geo", pictures.clay, pool.geo, pool.geo_index),
        ("albedo", pictures.albedo, pool.color, pool.color_index),
    ):
        picks = retrieved(retrieval, images, captions)
        result[f"r_precision_{kind}"] = float((picks == index).float().mean())
        result[f"retrieved_{kind}"] = captions[int(picks.mode().values)]
    return result
