"""Texts that are longer than a model reads: cut at words, else between characters, and said by name."""

import logging

import pytest
from support.tiny_models import config

from dreamfusion_ngp.base.characters import graphemes
from dreamfusion_ngp.base.errors import PromptError
from dreamfusion_ngp.guidance.load import load_guidance
from dreamfusion_ngp.guidance.text_encoders import fit_prompt

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
CHINESE = "\u4e00\u4e2a\u7ea2\u8272\u7684\u9676\u74f7\u676f\u5b50\uff0c\u653e\u5728\u6728\u684c\u4e0a"
JAPANESE = "\u8d64\u3044\u30de\u30b0\u30ab\u30c3\u30d7\u304c\u6728\u306e\u53f0\u306e\u4e0a\u306b\u3042\u308b"
THAI = "\u0e41\u0e01\u0e49\u0e27\u0e19\u0e49\u0e33\u0e2a\u0e35\u0e41\u0e14\u0e07\u0e1a\u0e19\u0e42\u0e15\u0e4a\u0e30"


class Bytes:
    """A tokenizer with a token for every byte, as CLIP's is for letters that it has not merged."""

    def __init__(self, length: int):
        self.model_max_length = length

    def __call__(self, texts, **_):
        return type("Tokens", (), {"input_ids": [list(t.encode()) for t in texts]})


def fitted(prompt: str, length: int, **name) -> str:
    return fit_prompt([Bytes(length)], prompt, ["back view"], [""], **name)


@pytest.mark.parametrize(
    "prompt",
    [
        CHINESE,
        JAPANESE,
        THAI,
        FAMILY * 4,
        "\U0001f1eb\U0001f1f7" * 6,
        "x\u0301\u0323" * 9,
        "\U0001f44d\U0001f3fd" * 5,
        "\u0915\u094d\u0937\u093f" * 5,
        "1\ufe0f\u20e3" * 7,
    ],
)
def test_without_spaces_the_text_is_cut_between_characters(prompt, caplog):
    for length in range(37, len(prompt.encode()) + 11, 5):
        caplog.clear()
        kept = fitted(prompt, length)
        rest = prompt.removeprefix(kept)
        assert kept and rest and graphemes(prompt)[: len(graphemes(kept))] == graphemes(kept)
        assert len(f"{kept}{graphemes(rest)[0]}, back view".encode()) > length >= len(f"{kept}, back view".encode())
        assert caplog.messages == [
            f"the model reads {length} tokens of text; this end of the prompt is ignored: {rest}"
        ]


def test_words_are_cut_where_there_are_words(caplog):
    assert fitted("a red mug on a table", 23) == "a red mug on"
    assert caplog.messages == [
        "the model reads 23 tokens of text; these words at the end of the prompt are ignored: a table"
    ]


def test_the_last_of_the_text_without_spaces_is_cut_within(caplog):
    assert fitted(f"a mug {CHINESE} mug", 30) == f"a mug {CHINESE[:4]}"
    assert fitted(f"{CHINESE[:2]}mug", 18) == CHINESE[:2], "a word of letters that have spaces stays whole"
    assert fitted("x" * 99, 20) == "x" * 9, "but for a first one"


def test_what_is_cut_has_a_name(caplog):
    fitted(CHINESE, 30, name="negative prompt")
    assert "end of the negative prompt is ignored" in caplog.text
    with pytest.raises(PromptError, match="one character of the negative prompt"):
        fitted(CHINESE, 13, name="negative prompt")
    assert fitted(CHINESE, 14) == CHINESE[:1]


@pytest.mark.parametrize("kind", ["sd", "sdxl", "sd3", "packed", "if"])
def test_a_models_negative_is_cut_by_name(kind, latent_folders, folders, caplog):
    caplog.set_level(logging.WARNING)
    folder = {**latent_folders, **folders}[kind]
    guidance = load_guidance(config(folder, negative=" ".join(["clay"] * 99)), "cpu")
    negative = guidance.denoiser.texts.config.negative
    assert negative == " ".join(["clay"] * negative.count("clay"))
    assert caplog.messages and all("end of the negative prompt are ignored: clay" in m for m in caplog.messages)


@pytest.mark.parametrize(
    "said",
    [
        "(red mug:1.2)",
        "((red)) mug",
        "[red] mug",
        "[red:blue:0.5] mug",
        "<lora:toy:0.8> mug",
        "<hypernet:toy:1> mug",
        "red BREAK mug",
        "red AND mug",
        "{red|blue} mug",
        "(mug)1.3",
        "embedding:toy mug",
        "mug --ar 3:2",
        "mug::2",
        "red\\(mug\\)",
    ],
)
def test_the_syntax_of_other_programs_is_noted(said, folders, caplog):
    load_guidance(config(folders["packed"], said), "cpu")
    load_guidance(config(folders["packed"], negative=said), "cpu")
    notes = [m for m in caplog.messages if "contains" in m]
    assert [m.split(" contains")[0] for m in notes] == ["the prompt", "the negative prompt"]
    assert all("as it stands" in m for m in notes)


@pytest.mark.parametrize(
    "said",
    [
        "a mug (red)",
        "a red mug, front view",
        "A RED MUG AND A BLUE MUG",
        "a 1:2 model",
        "mug-red",
        "3:30 on a clock",
        "salt & pepper",
        "a break",
        "<cat> mug",
    ],
)
def test_plain_text_is_not(said, folders, caplog):
    load_guidance(config(folders["packed"], said), "cpu")
    assert "contains" not in caplog.text
