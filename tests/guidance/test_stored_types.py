"""The floating-point type asked for holds for every family, network and VAE, whatever type the files are stored in."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.changed_folders import copied
from support.tiny_models import config, judged

from dreamfusion_ngp.guidance import text_encoders as text
from dreamfusion_ngp.guidance.load import family, load_guidance
from dreamfusion_ngp.guidance.pipeline_folder import load_model, read_index

STORED = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
FAMILIES = ("sd", "sdv", "sdxl", "sd3", "packed", "placed", "if")


def stored(source, tmp_path, dtype, mixed=False):
    """A copy of a pipeline with all weights in `dtype`; mixed: but for the first tensor of every file."""
    folder = copied(source, tmp_path)
    for path in folder.glob("*/*.safetensors"):
        tensors = load_file(path)
        kept = next(iter(sorted(tensors))) if mixed else None
        save_file({k: v if k == kept else v.to(dtype) for k, v in tensors.items()}, path, {"format": "pt"})
    return folder


def types(module) -> set[torch.dtype]:
    return {p.dtype for p in module.parameters()}


@pytest.mark.parametrize("saved", STORED)
@pytest.mark.parametrize("kind", FAMILIES)
def test_networks_have_the_type_asked_for(kind, saved, latent_folders, folders, tmp_path):
    folder = stored({**latent_folders, **folders}[kind], tmp_path, STORED[saved], mixed=saved == "float16")
    for asked in ("float32", "bfloat16"):
        guidance = load_guidance(config(folder, precision=asked), "cpu")
        networks = [n for n in (guidance.denoiser.network, guidance.denoiser.ends.vae) if n is not None]
        assert [types(n) for n in networks] == [{STORED[asked]}] * len(networks)
        assert (
            guidance.denoiser.network.dtype == STORED[asked]
            and guidance.denoiser.texts.embeddings["hidden"].dtype == torch.float32
        )
    rgb = torch.rand(3, 12, 12, 3, requires_grad=True)
    rgb.grad = judged(guidance, rgb, 0).gradient
    assert rgb.grad.isfinite().all() and rgb.grad.abs().max() > 0


@pytest.mark.parametrize("kind", FAMILIES)
def test_parts_are_loaded_in_half_precision_and_automatically_in_single(kind, latent_folders, folders, tmp_path):
    """float16 is for GPUs, so the parts alone; "auto" where bfloat16 is not quick; texts are always float32."""
    folder = stored({**latent_folders, **folders}[kind], tmp_path, torch.float64)
    found = family(folder)
    index = found.check(folder)
    for name in (found.network, *found.parts):
        assert types(load_model(folder, index, name, torch.float16)) == {torch.float16}
        assert types(load_model(folder, index, name)) == {torch.float32}
    for name in found.encoder.parts(index):
        if name.startswith("text_encoder"):
            assert types(load_model(folder, index, name)) == {torch.float32}


def test_a_large_text_encoder_is_bfloat16_throughout(latent_folders, folders, tmp_path, monkeypatch):
    from dreamfusion_ngp.guidance import pipeline_folder as parts

    monkeypatch.setattr(parts, "BIG", 0)
    folder = stored(latent_folders["sd3"], tmp_path, torch.float32)
    index = read_index(folder)
    for name in ("text_encoder", "text_encoder_3", "transformer"):
        assert types(text.load_model(folder, index, name)) == {torch.bfloat16}


def test_another_vae_has_the_type_asked_for(latent_folders, tmp_path):
    folder = stored(latent_folders["sd"], tmp_path, torch.float16)
    for asked in ("float32", "bfloat16"):
        guidance = load_guidance(config(latent_folders["sd"], precision=asked, vae=str(folder / "vae")), "cpu")
        assert types(guidance.denoiser.ends.vae) == {STORED[asked]}
