"""Texts that people give: what is refused, what cannot be seen, what looks alike, wherever a text comes in."""

import json
import subprocess
import sys
import unicodedata
from dataclasses import replace

import pytest
import torch
from support.tiny_models import config
from support.tiny_runs import TINY

from dreamfusion_ngp.base.characters import clean_text, graphemes, lookalike, shown
from dreamfusion_ngp.base.errors import CheckpointError, PriorError, PromptError
from dreamfusion_ngp.cli import main
from dreamfusion_ngp.config.checks import check_config, clean_texts
from dreamfusion_ngp.guidance import text_encoders as text
from dreamfusion_ngp.guidance.load import load_guidance
from dreamfusion_ngp.guidance.settings import read_settings
from dreamfusion_ngp.optimise.volume import VolumeStage
from dreamfusion_ngp.runs.checkpoint import load_checkpoint, save_checkpoint
from dreamfusion_ngp.runs.folder import slug

SEEN_AS_A_RED_MUG = [
    "\ufeffa red mug",
    "a red mug\ufeff",
    "a\u00a0red\u202fmug",
    "a red mu\u200bg",
    "a red m\u00adug",
    "a \u2060red mug",
    "a red mug\ufe0f",
    "a red mug\ufe00",
    "a red\U000e0101 mug",
    "a red mug\u200e",
    "\u2067a red mug\u2069",
    "a r\u200ded mug",
    "a red\u200c mug",
    "a red\u034f mug",
    "a\u3164red mug",
    "a red mug\u180e",
    "a red\u2063 mug\U000e0067",
    "a red\u2028mug",
]
# Joiners and selectors that shape what is seen: families, flags, keycaps, Persian, half and full Indic letters.
SHAPED = [
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\U0001f469\u200d\u2764\ufe0f\u200d\U0001f468",
    "1\ufe0f\u20e3",
    "\U0001f3f3\ufe0f\u200d\U0001f308",
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "\u0915\u094d\u200d\u0937",
    "\u0915\u094d\u200c\u0937",
    "\u09b0\u200d\u09cd\u09af",
    "\u0d15\u0d3e\u0d23\u0d4d\u200d",
    "\u1820\u180b",
    "\u2764\ufe0f",
]


@pytest.mark.parametrize("given", SEEN_AS_A_RED_MUG)
def test_what_cannot_be_seen_makes_no_other_text(given):
    assert clean_text(given, "the prompt") == lookalike(given) == "a red mug" and slug(given) == slug("a red mug")


@pytest.mark.parametrize("given", SHAPED)
def test_what_shapes_letters_and_emoji_stays(given):
    assert clean_text(f"a {given} mug", "the prompt") == f"a {given} mug"


@pytest.mark.parametrize(
    "one, other",
    [
        ("\u2764", "\u2764\ufe0f"),
        ("a\u2011b", "a-b"),
        ("\u1820", "\u1820\u180b"),
        ("\u202a\u05d0 mug\u202c", "\u05d0 mug"),
        ("e\u0301", "\u00e9"),
    ],
)
def test_hints_of_an_appearance_make_no_twin(one, other):
    assert lookalike(one) == lookalike(other) and slug(one) == slug(other)


@pytest.mark.parametrize(
    "given", [*SEEN_AS_A_RED_MUG, *SHAPED, "a\ufe0f\u200d\ufe0f", "\u200c\u200c\u200d", "e\u200b\u0301"]
)
def test_clean_texts_stay_clean(given):
    once = clean_text(given, "the prompt")
    assert clean_text(once, "the prompt") == once and lookalike(lookalike(given)) == lookalike(given)


@pytest.mark.parametrize(
    "given",
    ["\U0001fae8", "\U0001fadf\U0001fac6", "\U00031350", "\U000323b0", "\ue000", "\u0378", "\U000eff00", "\U0001cc00"],
)
def test_letters_that_an_old_python_does_not_know_are_accepted(given, monkeypatch):
    monkeypatch.setattr(unicodedata, "category", lambda c: "Cn")  # a table that knows nothing
    assert given in clean_text(f"a {given} mug", "the prompt")


@pytest.mark.parametrize(
    "given, word",
    [
        ("caf\udce9", "0xE9"),
        ("\udc80", "0x80"),
        ("\ud83d", "U+D83D"),
        ("a\0", "U+0000"),
        ("\x1b[2J", "U+001B"),
        ("\x85", "U+0085"),
        ("\x0b", "U+000B"),
        ("\ufdd0", "U+FDD0"),
        ("\uffff", "U+FFFF"),
        ("\U0001fffe", "U+1FFFE"),
        ("\U0010ffff", "U+10FFFF"),
    ],
)
def test_what_is_no_text_is_refused_by_name(given, word):
    for bad in (replace(TINY, prompt=given), replace(TINY, guidance=replace(TINY.guidance, negative=given))):
        name = "the prompt" if bad.prompt == given else "the negative prompt"
        for gate in (check_config, clean_texts):
            with pytest.raises(PromptError, match=f"^{name} contains") as caught:
                gate(bad)
            assert word in str(caught.value)
            str(caught.value).encode()


