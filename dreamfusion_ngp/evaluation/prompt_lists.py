"""Lists of prompts: one caption per line, and the JSON files of public benchmarks. The user supplies the files: such
lists have their own licences, and most state none."""

from __future__ import annotations

import json
from pathlib import Path

from ..base.errors import UsageError

TEXT_KEYS = ("prompt", "caption", "text", "description")  # of an object that stands for a prompt
LIST_KEYS = ("prompts", "captions", "data", "annotations")  # of an object that holds a list of them


def listed_prompts(path: Path) -> list[tuple[str, str]]:
    """(where, text) of every entry of a file, in order; "line 3" or "entry 3".

    .json: a list of texts or of objects with one of TEXT_KEYS, an object with such a list under one of LIST_KEYS, one
    whose values are such lists (threestudio's prompt_library.json), or one whose values are texts or such objects.
    .jsonl: a text or such an object a line. Any other name: a text a line. Raises UsageError that names the file, and
    the entry that cannot be used.
    """
    path, name = Path(path), f"--captions {path}"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{name}: {getattr(error, 'strerror', None) or 'is no text in UTF-8'}") from None
    if path.suffix.lower() == ".json":
        values = entries(parsed(text, name), name)
        return [(f"entry {i}", text_of(entry, f"{name}, entry {i}")) for i, entry in enumerate(values, 1)]
    lines = list(enumerate(text.split("\n"), 1))
    if path.suffix.lower() != ".jsonl":
        return [(f"line {i}", line) for i, line in lines]
    filled = [(i, line) for i, line in lines if line.strip()]
    places = [(f"line {i}", f"{name}, line {i}", line) for i, line in filled]
    return [(where, text_of(parsed(line, place), place)) for where, place, line in places]


def parsed(text: str, place: str):
    """The JSON value in a text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{place}: is no JSON: {str(error).splitlines()[0]}") from None


def entries(value, place: str) -> list:
    """The entries of a list in one of the forms of `listed_prompts`."""
    if isinstance(value, dict):
        inner = next((value[key] for key in LIST_KEYS if isinstance(value.get(key), (list, dict))), None)
        if inner is not None:
            return entries(inner, place)
        lists = bool(value) and all(isinstance(part, list) for part in value.values())
        return [entry for part in value.values() for entry in part] if lists else list(value.values())
    if isinstance(value, list):
        return value
    raise UsageError(f"{place}: holds no list of prompts but a {type(value).__name__}")


def text_of(entry, place: str) -> str:
    if isinstance(entry, dict):
        entry = next((entry[key] for key in TEXT_KEYS if isinstance(entry.get(key), str)), None)
    if not isinstance(entry, str):
        raise UsageError(f"{place}: is no text, nor an object with one of {', '.join(TEXT_KEYS)}")
    return entry
