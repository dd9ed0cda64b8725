"""Textual inversions from files: the texts are those of diffusers' own loader, others are refused in one line."""

import json
import logging
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from support.tiny_models import config

from dreamfusion_ngp.base.errors import PriorError, UsageError
from dreamfusion_ngp.guidance.inversions import read_inversion
from dreamfusion_ngp.guidance.load import load_guidance
from dreamfusion_ngp.runs.generate import pin_model

PROMPT = "a <mug> mug"


def vectors(count, width, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def widths(folder, kind):
    """Of the embeddings of its text encoders."""
    names = ("text_encoder", "text_encoder_2")[: 2 if kind == "sdxl" else 1]
    return [json.loads((folder / name / "config.json").read_text())["hidden_size"] for name in names]


def file_for(path, folder, kind, count=2, word="<mug>"):
    values = [vectors(count, width, seed) for seed, width in enumerate(widths(folder, kind))]
    names = ("clip_l", "clip_g") if kind == "sdxl" else (word,)
    save_file(dict(zip(names, values, strict=True)), path)
    return path


def texts_of(folder, prompt, *embeddings):
    entries = tuple(str(entry) for entry in embeddings)
    return load_guidance(config(folder, prompt, embeddings=entries), "cpu").denoiser.texts


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_the_text_is_that_of_diffusers(kind, count, latent_folders, tmp_path):
    import diffusers
    from safetensors.torch import load_file

    folder = latent_folders[kind]
    path = file_for(tmp_path / "mine.safetensors", folder, kind, count)
    texts = texts_of(folder, PROMPT, f"{path}:<mug>")
    name = "StableDiffusionXLPipeline" if kind == "sdxl" else "StableDiffusionPipeline"
    pipe = getattr(diffusers, name).from_pretrained(folder, low_cpu_mem_usage=False)
    state = load_file(path)
    values = [state["clip_l"], state["clip_g"]] if kind == "sdxl" else list(state.values())
    for part, value in zip(("", "_2"), values, strict=False):
        told = dict(tokenizer=getattr(pipe, f"tokenizer{part}"), text_encoder=getattr(pipe, f"text_encoder{part}"))
        pipe.load_textual_inversion({"<mug>": value}, token="<mug>", **told)
    said = f"{PROMPT}, front view"
    theirs = pipe.encode_prompt(said, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)[0][0]
    torch.testing.assert_close(texts.embeddings["hidden"][texts.rows[said]], theirs.float())
    without = texts_of(folder, PROMPT)
    assert not torch.allclose(without.embeddings["hidden"][without.rows[said]], theirs.float(), atol=1e-3)


def test_the_word_is_the_files_and_a_flag_is_first(latent_folders, tmp_path):
    folder = latent_folders["sd"]
    named = file_for(tmp_path / "style.safetensors", folder, "sd")
    assert read_inversion(str(named)).token == "<mug>"
    assert read_inversion(f"{named}:clay").token == "clay"
    (width,) = widths(folder, "sd")
    save_file({"emb_params": vectors(1, width)}, tmp_path / "my-cup.safetensors")
    assert read_inversion(str(tmp_path / "my-cup.safetensors")).token == "my-cup"


def test_a_run_knows_its_file_by_its_digest(latent_folders, tmp_path):
    folder = latent_folders["sd"]
    path = file_for(tmp_path / "style.safetensors", folder, "sd")
    pinned = pin_model(config(folder, PROMPT, embeddings=(str(path),)))
    (entry,) = pinned.guidance.embeddings
    assert entry.startswith(f"{path}:<mug>:") and str(read_inversion(entry)) == entry
    before = load_guidance(pinned, "cpu").denoiser.texts
    file_for(path, folder, "sd", count=3)
    with pytest.raises(PriorError, match="is another embedding than the run was started with"):
        load_guidance(pinned, "cpu")
    changed = texts_of(folder, PROMPT, path)
    row = "a <mug> mug, front view"
    assert not torch.equal(
        before.embeddings["hidden"][before.rows[row]], changed.embeddings["hidden"][changed.rows[row]]
    )


def test_a_prompt_without_the_word_is_noted(latent_folders, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    path = file_for(tmp_path / "style.safetensors", latent_folders["sd"], "sd")
    texts_of(latent_folders["sd"], PROMPT, path)
    assert not caplog.messages
    texts_of(latent_folders["sd"], "a red mug", path)
    assert caplog.messages == ["the prompt does not use the word '<mug>' of --embedding"]
    caplog.clear()
    run = config(latent_folders["sd"], "a red mug", embeddings=(str(path),), negative="a <mug>")
    load_guidance(run, "cpu")
    assert not caplog.messages


def written(tmp_path, **tensors):
    path = tmp_path / "x.safetensors"
    save_file(tensors, path)
    return str(path)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda p: written(p, **{"<a>": torch.ones(2, 5)}), PriorError, "vectors of 5 numbers, and this model's texts"),
        (
            lambda p: written(p, clip_l=torch.ones(1, 32), clip_g=torch.ones(1, 40)),
            PriorError,
            "for another base model",
        ),
        (
            lambda p: written(p, a=torch.ones(1, 32), b=torch.ones(1, 32)),
            PriorError,
            "holds 2 tensors; an embedding is one",
        ),
        (lambda p: written(p, a=torch.ones(1, 2, 16)), PriorError, "is no embedding"),
        (lambda p: written(p, a=torch.full((1, 16), torch.nan)), PriorError, "is no embedding"),
        (lambda p: written(p, a=torch.ones(1, 16)) + ":mug</w>", UsageError, "knows the word 'mug</w>' already"),
        (lambda p: written(p, a=torch.ones(1, 16)) + ":two words", UsageError, "'two words' is not one word"),
        (lambda p: str(p / "none.safetensors"), UsageError, "--embedding: .* is not there"),
        (lambda p: "", UsageError, "the path is empty"),
    ],
)
def test_what_is_no_embedding_for_this_model_is_refused_in_one_line(make, error, message, latent_folders, tmp_path):
    with pytest.raises(error, match=message) as caught:
        texts_of(latent_folders["sd"], PROMPT, make(tmp_path))
    assert "\n" not in str(caught.value)


