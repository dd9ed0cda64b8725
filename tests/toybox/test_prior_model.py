"""The embedded prior's architecture and its folder: sizes, exact round trips, and a quiet disk."""

import json
import os
import subprocess
import sys

import pytest
import torch

from dreamfusion_ngp.config.prompts import MODE_WORDS, VIEW_WORDS, view_prompt
from dreamfusion_ngp.guidance.packing import pack
from dreamfusion_ngp.toybox.prior.loss import tokenize
from dreamfusion_ngp.toybox.prior.model import (
    MAX_TOKENS,
    PRIOR,
    build_prior,
    build_tokenizer,
    embed_words,
    load_prior,
    quiet,
)
from dreamfusion_ngp.toybox.world.captions import WORDS, subject
from dreamfusion_ngp.toybox.world.shapes import CLASSES, COLORS

PHRASES = [
    "a red mug, front right view, high angle, clay",
    "",
    "A Photo of an Orange Torus, back view",
    "a dragon",
    "clay, overhead view",
]


@pytest.fixture(scope="module")
def prior():
    return build_prior(seed=1)


@pytest.fixture(scope="module")
def folder(prior, tmp_path_factory):
    path = tmp_path_factory.mktemp("prior") / "toybox"
    prior.save(path)
    return path


def weights(prior):
    return {
        **{f"unet.{k}": v for k, v in prior.unet.state_dict().items()},
        **{f"text.{k}": v for k, v in prior.text_encoder.state_dict().items()},
    }


def test_it_is_small(prior, folder):
    count = sum(p.numel() for part in (prior.unet, prior.text_encoder) for p in part.parameters())
    assert 4.5e6 < count < 5.8e6
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) <= 12e6


def test_the_same_seed_builds_the_same_weights(prior):
    again = weights(build_prior(seed=1))
    assert all(torch.equal(value, again[name]) for name, value in weights(prior).items())


def test_the_unet_takes_and_gives_packed_pictures(prior):
    tokens = tokenize(prior.tokenizer, ["a red mug", ""])
    assert tokens.input_ids.shape == (2, MAX_TOKENS)
    with torch.no_grad():
        hidden = prior.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        packed = pack(torch.zeros(2, 3, 64, 64), prior.unet.config.in_channels)
        out = prior.unet(packed, torch.tensor(500), hidden, encoder_attention_mask=tokens.attention_mask).sample
    assert out.shape == (2, 12, 32, 32) and torch.isfinite(out).all() and not torch.equal(out[0], out[1])


def test_words_as_a_product_are_what_the_text_encoder_says(prior):
    tokens = tokenize(prior.tokenizer, ["a red mug, front view, flat colors", "", "a torus"])
    with torch.no_grad():
        prior.text_encoder.shared.weight[1:] += 0.1  # an untrained norm hides nothing then
        said = prior.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        assert torch.allclose(embed_words(prior.text_encoder, tokens.input_ids), said, atol=1e-5)
        prior.text_encoder.shared.weight[1:] -= 0.1


def test_the_clean_picture_is_predicted_over_a_cosine_schedule(prior):
    abar = prior.scheduler.alphas_cumprod
    assert prior.scheduler.config.prediction_type == "sample" and len(abar) == 1000
    assert (abar.diff() < 0).all() and abar[0] > 0.999 and 0 < abar[-1] < 1e-4


def test_the_folder_is_a_diffusers_pipeline_of_float16_safetensors(folder):
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "IFPipeline" and index["unet"] == ["diffusers", "UNet2DConditionModel"]
    assert index["text_encoder"] == ["transformers", "T5EncoderModel"]
    for part in ("unet", "text_encoder", "tokenizer", "scheduler"):
        assert (folder / part).is_dir() and len(index[part]) == 2
    assert not [f for f in folder.rglob("*") if f.suffix in (".bin", ".pt", ".pkl", ".ckpt")]
    from safetensors import safe_open

    for file in folder.rglob("*.safetensors"):
        with safe_open(file, "pt") as opened:
            assert {opened.get_tensor(key).dtype for key in opened.keys()} == {torch.float16}  # noqa: SIM118


def test_saved_and_loaded_again_it_is_equal_bit_by_bit(prior, folder, tmp_path):
    loaded = load_prior(folder)
    before, after = weights(prior), weights(loaded)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert after[name].dtype == torch.float32 and torch.equal(value.to(torch.float16).float(), after[name]), name
    assert prior.unet.dtype == torch.float32, "saving leaves the model as it was"
    loaded.save(tmp_path / "again")
    for file in folder.rglob("*.*"):
        assert (tmp_path / "again" / file.relative_to(folder)).read_bytes() == file.read_bytes(), (
            f"{file.name}: paths, dates?"
        )
    assert loaded.scheduler.config.prediction_type == "sample"
    assert torch.equal(loaded.scheduler.alphas_cumprod, prior.scheduler.alphas_cumprod)


