"""Parts of a text that a model ignores: the end of a text that is too long, and other programs' syntax. Both are
logged."""

from __future__ import annotations

import bisect
import logging
import re
from collections.abc import Sequence

from ..base.characters import PICTURES, graphemes
from ..base.errors import PromptError
from ..config.prompts import foreign_syntax, view_prompt

log = logging.getLogger(__name__)

# Scripts that put no spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, Tai, Javanese, Chinese, Japanese, Yi. A
# text in them, or of emoji, may end after any of their letters.
UNSPACED = re.compile(
    r"[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u1b00-\u1b7f\u2e80-\u312f"
    r"\u31a0-\ua4cf\ua980-\ua9df\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef\U00016fe0-\U0001b2ff"
    rf"\U00020000-\U0003ffff{PICTURES}]"
)


def fit_prompt(
    tokenizers: Sequence,
    prompt: str,
    views: Sequence[str],
    modes: Sequence[str],
    name: str = "prompt",
    reads: str = "the model reads",
) -> str:
    """`prompt`, cut at its end so that it fits a tokenizer together with the view and mode words.

    It is cut between words; a text without spaces, or a first word that is too long, between characters as a reader
    sees them. Plain truncation would cut the view words first, and the model could not tell front from back. A warning
    says what is cut. name: of the text, for messages. Raises PromptError where not even the first character fits.
    """
    limit = min(t.model_max_length for t in tokenizers)

    def fits(end: int) -> bool:
        texts = [view_prompt(prompt[:end].rstrip(), view, mode) for view in views for mode in modes]
        return max(len(ids) for t in tokenizers for ids in t(texts, verbose=False).input_ids) <= limit

    if fits(len(prompt)):
        return prompt
    for ends in (places(prompt, False), places(prompt, True)):
        if keep := bisect.bisect_left(ends, True, key=lambda end: not fits(end)):
            start, rest = prompt[: ends[keep - 1]], prompt[ends[keep - 1] :]
            what = f"these words at the end of the {name} are" if rest[:1].isspace() else f"this end of the {name} is"
            log.warning("%s %d tokens of text; %s ignored: %s", reads, limit, what, rest.strip())
            return start
    raise PromptError(
        f"{reads} {limit} tokens of text, too few for the words of the view and one character of the {name}"
    )


def places(text: str, within_words: bool) -> list[int]:
    """Positions where a text may be cut: before spaces, at its end, and next to characters of scripts without spaces;
    within words after each character as a reader counts them."""
    cuts, at, characters = [], 0, graphemes(text)
    for character, following in zip(characters, [*characters[1:], " "], strict=True):
        at += len(character)
        between = within_words or following[0].isspace() or UNSPACED.match(character) or UNSPACED.match(following)
        if between and not character.isspace():
            cuts.append(at)
    return cuts


def note_syntax(text: str, name: str) -> None:
    """Log a warning for prompt syntax of other programs."""
    if matches := foreign_syntax(text):
        log.warning(
            "the %s contains %s: the syntax of other programs (weights, LoRAs, BREAK) means nothing here; the "
            "model is given the text as it stands",
            name,
            ", ".join(matches[:4]),
        )
