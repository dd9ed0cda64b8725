"""Files of weights by whatever name they have: one rule for what is loaded from a folder and fetched from a hub."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreamfusion_ngp.base.errors import PriorError
from dreamfusion_ngp.guidance.pipeline_folder import find_weights, load_model, read_index
from dreamfusion_ngp.hub.weights import FULL_FIRST, HALF_FIRST, best_weights, choose_weights, fault, weight_sets

BASE = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 3438167534\n"


@pytest.fixture
def folder(latent_folders, tmp_path):
    return shutil.copytree(latent_folders["sd"], tmp_path / "model")


def shard(path, names):
    """Replace a file of weights by shards of these names; where each tensor lies."""
    weights = load_file(path)
    path.unlink()
    where = {}
    for number, name in enumerate(names):
        part = {key: weights[key] for key in sorted(weights)[number :: len(names)]}
        save_file(part, path.parent / name, {"format": "pt"})
        where |= dict.fromkeys(part, name)
    return where


def same(folder, part, wanted):
    model = load_model(folder, read_index(folder), part)
    assert all(torch.equal(value, wanted[key]) for key, value in model.state_dict().items() if key in wanted)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    return model


@pytest.mark.parametrize("part", BASE)
@pytest.mark.parametrize(
    "name",
    [
        "{}.bf16",
        "{}.non_ema",
        "{}.fp16",
        "{}.ema.fp16",
        "model",
        "pytorch_model",
        "diffusion_pytorch_model",
        "pytorch_model.fp16",
        "weights",
    ],
)
def test_weights_by_any_name_are_loaded_and_named(folder, part, name, caplog):
    path = folder / part / f"{BASE[part]}.safetensors"
    wanted, new = load_file(path), path.with_name(name.format(BASE[part]) + ".safetensors")
    path.rename(new)
    same(folder, part, wanted)
    plain = new.name in ("model.safetensors", "diffusion_pytorch_model.safetensors", "pytorch_model.safetensors")
    assert plain or (".fp16" in name and "ema" not in name) or new.name in caplog.text


@pytest.mark.parametrize("part", BASE)
@pytest.mark.parametrize(
    "name, index",
    [
        ("{}-0000{}-of-00003.safetensors", "{}.safetensors.index.json"),
        ("{}.fp16-0000{}-of-00003.safetensors", "{}.safetensors.index.fp16.json"),
        ("{}.bf16-0000{}-of-00003.safetensors", "{}.safetensors.index.bf16.json"),
        ("{}-0000{}-of-00003.non_ema.safetensors", "{}.safetensors.non_ema.index.json"),
        ("{}.bf16-0000{}-of-00003.safetensors", None),
        ("{}-0000{}-of-00003.safetensors", None),
    ],
)
def test_shards_of_any_variant_are_loaded_with_and_without_an_index(folder, part, name, index):
    path = folder / part / f"{BASE[part]}.safetensors"
    wanted, names = load_file(path), [name.format(BASE[part], number) for number in (1, 2, 3)]
    where = shard(path, names)
    if index:
        data = {"metadata": {"total_size": 1}, "weight_map": where}
        (path.parent / index.format(BASE[part])).write_text(json.dumps(data))
    same(folder, part, wanted)
    (path.parent / names[1]).unlink()
    with pytest.raises(PriorError, match=r"incomplete.*shards are missing: 2"):
        find_weights(folder, part)


def test_an_index_of_other_files_is_not_followed(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    (path.parent / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": {"a": "gone.safetensors"}})
    )
    same(folder, "unet", load_file(path))


def test_full_precision_or_half_first_else_what_is_there():
    def chosen(order, *variants):
        return best_weights([f"unet/model{v}.safetensors" for v in variants], order).variant

    assert chosen(FULL_FIRST, ".non_ema", ".fp16", "", ".bf16") == ""
    assert chosen(HALF_FIRST, ".non_ema", ".fp16", "", ".bf16") == "fp16"
    assert chosen(FULL_FIRST, ".non_ema", ".fp16", ".bf16") == "fp16"
    assert chosen(HALF_FIRST, ".non_ema", "", ".bf16") == ""
    for order in (FULL_FIRST, HALF_FIRST):
        assert chosen(order, ".non_ema", ".bf16") == "bf16" and chosen(order, ".non_ema") == "non_ema"
        assert chosen(order, ".non_ema", ".int8") == "int8"
        assert best_weights(["lora.safetensors", "model.safetensors", "adapter.safetensors"], order).name == "model"
        assert best_weights(["a.bin", "README.md"], order) is None
    half = [f"te/model.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert choose_weights([*half, "te/model.safetensors"]) == half
    assert choose_weights([half[0], "te/model.safetensors"]) == ["te/model.safetensors"], "whole before half a set"
    assert weight_sets(half[1:])[0].missing == (1,)


@pytest.mark.parametrize("suffix", [".bin", ".ckpt", ".msgpack", ".pt"])
def test_weights_in_another_format_only_are_named(folder, suffix):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_suffix(suffix))
    with pytest.raises(PriorError, match=f"unet has no weights in safetensors format, only {path.stem}{suffix},"):
        find_weights(folder, "unet")
    path.with_suffix(suffix).unlink()
    with pytest.raises(PriorError, match="no weights in safetensors format, nor in another$"):
        find_weights(folder, "unet")


def test_a_link_to_nowhere_is_not_called_damaged(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.unlink()
    path.symlink_to(folder / "gone")
    with pytest.raises(PriorError, match="safetensors cannot be read: .*No such file"):
        find_weights(folder, "unet")


def test_git_lfs_pointers_are_called_so(folder):
    from dreamfusion_ngp.guidance.load import family

    for name in ("unet/diffusion_pytorch_model.safetensors", "tokenizer/tokenizer.json", "model_index.json"):
        path = folder / name
        data = path.read_bytes()
        path.write_bytes(POINTER)
        assert "git-lfs pointer" in fault(path)
        with pytest.raises(PriorError, match=f'{name} is a git-lfs pointer, .*"git lfs pull"') as caught:
            family(folder).check(folder)
        assert "\n" not in str(caught.value)
        path.write_bytes(data)
    family(folder).check(folder)
