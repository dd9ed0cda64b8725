"""Stable Diffusion and SDXL as guidance: tiny random pipelines, against their own parts in float64."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_latent import tiny_unet, tiny_vae
from support.tiny_models import config, judged

from dreamfusion_ngp.base.errors import PriorError
from dreamfusion_ngp.base.rng import Stream, generator
from dreamfusion_ngp.guidance import load as guidance_package
from dreamfusion_ngp.guidance.denoisers.flow import FLOW
from dreamfusion_ngp.guidance.denoisers.latent import LATENT
from dreamfusion_ngp.guidance.denoisers.pixel import PIXEL
from dreamfusion_ngp.guidance.denoisers.sdxl import SDXL
from dreamfusion_ngp.guidance.load import family, load_guidance

KINDS = ("sd", "sdv", "sdxl")


def image(size=12) -> torch.Tensor:
    return torch.rand(3, size, size, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()


def loaded(folder, **options):
    return load_guidance(config(folder, precision="float32", **options), "cpu")


def encoded(folder, kind: str, prompt: str):
    """hidden (1, L, D) and pooled (1, P) or None, float64, by the encoders themselves."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    ids = tokenizer([prompt], padding="max_length", max_length=16, return_tensors="pt").input_ids
    first = CLIPTextModel.from_pretrained(folder / "text_encoder").double()
    if kind != "sdxl":
        return first(ids)[0], None
    second = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2").double()
    second = second(ids, output_hidden_states=True)
    hidden = torch.cat([first(ids, output_hidden_states=True).hidden_states[-2], second.hidden_states[-2]], -1)
    return (hidden, second.text_embeds) if prompt else (torch.zeros_like(hidden), torch.zeros_like(second.text_embeds))


def reference_gradient(folder, kind: str, rgb: torch.Tensor, scale: float) -> torch.Tensor:
    """The SDS gradient on rgb (3, H, H, 3) written out in float64: seed 3, step 4, the three views of `views()`."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(folder / "unet").double()
    vae = AutoencoderKL.from_pretrained(folder / "vae").double()
    abar = DDIMScheduler.from_pretrained(folder / "scheduler").alphas_cumprod.double()
    draws = generator(3, 4, Stream.GUIDANCE)
    order, offset = draws.random((2, 3))
    noise = torch.from_numpy(draws.standard_normal((3, 4, 8, 8), dtype=np.float32)).double()
    x = rgb.detach().double().requires_grad_()
    big = torch.nn.functional.interpolate(x.permute(0, 3, 1, 2), size=16, mode="bilinear", align_corners=False)
    latent = vae.encode(big * 2 - 1).latent_dist.mean * 0.18215
    loss = 0.0
    for b, word in enumerate(("front", "side", "back")):
        t = int((0.02 + 0.96 * (np.argsort(order)[b] + offset[b]) / 3) * 1000)
        alpha, sigma = abar[t].sqrt(), (1 - abar[t]).sqrt()
        with torch.no_grad():
            z = alpha * latent[b] + sigma * noise[b]
            outputs = []
            for prompt in ("", f"a red mug, {word} view"):
                hidden, pooled = encoded(folder, kind, prompt)
                sizes = torch.tensor([[16.0, 16.0, 0.0, 0.0, 16.0, 16.0]], dtype=torch.float64)
                added = {"text_embeds": pooled, "time_ids": sizes} if kind == "sdxl" else None
                outputs.append(unet(z[None], t, hidden, added_cond_kwargs=added).sample[0])
            guided = outputs[0] + scale * (outputs[1] - outputs[0])
            noise_hat = alpha * guided + sigma * z if kind == "sdv" else guided
            gradient = sigma**2 * (noise_hat - noise[b])
        loss = loss + (latent[b] * gradient).mean() / 3
    loss.backward()
    return x.grad


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options", [{}, {"slice": 1}, {"slice": 2, "checkpoint": True, "offload": True}], ids=["whole", "sliced", "frugal"]
)
def test_the_gradient_on_rgb_is_that_of_the_reference(latent_folders, kind, options):
    guidance, rgb = loaded(latent_folders[kind], scale=30.0, **options), image()
    assert guidance.denoiser.family is (SDXL if kind == "sdxl" else LATENT)
    out = judged(guidance, rgb, 4)
    rgb.grad = out.gradient
    expected = reference_gradient(latent_folders[kind], kind, rgb, 30.0)
    error = (rgb.grad.double() - expected).norm() / expected.norm()
    assert error < 2e-5, float(error)
    assert float(out.value) > 0 and all(np.isfinite(float(v)) for v in out.log.values())
    assert all(
        p.grad is None for p in (*guidance.denoiser.network.parameters(), *guidance.denoiser.ends.vae.parameters())
    )


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_those_of_the_pipelines_own_method(latent_folders, kind):
    """diffusers' encode_prompt, for a text and for none."""
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    folder = latent_folders[kind]
    if kind == "sdxl":
        pipe = StableDiffusionXLPipeline.from_pretrained(folder, low_cpu_mem_usage=False)
        names = ("hidden", "hidden", "pooled", "pooled")
        expected = pipe.encode_prompt("a red mug, front view", device="cpu", do_classifier_free_guidance=True)
    else:
        pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, low_cpu_mem_usage=False)
        names = ("hidden", "hidden")
        expected = pipe.encode_prompt("a red mug, front view", "cpu", 1, True)
    guidance = loaded(folder)
    for name, prompt, theirs in zip(names, ("a red mug, front view", "") * 2, expected, strict=False):
        torch.testing.assert_close(
            guidance.denoiser.texts.embeddings[name][guidance.denoiser.texts.rows[prompt]], theirs[0]
        )


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_decodes_and_the_noise_is_that_of_seed_and_step(latent_folders, kind):
    guidance, rgb = loaded(latent_folders[kind]), image().detach()
    assert guidance.denoiser.ends.vae.decoder is None
    losses = [float(judged(guidance, rgb, step).value) for step in (0, 1, 0)]
    assert losses[0] == losses[2] != losses[1]
    assert float(judged(loaded(latent_folders[kind], slice=1), rgb, 0).value) == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_on_a_gpu_it_never_waits(latent_folders, cuda, kind):
    """Under torch's own check, once everything is loaded: noise, timesteps and words go there without a halt."""
    guidance = load_guidance(config(latent_folders[kind], precision="float32"), cuda)
    rgb = image().detach().to(cuda).requires_grad_()
    for step in range(2):
        rgb.grad = judged(guidance, rgb, step).gradient
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        rgb.grad = judged(guidance, rgb, 2).gradient
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_half_precision_is_close(latent_folders):
    rgb, gradients = image(), []
    for precision in ("float32", "bfloat16"):
        guidance = load_guidance(config(latent_folders["sd"], precision=precision, scale=5.0), "cpu")
        rgb.grad = judged(guidance, rgb, 0).gradient
        gradients.append(rgb.grad.clone())
        rgb.grad = None
    assert 0 < (gradients[1] - gradients[0]).norm() < 0.1 * gradients[0].norm()
    assert loaded(latent_folders["sd"]).denoiser.network.dtype == torch.float32


