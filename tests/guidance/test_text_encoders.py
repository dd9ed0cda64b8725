"""Text embeddings: computed once, cached, and no word lost in silence."""

import gc
import logging
import weakref

import pytest
import torch
from support.tiny_models import config, views

from dreamfusion_ngp.base.errors import PromptError
from dreamfusion_ngp.guidance import text_encoders as text
from dreamfusion_ngp.guidance.load import load_guidance


def test_the_encoder_runs_once_and_is_freed(folders, cache, monkeypatch):
    alive = []
    real = text.load_model
    monkeypatch.setattr(text, "load_model", lambda *a: alive.append(weakref.ref(m := real(*a))) or m)
    first = load_guidance(config(folders["packed"]), "cpu").denoiser.texts
    gc.collect()
    assert len(alive) == 1 and alive[0]() is None
    assert len(list(cache.iterdir())) == len(first.rows) == 6
    again = load_guidance(config(folders["packed"]), "cpu").denoiser.texts
    assert len(alive) == 1 and all(torch.equal(v, again.embeddings[k]) for k, v in first.embeddings.items())
    load_guidance(config(folders["packed"], prompt="a blue mug"), "cpu")
    assert len(alive) == 2 and len(list(cache.iterdir())) == 11, "the unconditional text is shared between prompts"


def test_a_damaged_cache_entry_is_written_anew(folders, cache):
    first = load_guidance(config(folders["packed"]), "cpu").denoiser.texts
    for path in cache.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert torch.equal(
        load_guidance(config(folders["packed"]), "cpu").denoiser.texts.embeddings["hidden"], first.embeddings["hidden"]
    )
    assert all(path.stat().st_size > 100 for path in cache.iterdir())


def test_a_cache_that_cannot_be_written_costs_a_warning(folders, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DREAMFUSION_NGP_CACHE", str(tmp_path / "file" / "cache"))
    load_guidance(config(folders["packed"]), "cpu").denoiser.texts
    assert sum("cache of text embeddings cannot be written" in line for line in caplog.messages) == 1


def test_another_encoder_has_another_cache(copy):
    before = text.fingerprint(copy, ["text_encoder", "tokenizer"])
    path = copy / "text_encoder" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert text.fingerprint(copy, ["text_encoder", "tokenizer"]) != before


@pytest.mark.parametrize(
    "platform, names, expected",
    [
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/dreamfusion_ngp"),
        ("win32", {"LOCALAPPDATA": "/y"}, "/y/dreamfusion_ngp"),
    ],
)
def test_the_cache_is_in_the_platforms_folder(platform, names, expected, monkeypatch):
    monkeypatch.delenv("DREAMFUSION_NGP_CACHE")
    monkeypatch.setattr("sys.platform", platform)
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    assert text.cache_folder().as_posix() == expected


def test_a_long_prompt_loses_its_end_not_the_view_and_says_which_words(folders, caplog):
    caplog.set_level(logging.WARNING)
    guidance = load_guidance(config(folders["packed"], prompt="a red mug a blue mug a clay mug high low"), "cpu")
    assert guidance.denoiser.texts.prompt == "a red mug a blue mug a clay mug"
    assert [r.message for r in caplog.records] == [
        "the model reads 12 tokens of text; these words at the end of the prompt are ignored: high low"
    ]
    assert guidance.denoiser.texts.branches(views()).texts[1, 2, 0] == "a red mug a blue mug a clay mug, back view"
    caplog.clear()
    load_guidance(config(folders["packed"], prompt="a red mug a blue mug a clay mug"), "cpu")
    assert not caplog.records


def test_a_first_word_that_does_not_fit_is_an_error(folders):
    class Reader:
        model_max_length = 6

        def __call__(self, texts, **_):
            return type("Tokens", (), {"input_ids": [list(t) for t in texts]})

    with pytest.raises(PromptError, match="6 tokens"):
        text.fit_prompt([Reader()], "extraordinary mug", ["front view"], [""])