@pytest.mark.parametrize("given", [{"negative": "caf\udce9"}, {"prompt": "a red\ud83d mug"}, {"negative": "mug\uffff"}])
def test_a_guidance_refuses_what_is_no_text(given, folders):
    with pytest.raises(PromptError, match="negative prompt contains" if "negative" in given else "the prompt contains"):
        load_guidance(config(folders["packed"], **given), "cpu")


@pytest.mark.parametrize("where", ["prompt", "negative"])
def test_a_checkpoint_with_a_text_that_is_none(where, tmp_path):
    state = VolumeStage(TINY, "cpu")
    state.config = (
        replace(TINY, prompt="mug\udce9")
        if where == "prompt"
        else replace(TINY, guidance=replace(TINY.guidance, negative="mug\udce9"))
    )
    save_checkpoint(tmp_path / "checkpoint.safetensors", state)
    with pytest.raises(CheckpointError, match=f"{where}.* contains the byte 0xE9"):
        load_checkpoint(tmp_path / "checkpoint.safetensors", "cpu")


def test_a_checkpoints_texts_come_back_clean(tmp_path):
    state = VolumeStage(TINY, "cpu")
    state.config = replace(TINY, prompt="\ufeffa red\u00a0mug", guidance=replace(TINY.guidance, negative="\u200b"))
    save_checkpoint(tmp_path / "checkpoint.safetensors", state)
    found = load_checkpoint(tmp_path / "checkpoint.safetensors", "cpu").config
    assert (found.prompt, found.guidance.negative) == ("a red mug", "")


@pytest.mark.parametrize(
    "options",
    [
        ["--negative", "caf\udce9"],
        ["--set", "guidance.negative=caf\udce9"],
        ["--set", 'guidance.negative="\\ud83d"'],
        ["--negative", "\x1b[2J"],
    ],
)
@pytest.mark.parametrize("model", ["toybox", "packed"])
def test_a_negative_that_is_no_text_is_one_line(options, model, folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "a red mug", "--guidance", str(folders.get(model, model)), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the negative prompt contains") and error.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


def test_bytes_on_the_command_line(tmp_path):
    command = [sys.executable, "-P", "-m", "dreamfusion_ngp", "generate", "a red mug", "--negative", b"caf\xe9"]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert b"negative prompt contains the byte 0xE9" in done.stderr


def test_twins_share_their_embeddings(folders, cache):
    first = load_guidance(config(folders["packed"], negative="clay"), "cpu")
    kept = sorted(cache.iterdir())
    again = load_guidance(config(folders["packed"], "\ufeffa red\u200b mug", negative="clay\u00ad"), "cpu")
    assert sorted(cache.iterdir()) == kept and again.denoiser.texts.prompt == "a red mug"
    assert torch.equal(first.denoiser.texts.embeddings["hidden"], again.denoiser.texts.embeddings["hidden"])
    text.embed(
        text.LowerCase(folders["packed"], json.loads((folders["packed"] / "model_index.json").read_text())),
        ["a red mug, front view", "a red\u200b mug, front\u00a0view"],
    )
    assert sorted(cache.iterdir()) == kept


def test_a_negative_that_cannot_be_seen_is_none(folders):
    guidance = load_guidance(config(folders["packed"], negative="\u200b\ufeff"), "cpu")
    assert guidance.denoiser.texts.config.negative == "" and "" in guidance.denoiser.texts.negative_rows


def test_json_files_with_a_byte_order_mark(copy):
    (copy / "dreamfusion_ngp.json").write_text('\ufeff{"guidance_scale": 7}', encoding="utf-8")
    index = copy / "model_index.json"
    index.write_text("\ufeff" + index.read_text(), encoding="utf-8")
    assert load_guidance(config(copy), "cpu").config.scale == 7.0
    (copy / "dreamfusion_ngp.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(PriorError, match="dreamfusion_ngp.json cannot be read"):
        read_settings(copy)


def test_errors_show_letters_and_no_codes():
    assert shown("\U0001fae8 \u200d caf\udce9\n\x1b[2J\u202e\ud83d") == "\U0001fae8 \u200d caf\\xe9  [2J  "


@pytest.mark.parametrize(
    "text, count",
    [
        ("e\u0301x", 2),
        (SHAPED[0], 1),
        ("\U0001f1eb\U0001f1f7\U0001f1e9\U0001f1ea", 2),
        ("\U0001f44d\U0001f3fd", 1),
        ("\u0e01\u0e33", 1),
        (SHAPED[4], 1),
        ("1\ufe0f\u20e3", 1),
    ],
)
def test_characters_as_a_reader_counts_them(text, count):
    assert len(graphemes(text)) == count and "".join(graphemes(text)) == text