def test_another_resolution_is_encoded_and_sdxl_still_hears_of_its_own(latent_folders):
    guidance = loaded(latent_folders["sdxl"], resolution=32)
    assert guidance.denoiser.shape == (4, 16, 16)
    told, network = [], guidance.denoiser.forward
    guidance.denoiser.forward = lambda *given, **named: told.append(named) or network(*given, **named)
    assert judged(guidance, image()).gradient.abs().max() > 0
    assert told[0]["added_cond_kwargs"]["time_ids"].tolist() == 6 * [[16, 16, 0, 0, 16, 16]]
    with pytest.raises(PriorError, match="multiple of 16"):
        loaded(latent_folders["sd"], resolution=40)


def test_a_tiny_autoencoder_may_stand_in_for_the_encoder(latent_folders, tmp_path):
    from diffusers import AutoencoderTiny

    torch.manual_seed(2)
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=4,
    )
    tiny.save_pretrained(tmp_path / "taesd")
    guidance, rgb = loaded(latent_folders["sd"], vae=str(tmp_path / "taesd")), image(16)
    x = guidance.denoiser.encode(rgb)
    torch.testing.assert_close(x, tiny.encode(rgb.permute(0, 3, 1, 2) * 2 - 1).latents)
    rgb.grad = judged(guidance, rgb, 0).gradient
    assert rgb.grad.abs().max() > 0
    (tmp_path / "taesd" / "config.json").unlink()
    with pytest.raises(PriorError, match="config.json"):
        loaded(latent_folders["sd"], vae=str(tmp_path / "taesd"))


def replaced(folder, copy, **parts):
    shutil.copytree(folder, copy)
    for name, part in parts.items():
        shutil.rmtree(copy / name)
        part.save_pretrained(copy / name)
    return copy