def test_saving_and_loading_print_nothing(prior, folder, tmp_path, capfd):
    prior.save(tmp_path / "quiet")
    load_prior(tmp_path / "quiet")
    assert capfd.readouterr() == ("", "")


def test_quiet_restores_what_was_set():
    from diffusers.utils import logging as one
    from transformers.utils import logging as other

    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in (one, other)]
    with pytest.raises(KeyError), quiet():
        assert one.get_verbosity() == other.get_verbosity() == 40 and not one.is_progress_bar_enabled()
        raise KeyError
    assert before == [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in (one, other)]


@pytest.mark.parametrize("part", ["unet", "text_encoder", "tokenizer"])
def test_a_missing_part_is_an_os_error(part, prior, tmp_path):
    prior.save(tmp_path)
    for file in (tmp_path / part).iterdir():
        file.unlink()
    with pytest.raises(OSError):
        load_prior(tmp_path)


def test_missing_weights_are_not_made_up(prior, tmp_path):
    from safetensors.torch import load_file, save_file

    prior.save(tmp_path)
    file = next((tmp_path / "unet").glob("*.safetensors"))
    tensors = load_file(file)
    tensors.pop("conv_in.weight")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(OSError, match="1 weights are missing"):
        load_prior(tmp_path)


def test_the_tokenizer_knows_every_caption_and_never_truncates():
    tokenizer = build_tokenizer()
    unknown = tokenizer.convert_tokens_to_ids("<unk>")
    views = {view(a * 0.26, e) for view in VIEW_WORDS.values() for a in range(25) for e in (-0.1, 0.4, 0.7, 1.5)}
    texts = [
        view_prompt(f"a photo of {subject(name, color)}", view, mode)
        for name in CLASSES
        for color in COLORS
        for view in views
        for mode in MODE_WORDS
    ]
    ids = tokenizer(texts).input_ids
    assert max(map(len, ids)) <= MAX_TOKENS
    assert not any(unknown in row for row in ids)
    assert {row[-1] for row in ids} == {tokenizer.eos_token_id}
    assert len(set(map(tuple, ids))) == len(set(texts)), "different captions, different tokens"


def test_the_tokenizer_drops_case_and_commas_and_marks_unknown_words():
    tokenizer = build_tokenizer()
    assert tokenizer("A Red MUG, front  view").input_ids == tokenizer("a red mug front view").input_ids
    assert tokenizer("a red dragon").input_ids.count(tokenizer.unk_token_id) == 1
    assert tokenizer("").input_ids == [tokenizer.eos_token_id]
    padded = tokenize(tokenizer, ["a red mug"])
    assert padded.input_ids[0, 4:].tolist() == [tokenizer.pad_token_id] * (MAX_TOKENS - 4)
    assert padded.attention_mask.sum() == 4


def test_the_word_order_of_shipped_weights_is_fixed():
    """Token ids are positions: a word may be added at the end, never moved, or saved priors would read other words."""
    assert WORDS[:10] == ("a", "an", "the", "toy", "photo", "of", "dslr", "3d", "model", "render")
    ids = build_tokenizer()("red mug front view flat colors clay").input_ids
    assert ids == [13, 30, 44, 49, 55, 56, 57, 1]


def test_the_tokenizer_means_the_same_in_a_fresh_process_without_network(folder):
    script = """
import json, socket, sys
def refuse(*args):
    raise OSError("the network was used")
socket.socket.connect = socket.getaddrinfo = refuse
from transformers import PreTrainedTokenizerFast
tokenizer = PreTrainedTokenizerFast.from_pretrained(sys.argv[1])
print(json.dumps(tokenizer(json.loads(sys.argv[2]), padding="max_length", max_length=16).input_ids))
"""
    found = subprocess.run(
        [sys.executable, "-c", script, folder / "tokenizer", json.dumps(PHRASES)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        timeout=300,
    )
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) == tokenize(build_tokenizer(), PHRASES).input_ids.tolist()


def test_the_shipped_prior_is_complete_small_and_knows_this_vocabulary():
    assert sum(f.stat().st_size for f in PRIOR.rglob("*") if f.is_file()) <= 12e6
    prior = load_prior()
    assert all(torch.isfinite(value).all() for value in weights(prior).values())
    assert prior.tokenizer(PHRASES).input_ids == build_tokenizer()(PHRASES).input_ids
    shapes = {name: value.shape for name, value in weights(build_prior()).items()}
    assert shapes == {name: value.shape for name, value in weights(prior).items()}
    assert prior.scheduler.config.prediction_type == "sample", "what sampling and further training take it to predict"
