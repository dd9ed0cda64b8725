"""LoRAs of one's own: in diffusers' and kohya's spelling they end up in the weights, others are refused in one line."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from support.tiny_models import config, judged

from dreamfusion_ngp.base.errors import PriorError, UsageError
from dreamfusion_ngp.config.io import from_dict, to_dict
from dreamfusion_ngp.config.schema import GuidanceConfig, RunConfig
from dreamfusion_ngp.guidance import styles as styles_module
from dreamfusion_ngp.guidance.load import load_guidance
from dreamfusion_ngp.guidance.styles import check_pairs, read_entry
from dreamfusion_ngp.runs.generate import pin_model

RANK = 2
NETWORK = {
    "sd": ("unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"),
    "sdxl": ("unet", "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"),
    "sd3": ("transformer", "transformer_blocks.0.attn.to_v"),
}
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj")


@pytest.fixture
def needs_peft():
    pytest.importorskip("peft")


def pair(linear, seed):
    """A (rank, in) and B (out, rank)."""
    random = torch.Generator().manual_seed(seed)
    return 0.5 * torch.randn(RANK, linear.in_features, generator=random), 0.5 * torch.randn(
        linear.out_features, RANK, generator=random
    )


def layer(model, name):
    return model.get_submodule(name)


def text_layers(encoder):
    return {name: m for name, m in encoder.named_modules() if name.split(".")[-1] in TEXT and "layers.0." in name}


def saved(path, state, **metadata):
    save_file({key: value.contiguous() for key, value in state.items()}, path, metadata=metadata or None)
    return path


def loaded(folder, *loras, **options):
    return load_guidance(config(folder, precision="float32", loras=tuple(map(str, loras)), **options), "cpu")


def plain_parts(folder, kind):
    """The network and the first text encoder as they are."""
    denoiser = loaded(folder).denoiser
    encoder = denoiser.family.encoder(folder, json.loads((folder / "model_index.json").read_text()), 0)
    return denoiser.network, encoder.load()[0]


def diffusers_file(path, folder, kind, seed=0, text=True):
    """A LoRA of one layer of the network and of a layer of the first text encoder: its path and what it adds."""
    network, encoder = plain_parts(folder, kind)
    part, name = NETWORK[kind]
    a, b = pair(layer(network, name), seed)
    state = {f"{part}.{name}.lora_A.weight": a, f"{part}.{name}.lora_B.weight": b}
    for i, (inner, module) in enumerate(text_layers(encoder).items() if text else ()):
        inner_a, inner_b = pair(module, seed + 10 + i)
        state |= {f"text_encoder.{inner}.lora_A.weight": inner_a, f"text_encoder.{inner}.lora_B.weight": inner_b}
    return saved(path, state), b @ a


@pytest.mark.parametrize("kind", NETWORK)
def test_a_lora_is_added_to_the_weights_by_its_weight(kind, latent_folders, tmp_path, needs_peft):
    folder = latent_folders[kind]
    path, added = diffusers_file(tmp_path / "style.safetensors", folder, kind)
    name = NETWORK[kind][1]
    before, after = (loaded(folder, *loras).denoiser for loras in ([], [f"{path}:0.7"]))
    torch.testing.assert_close(
        layer(after.network, name).weight, layer(before.network, name).weight + 0.7 * added, rtol=1e-5, atol=1e-6
    )
    assert [n for n, _ in after.network.named_parameters()] == [n for n, _ in before.network.named_parameters()]
    assert not any(p.requires_grad for p in after.network.parameters())
    assert not torch.allclose(after.texts.embeddings["hidden"], before.texts.embeddings["hidden"], atol=1e-3)
    nothing = loaded(folder, f"{path}:0").denoiser
    torch.testing.assert_close(nothing.texts.embeddings["hidden"], before.texts.embeddings["hidden"])
    image = torch.rand(3, 12, 12, 3, generator=torch.Generator().manual_seed(0))
    said = [judged(loaded(folder, *loras), image).gradient for loras in ([], [path])]
    assert not torch.equal(*said)


def test_the_text_encoder_has_what_is_added_and_the_cache_knows(latent_folders, tmp_path, needs_peft):
    """Against the encoder whose weights were changed by hand; without the LoRA the texts are as before."""
    folder = latent_folders["sd"]
    path, _ = diffusers_file(tmp_path / "style.safetensors", folder, "sd")
    index = json.loads((folder / "model_index.json").read_text())
    before = loaded(folder).denoiser.texts
    found = loaded(folder, f"{path}:0.5", f"{path}:0.25").denoiser.texts
    encoder = loaded(folder).denoiser.family.encoder(folder, index, 0)
    (model,) = encoder.load()
    for i, module in enumerate(text_layers(model).values()):
        a, b = pair(module, 10 + i)
        module.weight.data += 0.75 * b @ a
    wanted = encoder.encode([model], "a red mug, front view")["hidden"]
    torch.testing.assert_close(
        found.embeddings["hidden"][found.rows["a red mug, front view"]], wanted, rtol=1e-4, atol=1e-5
    )
    again = loaded(folder).denoiser.texts
    assert torch.equal(again.embeddings["hidden"], before.embeddings["hidden"])


def test_kohyas_spelling_is_read_with_its_factor(latent_folders, tmp_path, needs_peft):
    folder, name = latent_folders["sd"], NETWORK["sd"][1]
    network, _ = plain_parts(folder, "sd")
    a, b = pair(layer(network, name), 4)
    key = f"lora_unet_{name.replace('.', '_')}"
    state = {f"{key}.lora_down.weight": a, f"{key}.lora_up.weight": b, f"{key}.alpha": torch.tensor(1.0)}
    after = loaded(folder, saved(tmp_path / "kohya.safetensors", state)).denoiser.network
    wanted = layer(network, name).weight + (1.0 / RANK) * b @ a
    torch.testing.assert_close(layer(after, name).weight, wanted, rtol=1e-5, atol=1e-6)


def test_several_loras_add_up(latent_folders, tmp_path, needs_peft):
    folder, name = latent_folders["sd"], NETWORK["sd"][1]
    files = [diffusers_file(tmp_path / f"{i}.safetensors", folder, "sd", seed=i, text=False) for i in (0, 1)]
    before, after = plain_parts(folder, "sd")[0], loaded(folder, files[0][0], f"{files[1][0]}:-0.5").denoiser.network
    wanted = layer(before, name).weight + files[0][1] - 0.5 * files[1][1]
    torch.testing.assert_close(layer(after, name).weight, wanted, rtol=1e-5, atol=1e-5)


def test_a_file_for_another_model_is_one_line(latent_folders, tmp_path, needs_peft):
    sd, sdxl = latent_folders["sd"], latent_folders["sdxl"]
    wide, _ = diffusers_file(tmp_path / "wide.safetensors", sd, "sd", text=False)
    foreign = saved(tmp_path / "foreign.safetensors", {"unet.nowhere.lora_A.weight": torch.ones(2, 4),
                                                       "unet.nowhere.lora_B.weight": torch.ones(4, 2)})  # fmt: skip
    nothing = saved(tmp_path / "nothing.safetensors", {"weight": torch.ones(2)})
    (tmp_path / "damaged.safetensors").write_bytes(b"no")
    for folder, path, message in (
        (sdxl, wide, "wide.safetensors does not fit this model, is it for another one?"),
        (sd, foreign, "foreign.safetensors does not fit this model"),
        (sd, nothing, "nothing.safetensors holds no LoRA of a unet or a text encoder"),
        (sd, tmp_path / "damaged.safetensors", "damaged.safetensors is damaged"),
    ):
        with pytest.raises(PriorError, match=message) as error:
            loaded(folder, path)
        assert "\n" not in str(error.value)


HALVES = {
    "peft": ("unet.down_blocks.1.attn2.to_k", "lora_A.weight", "lora_B.weight"),
    "peft with an adapter": ("unet.down_blocks.1.attn2.to_k", "lora_A.style.weight", "lora_B.style.weight"),
    "old diffusers": ("unet.down_blocks.1.attn2.processor", "to_k_lora.down.weight", "to_k_lora.up.weight"),
    "text encoder": ("text_encoder.layers.0.to_q", "lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
    "kohya": ("lora_unet_down_blocks_1_attn2_to_k", "lora_down.weight", "lora_up.weight"),
}


@pytest.mark.parametrize("spelling", HALVES)
@pytest.mark.parametrize("lost", [0, 1])
def test_one_matrix_without_the_other_is_one_line(spelling, lost, tmp_path):
    layer_name, *names = HALVES[spelling]
    keys = [f"{layer_name}.{name}" for name in names]
    whole = dict.fromkeys(keys, None) | {f"{layer_name}.alpha": None, f"{layer_name}.lora_B.bias": None}
    check_pairs(tmp_path, whole)
    with pytest.raises(PriorError) as error:
        check_pairs(tmp_path, {key: value for key, value in whole.items() if key != keys[lost]})
    assert f"is damaged: it holds {keys[1 - lost]} without {keys[lost]}," in str(error.value)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_file_with_half_a_layer_is_refused(lost, latent_folders, tmp_path, needs_peft):
    name, place = NETWORK["sd"]
    network, _ = plain_parts(latent_folders["sd"], "sd")
    matrices = pair(layer(network, place), 0)
    keys = [f"{name}.{place}.lora_{letter}.weight" for letter in "AB"]
    path = saved(tmp_path / "half.safetensors", {keys[1 - lost]: matrices[1 - lost]})
    with pytest.raises(PriorError, match=f"holds {keys[1 - lost]} without") as error:
        loaded(latent_folders["sd"], path)
    assert "\n" not in str(error.value)


def test_an_entry_names_a_file_a_weight_and_a_digest(tmp_path):
    path = tmp_path / "a:b.safetensors"
    path.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    for text, weight in ((f"{path}", 1.0), (f"{path}:0.8", 0.8), (f"{path}:-1:{digest}", -1.0), (f"{path}:.5", 0.5)):
        assert (lora := read_entry(text)).path == path and lora.weight == weight and lora.digest == digest
        assert read_entry(str(lora)) == lora
    assert read_entry(str(tmp_path)).path == path, "the only one in a folder"
    path.write_bytes(b"others")
    with pytest.raises(PriorError, match="another LoRA than the run was started with"):
        read_entry(f"{path}:1:{digest}")


def test_what_is_no_lora_is_refused(tmp_path, latent_folders, folders, monkeypatch):
    (tmp_path / "style.pt").write_bytes(b"")
    (tmp_path / "style.safetensors").write_bytes(b"")
    (tmp_path / "other.safetensors").write_bytes(b"")
    for text, message in (
        ("", "the path is empty"),
        (str(tmp_path / "no.safetensors"), "is not there"),
        (str(tmp_path / "style.pt"), "no safetensors file; other formats can run code"),
        (str(tmp_path), "holds 2 files"),
    ):
        with pytest.raises(UsageError, match=message):
            read_entry(text)
    with pytest.raises(UsageError, match="and .* is none of them"):
        loaded(folders["packed"], tmp_path / "style.safetensors")
    monkeypatch.setattr(styles_module, "installed", lambda name: False)
    with pytest.raises(UsageError, match=r'pip install "dreamfusion_ngp\[lora\]"'):
        loaded(latent_folders["sd"], tmp_path / "style.safetensors")


def test_a_runs_config_has_the_digest(tmp_path, latent_folders):
    path = tmp_path / "style.safetensors"
    path.write_bytes(b"weights")
    run = RunConfig(guidance=GuidanceConfig(model=str(latent_folders["sd"]), loras=(f"{path}:2",)))
    pinned = pin_model(run)
    assert pinned.guidance.loras == (f"{path}:2:{hashlib.sha256(b'weights').hexdigest()}",)
    assert pin_model(pinned) == pinned
    assert from_dict(RunConfig, json.loads(json.dumps(to_dict(pinned)))) == pinned
    with pytest.raises(UsageError, match=r"loras\[0\]: expected str"):
        from_dict(RunConfig, to_dict(replace(run, guidance=replace(run.guidance, loras=(3,)))))