def test_models_of_other_kinds_are_one_clear_line(latent_folders, tmp_path):
    from diffusers import UNet2DConditionModel

    sd, xl = latent_folders["sd"], latent_folders["sdxl"]
    base = {k: v for k, v in tiny_unet("sd").config.items() if not k.startswith("_")}

    def unet(**changes):
        return {"unet": UNet2DConditionModel(**{**base, **changes})}

    cases = {
        "maps 9 channels to 4": (sd, unet(in_channels=9)),
        "width 24, the text encoder gives 16": (sd, unet(cross_attention_dim=24)),
        "distilled": (sd, unet(time_cond_proj_dim=8)),
        "conditions other than text": (sd, unet(num_class_embeds=4)),
        "addition_embed_type is None": (xl, unet(cross_attention_dim=40)),
        "not what the unet takes": (sd, {"vae": tiny_vae(latent_channels=8)}),
    }
    for i, (message, (folder, parts)) in enumerate(cases.items()):
        with pytest.raises(PriorError, match=message) as caught:
            loaded(replaced(folder, tmp_path / str(i), **parts))
        assert "\n" not in str(caught.value)


def test_every_family_knows_its_own(latent_folders, folders):
    kinds = {"sd": LATENT, "sdv": LATENT, "sdxl": SDXL, "sd3": FLOW, "packed": PIXEL, "placed": PIXEL, "if": PIXEL}
    assert {kind: family(folder) for kind, folder in {**latent_folders, **folders}.items()} == kinds


def test_a_compiled_unet_predicts_the_same(latent_folders, monkeypatch):
    """The option reaches torch.compile with its mode; what comes out of the compiled graph is what came out before."""
    rgb, modes, losses = image().detach(), [], []
    compile_ = torch.compile

    def without_a_compiler(module, mode):
        modes.append(mode)
        return compile_(module, backend="aot_eager")  # the same capture of the graph, no C++ compiler

    monkeypatch.setattr(torch, "compile", without_a_compiler)
    for mode in (None, "reduce-overhead"):
        losses.append(float(judged(loaded(latent_folders["sd"], compile=mode), rgb, 0).value))
    assert modes == ["reduce-overhead"] and losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_the_family_in_the_docs_is_one(latent_folders, folders, tmp_path, monkeypatch):
    """docs/guidance.md, "Adding a guidance": its module as it stands there, registered, judges and reaches the UNet."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "guidance.md").read_text(encoding="utf-8")
    (code,) = (code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "labelled.py" in code)
    assert len(code.splitlines()) < 80
    (tmp_path / "labelled.py").write_text(code)
    spec = importlib.util.spec_from_file_location(
        "dreamfusion_ngp.guidance.denoisers.labelled", tmp_path / "labelled.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(guidance_package, "FAMILIES", (module.LABELLED, *guidance_package.FAMILIES))

    folder = replaced(latent_folders["sd"], tmp_path / "model", unet=tiny_unet("sd", num_class_embeds=2))
    for name in ("text_encoder", "tokenizer"):
        shutil.rmtree(folder / name)
        shutil.copytree(folders["packed"] / name, folder / name)
    parts = json.loads((folders["packed"] / "model_index.json").read_text())
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "LabelNetPipeline", "text_encoder": parts["text_encoder"], "tokenizer": parts["tokenizer"]}
    (folder / "model_index.json").write_text(json.dumps(index))

    guidance, rgb = loaded(folder), image()
    assert (
        guidance.denoiser.family is module.LABELLED and guidance.config.scale == 30.0 and guidance.denoiser.texts.masked
    )
    assert guidance.denoiser.texts.embeddings["hidden"].mean(1).abs().max() < 1e-5
    first = judged(guidance, rgb, 0)
    assert first.gradient.abs().max() > 0
    monkeypatch.setattr(module, "LABEL", 0)
    assert float(judged(guidance, rgb, 0).value) != float(first.value), "the label reaches the UNet"
    with pytest.raises(PriorError, match="knows no labels"):
        loaded(replaced(folder, tmp_path / "other", unet=tiny_unet("sd")))


def test_latents_that_are_clipped_are_announced(latent_folders, folders, caplog):
    with caplog.at_level("INFO", "dreamfusion_ngp"):
        loaded(latent_folders["sd"])
        loaded(folders["placed"], clip_clean=True)
        assert not [line for line in caplog.messages if "clip_clean" in line]
        loaded(latent_folders["sd"], clip_clean=True)
    (line,) = (line for line in caplog.messages if "clip_clean" in line)
    assert "clips the latents" in line and "--set guidance.clip_clean=false" in line
