r"""Cleaning of user texts: which characters are refused, which are invisible, which texts look alike.

Everything goes by fixed ranges of code points: the tables of Python's unicodedata grow with every version, but a prompt
must be accepted, and give the same run, under each of them. Ranges are written as in regular expressions.
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
# No visible effect: byte-order mark, zero-width space, soft hyphen, word joiner, direction marks, variation selectors.
# Kept: the selectors of Mongolian, the fillers of Hangul syllables, the flags of regions.
INVISIBLE = re.compile(
    r"(?P<kept>\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f)"
    r"|[\xad\u034f\u061c\u17b4\u17b5\u200b\u200e\u200f\u2060-\u2065\u206a-\u206f\ufe00-\ufe0d\ufeff\ufff0-\ufffb]"
    r"|[\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
    r"|(?<![\u1820-\u18aa])[\u180b-\u180f]|\u115f(?![\u1160-\u11a7])|(?<![\u1100-\u115f])\u1160"
)
# Directional embeddings and isolates change nothing visible unless an override, which reverses letters, is among them.
OVERRIDES, DIRECTIONS = re.compile(r"[\u202d\u202e]"), re.compile(r"[\u202a-\u202e\u2066-\u2069]")
SELECTORS = re.compile(rf"(?<![{PICTURES}0-9#*])[\ufe0e\ufe0f]|(?<=[0-9#*])[\ufe0e\ufe0f](?!\u20e3)")
JOINERS = re.compile(
    rf"(?P<kept>(?<=[{PICTURES}\ufe0f\U000e007f])\u200d(?=[{PICTURES}])|(?<=[{JOINED}])\u200d"
    rf"|(?<=[{JOINED}])\u200c(?=[{JOINED}]))|[\u200c\u200d]"
)
# Hints about appearance that a reader may not notice: a model gets the text with them, comparisons go without.
HINTS = re.compile(rf"{DIRECTIONS.pattern}|[\ufe0e\ufe0f\u180b-\u180f\u115f\u1160]")
UNSAFE = re.compile(rf"[{CONTROLS}\u2028\u2029\ud800-\udfff{NONCHARACTERS}]|{DIRECTIONS.pattern}")


def clean_text(text: str, name: str, limit: int = MAX_TEXT) -> str:
    """The text as it is recorded and passed to a model: in normal form (NFC), with single spaces and no invisible
    characters; may be "". Joiners stay where they shape emoji or letters.

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
    """Any text without its invisible characters, as `clean_text` returns it; nothing is refused."""
    if text.isascii():
        return " ".join(text.split())
    text = INVISIBLE.sub(r"\g<kept>", HYPHENS.sub("-", BLANKS.sub(" ", text)))
    if not OVERRIDES.search(text):
        text = DIRECTIONS.sub("", text)
    text = re.sub("([\u200c\u200d])\\1+", r"\1", SELECTORS.sub("", text))
    return " ".join(unicodedata.normalize("NFC", JOINERS.sub(r"\g<kept>", text)).split())


def lookalike(text: str) -> str:
    """A form that all texts share which look alike to a reader: for comparisons and names, not for a model."""
    return visible(HINTS.sub("", visible(text)))


def shown(text: str) -> str:
    """The text on one line, safe to print: codes that a terminal obeys become spaces, and a byte of a file name that is
    not UTF-8 becomes "\\xe9"."""

    def instead(match: re.Match) -> str:
        code = ord(match[0])
        return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else " "

    return UNSAFE.sub(instead, text)


def graphemes(text: str) -> list[str]:
    """The text split into what a reader takes for single characters: a letter with its marks, a flag, a joined
    emoji."""
    import regex

    return regex.findall(r"\X", text)


def _described(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"the byte 0x{code - 0xDC00:02X}, which is not UTF-8"
    kind = "surrogate" if 0xD800 <= code <= 0xDFFF else "control" if code < 0xA0 else "noncharacter"
    return f"U+{code:04X} ({kind})"
