"""Lists of prompts: a line each, and the JSON forms of public benchmarks."""

import json

import pytest

from dreamfusion_ngp.base.errors import UsageError
from dreamfusion_ngp.evaluation.prompt_lists import listed_prompts
from dreamfusion_ngp.evaluation.retrieval import read_captions

TWO = ["a corgi in a top hat", "a stack of books"]


@pytest.mark.parametrize(
    "value",
    [
        TWO,
        [{"prompt": text, "id": i} for i, text in enumerate(TWO)],
        [{"caption": text} for text in TWO],
        {"prompts": TWO},
        {"annotations": [{"caption": text, "image_id": 1} for text in TWO]},
        {"0": TWO[0], "1": {"text": TWO[1]}},
        {"data": {"a": TWO[0], "b": TWO[1]}},
        {"dreamfusion": TWO},
        {"single": TWO[:1], "multi": [{"prompt": TWO[1]}]},
    ],
)
def test_json_in_the_forms_of_benchmarks(value, tmp_path):
    path = tmp_path / "prompts.json"
    path.write_text("\ufeff" + json.dumps(value), encoding="utf-8")
    assert listed_prompts(path) == [("entry 1", TWO[0]), ("entry 2", TWO[1])]
    assert read_captions(path) == TWO


def test_json_a_line_and_text_a_line(tmp_path):
    lines, plain = tmp_path / "prompts.jsonl", tmp_path / "prompts.txt"
    lines.write_text(json.dumps({"prompt": TWO[0]}) + "\n\n" + json.dumps(TWO[1]) + "\n", encoding="utf-8")
    plain.write_text(f"{TWO[0]}\n\n{TWO[1]}\n", encoding="utf-8")
    assert listed_prompts(lines) == [("line 1", TWO[0]), ("line 3", TWO[1])]
    assert read_captions(plain) == read_captions(lines) == TWO


@pytest.mark.parametrize(
    "text, said",
    [
        ("[1, 2", "is no JSON"),
        ("3", "holds no list of prompts but a int"),
        ('["a mug", 3]', "entry 2: is no text, nor an object with one of prompt, caption, text, description"),
        ('["a mug", {"name": "x"}]', "entry 2: is no text"),
        ('["a mug", "a\\u001bchair"]', r"entry 2, contains U\+001B"),
    ],
)
def test_what_cannot_be_read_is_named(text, said, tmp_path):
    path = tmp_path / "prompts.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=said) as caught:
        read_captions(path)
    assert "\n" not in str(caught.value) and "prompts.json" in str(caught.value)
