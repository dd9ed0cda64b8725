r"""Characters of the texts that people give: which are refused, which cannot be seen, what looks alike.

All of it goes by fixed ranges of code points. The tables of Python's unicodedata grow with every version, and a prompt
must be accepted, and lead to the same run, under each of them. Ranges are written as in regular expressions.
"""

from __future__ import annotations

import re
import unicodedata

from .errors import PromptError

MAX_TEXT = 2000  # characters; a longer text is a mistake (a file pasted in), not a prompt

CONTROLS = r"\x00-\x1f\x7f-\x9f"
NONCHARACTERS = r"\ufdd0-\ufdef" + "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
REFUSED = re.compile(rf"[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]|[{NONCHARACTERS}]")

# Letters that a joiner can shape: Arabic and its kin, Indic and South-East Asian scripts, Mongolian.
JOINED = (
    r"\u0600-\u08ff\u0900-\u0dff\u0f00-\u109f\u1780-\u18af\u1a00-\u1cff\ua800-\uabff\ufb50-\ufdff\ufe70-\ufefc"
    r"\U00010a00-\U00011fff\U0001e900-\U0001e95f"
)
# What may have the form of an emoji: with a variation selector, or joined to another.
PICTURES = r"\xa9\xae\u203c\u2049\u2100-\u214f\u2190-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001fbff"

HYPHENS = re.compile(r"[\u2010\u2011]")  # the non-breaking hyphen and its breaking twin
BLANKS = re.compile(r"[\u2800\u3164\uffa0]")  # fillers as wide as a letter
# Without effect on what is seen: byte-order mark, zero-width space, soft hyphen, word joiner, marks of direction,
# selectors of variants. Kept are the selectors of Mongolian, the fillers of Hangul syllables and the flags of regions.
INVISIBLE = re.compile(
    r"(?P<kept>\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f)"
    r"|[\xad\u034f\u061c\u17b4\u17b5\u200b\u200e\u200f\u2060-\u2065\u206a-\u206f\ufe00-\ufe0d\ufeff\ufff0-\ufffb]"
    r"|[\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
    r"|(?<![\u1820-\u18aa])[\u180b-\u180f]|\u115f(?![\u1160-\u11a7])|(?<![\u1100-\u115f])\u1160"
)
# Embeddings and isolates of a direction say nothing new unless an override, which turns letters around, is among them.
OVERRIDES, DIRECTIONS = re.compile(r"[\u202d\u202e]"), re.compile(r"[\u202a-\u202e\u2066-\u2069]")
SELECTORS = re.compile(rf"(?<![{PICTURES}0-9#*])[\ufe0e\ufe0f]|(?<=[0-9#*])[\ufe0e\ufe0f](?!\u20e3)")
JOINERS = re.compile(
    rf"(?P<kept>(?<=[{PICTURES}\ufe0f\U000e007f])\u200d(?=[{PICTURES}])|(?<=[{JOINED}])\u200d"
    rf"|(?<=[{JOINED}])\u200c(?=[{JOINED}]))|[\u200c\u200d]"
)
# Hints of an appearance that a reader may not notice: the text is given to a model with them, and compared without.
HINTS = re.compile(rf"{DIRECTIONS.pattern}|[\ufe0e\ufe0f\u180b-\u180f\u115f\u1160]")
UNSAFE = re.compile(rf"[{CONTROLS}\u2028\u2029\ud800-\udfff{NONCHARACTERS}]|{DIRECTIONS.pattern}")


def clean_text(text: str, name: str, limit: int = MAX_TEXT) -> str:
    """A text as it is recorded and given to a model: in normal form (NFC), with single spaces, without what cannot be
    seen; may be "". Joiners stay where they shape emoji or letters.

    name: what the text is, for errors: "the prompt".  limit: characters at most. Raises PromptError for a text that is
    too long, and for controls, surrogates (Python's form of bytes that are not UTF-8) and noncharacters.
    """
    if not isinstance(text, str):
        raise PromptError(f"{name} must be a text, got {type(text).__name__}")
    if len(text) > limit:
        raise PromptError(f"{name} has {len(text)} characters; at most {limit} are accepted")
    if bad := sorted(set(REFUSED.findall(text))):
        raise PromptError(
            f"{name} contains {', '.join(map(_described, bad[:4]))}: leave such characters out, and "
            "write the text in UTF-8"
        )
    return visible(text)


def visible(text: str) -> str:
    """What is left of any text without what cannot be seen: see `clean_text`, which refuses what is no text."""
    if text.isascii():
        return " ".join(text.split())
    text = INVISIBLE.sub(r"\g<kept>", HYPHENS.sub("-", BLANKS.sub(" ", text)))
    if not OVERRIDES.search(text):
        text = DIRECTIONS.sub("", text)
    text = re.sub("([\u200c\u200d])\\1+", r"\1", SELECTORS.sub("", text))
    return " ".join(unicodedata.normalize("NFC", JOINERS.sub(r"\g<kept>", text)).split())


def lookalike(text: str) -> str:
    """The same for all texts that look alike to a reader: for comparisons and names, not for a model."""
    return visible(HINTS.sub("", visible(text)))


def shown(text: str) -> str:
    """The text on one line, without codes that a terminal obeys: spaces instead, and "\\xe9" for a byte of a file name
    that is not UTF-8."""

    def instead(found: re.Match) -> str:
        code = ord(found[0])
        return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else " "

    return UNSAFE.sub(instead, text)


def graphemes(text: str) -> list[str]:
    """The text in what a reader takes for single characters: a letter with its marks, a flag, a joined emoji."""
    import regex

    return regex.findall(r"\X", text)


def _described(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"the byte 0x{code - 0xDC00:02X}, which is not UTF-8"
    kind = "surrogate" if 0xD800 <= code <= 0xDFFF else "control" if code < 0xA0 else "noncharacter"
    return f"U+{code:04X} ({kind})"
