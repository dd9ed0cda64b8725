"""LoRAs and textual inversions that are not there, not whole, or for another model; words that are no text."""

import json

import pytest
import torch
from safetensors.torch import save_file
from support.changed_folders import added_token, copied
from support.tiny_models import config

from dreamfusion_ngp.base.errors import DreamfusionError, PriorError, PromptError, UsageError
from dreamfusion_ngp.guidance.inversions import read_inversion
from dreamfusion_ngp.guidance.load import load_guidance
from dreamfusion_ngp.guidance.styles import read_entry

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 3\n"
LAYER = "unet.down_blocks.{}.attentions.0.transformer_blocks.0.attn1.to_q"
TEXT = "{}.text_model.encoder.layers.{}.self_attn.q_proj"


def written(path, *layers, width=16):
    random = torch.Generator().manual_seed(0)
    state = {f"{layer}.lora_A.weight": torch.randn(2, width, generator=random) for layer in layers}
    state |= {f"{layer}.lora_B.weight": torch.randn(width, 2, generator=random) for layer in layers}
    save_file(state, path)
    return str(path)


@pytest.mark.parametrize(
    "layers, message",
    [
        ((LAYER.format(1), LAYER.format(7)), "its unet lacks 1 of 2 layers, the first is down_blocks.7"),
        ((TEXT.format("text_encoder", 0), TEXT.format("text_encoder", 9)), "its text_encoder lacks 1 of 2 layers"),
        ((TEXT.format("text_encoder_2", 0),), "holds no LoRA of a unet or a text encoder of this model"),
    ],
)
def test_layers_that_the_model_lacks_are_not_left_out(layers, message, latent_folders, tmp_path):
    pytest.importorskip("peft")
    path = written(tmp_path / "style.safetensors", *layers)
    with pytest.raises(PriorError, match=message) as caught:
        load_guidance(config(latent_folders["sd"], loras=(path,)), "cpu")
    assert "\n" not in str(caught.value) and path in str(caught.value)


@pytest.mark.parametrize("read, flag", [(read_entry, "--lora"), (read_inversion, "--embedding")])
def test_pointers_pickles_and_what_is_gone_are_told_apart(read, flag, tmp_path):
    path = tmp_path / "style.safetensors"
    path.write_text(POINTER)
    with pytest.raises(PriorError, match="style.safetensors is a git-lfs pointer"):
        read(str(path))
    path.rename(tmp_path / "style.bin")
    with pytest.raises(UsageError, match=f"{flag}: .* has no weights in safetensors format, only style.bin"):
        read(str(tmp_path))
    entry = f"{path}:{'1' if flag == '--lora' else 'cup'}:{'0' * 64}"
    with pytest.raises(PriorError, match="style.safetensors, with which the run was started, is not there; put it"):
        read(entry)


def test_a_word_is_taken_as_the_prompt_has_it(latent_folders, tmp_path, caplog):
    path = tmp_path / "my.safetensors"
    save_file({"emb_params": torch.ones(1, 16)}, path)
    for word, clean in (("my\u2011cup", "my-cup"), ("cafe\u0301", "caf\u00e9"), ("cup\u200b", "cup")):
        assert read_inversion(f"{path}:{word}").token == clean
        load_guidance(config(latent_folders["sd"], f"a {word}", embeddings=(f"{path}:{word}",)), "cpu")
    assert "does not use the word" not in caplog.text
    for word, error in (
        ("m\udce9", PromptError),
        ("m\a", PromptError),
        ("\u200b", UsageError),
        ("my\tcup", UsageError),
    ):
        with pytest.raises(error, match="of --embedding|not one word") as caught:
            read_inversion(f"{path}:{word}")
        assert isinstance(caught.value, DreamfusionError) and "\n" not in str(caught.value)


def test_float8_vectors_are_read(tmp_path):
    save_file({"<a>": torch.ones(2, 4).to(torch.float8_e4m3fn)}, tmp_path / "a.safetensors")
    assert torch.equal(read_inversion(str(tmp_path / "a.safetensors")).vectors()[0], torch.ones(2, 4))


def test_a_token_without_embedding_stays_one_beside_an_inversion(latent_folders, tmp_path):
    """Its row of the grown table would be random."""
    path = tmp_path / "mug.safetensors"
    save_file({"<mug>": torch.ones(2, 16)}, path)
    folder = copied(latent_folders["sd"], tmp_path, added_token())
    highest = json.loads((folder / "text_encoder/config.json").read_text())["vocab_size"] - 1
    with pytest.raises(PriorError, match=f"'<cat>' the number {highest + 1}, .* for the numbers 0 to {highest} only"):
        load_guidance(config(folder, "a <cat> <mug>", embeddings=(str(path),)), "cpu")
    load_guidance(config(folder, "a <mug>", embeddings=(str(path),)), "cpu")