def test_damaged_files_other_formats_and_other_models_are_refused(latent_folders, folders, tmp_path):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"no")
    with pytest.raises(PriorError, match="damaged.safetensors is damaged"):
        texts_of(latent_folders["sd"], PROMPT, damaged)
    (tmp_path / "style.pt").write_bytes(b"pickle")
    with pytest.raises(UsageError, match="--embedding: .* is no safetensors file; other formats can run code"):
        texts_of(latent_folders["sd"], PROMPT, tmp_path / "style.pt")
    path = file_for(tmp_path / "style.safetensors", latent_folders["sd"], "sd")
    for folder in (latent_folders["sd3"], folders["packed"]):
        with pytest.raises(UsageError, match="--embedding is for Stable Diffusion 1 and 2 and SDXL"):
            texts_of(folder, PROMPT, path)
    with pytest.raises(UsageError, match="two files for '<mug>'; give one another word"):
        texts_of(latent_folders["sd"], PROMPT, path, path)


def test_it_goes_with_a_lora_cache_of_texts(latent_folders, tmp_path):
    """A word that another file stood for before is not taken from the cache."""
    folder = latent_folders["sd"]
    (width,) = widths(folder, "sd")
    found = []
    for seed in (1, 2):
        save_file({"<mug>": vectors(1, width, seed)}, tmp_path / f"{seed}.safetensors")
        texts = texts_of(folder, PROMPT, tmp_path / f"{seed}.safetensors")
        found.append(texts.embeddings["hidden"][texts.rows["a <mug> mug, front view"]])
    assert not torch.equal(*found)
    plain = config(folder, PROMPT)
    assert plain.guidance.embeddings == () and replace(plain.guidance, embeddings=()) == plain.guidance
