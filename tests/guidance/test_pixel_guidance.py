"""Guidance by diffusers folders: two tiny random ones, like the embedded prior and like DeepFloyd IF."""

import socket

import numpy as np
import pytest
import torch
from support.tiny_models import config, judged, recorded, tiny_tokenizer, views

from dreamfusion_ngp.base.errors import UsageError
from dreamfusion_ngp.base.rng import Stream, generator
from dreamfusion_ngp.config.schema import RunConfig
from dreamfusion_ngp.guidance.classifier_free import classifier_free_guidance, clip_clean
from dreamfusion_ngp.guidance.denoisers import diffusion as unet_module
from dreamfusion_ngp.guidance.embedded import PRIORS
from dreamfusion_ngp.guidance.load import load_guidance, model_folder
from dreamfusion_ngp.guidance.packing import position_maps
from dreamfusion_ngp.guidance.resize import resize, resize_matrix


def image(size=16) -> torch.Tensor:
    return torch.rand(3, size, size, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()


def test_another_vae_is_refused(folders):
    with pytest.raises(UsageError, match="guidance.vae: .* works on pixels"):
        load_guidance(config(folders["packed"], vae="some/tiny-autoencoder"), "cpu")


@pytest.mark.parametrize("kind, size", [("packed", 16), ("placed", 16), ("if", 8)])
def test_the_gradient_on_rgb_is_exact_and_reaches_nothing_else(folders, kind, size, monkeypatch):
    guidance = load_guidance(config(folders[kind]), "cpu")
    calls = recorded(guidance, monkeypatch)
    rgb = image(size)
    out = judged(guidance, rgb, 4)
    rgb.grad = out.gradient
    ((z, _, alpha, sigma, noise_hat),) = calls
    draws = generator(3, 4, Stream.GUIDANCE)
    draws.random((2, 3))
    noise = torch.from_numpy(draws.standard_normal((3, 3, size, size), dtype=np.float32))
    torch.testing.assert_close(z, alpha * (rgb.detach().permute(0, 3, 1, 2) * 2 - 1) + sigma * noise)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(3, 1, 1, 1))
    expected = sigma.double() ** 2 * (noise_hat.double() - noise.double()) / (3 * size * size) / 3
    torch.testing.assert_close(rgb.grad.double(), 2 * expected.permute(0, 2, 3, 1), rtol=1e-5, atol=1e-12)
    assert all(p.grad is None and not p.requires_grad for p in guidance.denoiser.network.parameters())
    assert not out.gradient.requires_grad and not out.value.requires_grad and guidance.tensors() == {}


@pytest.mark.parametrize("kind", ["packed", "placed", "if"])
def test_noise_is_what_the_models_own_parts_predict(folders, kind, monkeypatch):
    """Against the parts loaded and called by hand, one view and one branch at a time; in float32 exactly, in bfloat16
    closely."""
    from diffusers import UNet2DConditionModel
    from transformers import T5EncoderModel

    folder, size = folders[kind], 8 if kind == "if" else 16
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    encoder, tokenizer = T5EncoderModel.from_pretrained(folder / "text_encoder"), tiny_tokenizer(kind)
    noise_hats = []
    for bfloat16 in (True, False):
        monkeypatch.setattr(unet_module, "bfloat16_is_quick", lambda _, b=bfloat16: b)
        guidance = load_guidance(config(folder, scale=3.0), "cpu")
        calls = recorded(guidance, monkeypatch)
        judged(guidance, image(size), 0)
        ((z, t, alpha, sigma, noise_hat),) = calls
        noise_hats.append(noise_hat)
    rounded, exact = noise_hats

    length = 77 if kind == "if" else tokenizer.model_max_length  # 77 is IF's, whatever its tokenizer says

    def predict(b, prompt):
        tokens = tokenizer([prompt], padding="max_length", max_length=length, return_tensors="pt")
        hidden = encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0]
        if kind == "if":
            return unet(z[b : b + 1], int(t[b]), hidden).sample[:, :3]
        x = torch.nn.functional.pixel_unshuffle(z[b : b + 1], 2)
        if kind == "placed":
            x = torch.cat([x, position_maps(8)], 1)
        return torch.nn.functional.pixel_shuffle(
            unet(x, int(t[b]), hidden, encoder_attention_mask=tokens.attention_mask).sample, 2
        )

    with torch.no_grad():
        for b, prompt in enumerate(("a red mug, front view", "a red mug, side view", "a red mug, back view")):
            output = classifier_free_guidance(predict(b, ""), predict(b, prompt), 3.0)[0]
            expected = output if kind == "if" else alpha[b] * output + sigma[b] * z[b]
            torch.testing.assert_close(exact[b], expected, rtol=1e-4, atol=2e-5)
            assert (rounded[b] - expected).square().mean() < 0.05**2 * expected.square().mean()


def test_clipping_is_that_of_the_free_function(folders, monkeypatch):
    noise_hats = []
    for clip in (False, True):
        guidance = load_guidance(config(folders["packed"], scale=40.0, clip_clean=clip), "cpu")
        calls = recorded(guidance, monkeypatch)
        judged(guidance, image(), 0)
        ((z, _, alpha, sigma, noise_hat),) = calls
        noise_hats.append(noise_hat)
    plain, clipped = noise_hats
    torch.testing.assert_close(clipped, clip_clean(plain, z, alpha, sigma))
    assert (clipped - plain).abs().max() > 0.1


def words(guidance, seen=None) -> tuple[list[str], list[str]]:
    """The conditional and the unconditional text of every view, which are one text each."""
    said = guidance.denoiser.texts.branches(seen or views())
    assert (said.share == 1).all() and (said.texts[..., 0] == said.texts[..., 1]).all() and said.weights.numel() == 0
    return said.texts[1, :, 0].tolist(), said.texts[0, :, 0].tolist()


def test_each_view_gets_its_words(folders):
    plain = load_guidance(config(folders["packed"]), "cpu")
    assert words(plain) == (["a red mug, front view", "a red mug, side view", "a red mug, back view"], ["", "", ""])
    assert words(plain, views(elevation=80.0))[0] == ["a red mug, overhead view"] * 3
    full = load_guidance(config(folders["packed"], view_words="fine", mode_words=True, keep_view=True), "cpu")
    conditional, unconditional = words(full)
    assert conditional == [
        "a red mug, front view, raised angle, flat colors",
        "a red mug, right side view, raised angle, lit",
        "a red mug, back view, raised angle, clay",
    ]
    assert unconditional == ["front view, raised angle", "right side view, raised angle", "back view, raised angle"]
    assert set(conditional + unconditional) <= full.denoiser.texts.rows.keys()
    none = load_guidance(config(folders["packed"], view_words="none"), "cpu")
    assert words(none) == (["a red mug"] * 3, [""] * 3) and len(none.denoiser.texts.rows) == 2


def test_words_change_the_numbers(folders):
    guidance, rgb = load_guidance(config(folders["packed"]), "cpu"), image().detach()
    front = judged(guidance, rgb, 0, views((0.0,) * 3)).value
    assert float(front) != float(judged(guidance, rgb, 0, views((180.0,) * 3)).value)


def test_numbers_are_those_of_seed_and_step(folders):
    rgb = image().detach()
    one, same, other = (load_guidance(config(folders["packed"], seed=s), "cpu") for s in (3, 3, 4))
    torch.manual_seed(11)
    first = [float(judged(one, rgb, step).value) for step in (0, 1)]
    torch.manual_seed(12)
    assert [float(judged(same, rgb, step).value) for step in (0, 1)] == first
    assert len({*first, float(judged(other, rgb, 0).value)}) == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_draws_and_predicts_what_the_cpu_does(folders, monkeypatch):
    results = {}
    for device in ("cpu", "cuda"):
        guidance = load_guidance(config(folders["packed"]), device)
        calls = recorded(guidance, monkeypatch)
        judged(guidance, image().detach().to(device), 0)
        results[device] = [torch.as_tensor(v).cpu() for v in calls[0]]
    for cpu, cuda in zip(results["cpu"][:-1], results["cuda"][:-1], strict=True):
        torch.testing.assert_close(cpu, cuda, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(results["cpu"][-1], results["cuda"][-1], rtol=0, atol=0.2)


def test_nothing_touches_the_network(folders, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load_guidance(config(folders["if"]), "cpu")


def test_scale_comes_from_the_config_then_the_folder_then_the_default(copy):
    assert load_guidance(config(copy), "cpu").config.scale == 21.0  # threestudio's omega of 20
    (copy / "dreamfusion_ngp.json").write_text('{"guidance_scale": 7}')
    assert load_guidance(config(copy), "cpu").config.scale == 7.0
    assert load_guidance(config(copy, scale=0.0), "cpu").config.scale == 0.0


def test_padding_is_hidden_from_the_unet_unless_it_is_an_if_or_the_folder_says_so(folders, copy):
    assert (load_guidance(config(folders["packed"]), "cpu").denoiser.texts.embeddings["mask"] == 0).any()
    assert (load_guidance(config(folders["if"]), "cpu").denoiser.texts.embeddings["mask"] == 1).all()
    (copy / "dreamfusion_ngp.json").write_text('{"encoder_attention_mask": false}')
    assert (load_guidance(config(copy), "cpu").denoiser.texts.embeddings["mask"] == 1).all()


def test_toybox_is_the_folder_in_the_package():
    assert model_folder(RunConfig()) == PRIORS / "toybox-64" and PRIORS.parts[-2:] == ("toybox", "priors")


def test_renders_that_cannot_be_judged_are_refused(folders):
    guidance = load_guidance(config(folders["packed"]), "cpu")
    for bad in (torch.rand(2, 16, 16, 3), torch.rand(3, 16, 8, 3), torch.rand(3, 3, 16, 16), torch.rand(16, 16, 3)):
        with pytest.raises(ValueError, match="image: must be"):
            judged(guidance, bad, 0)
    with pytest.raises(ValueError, match="image: must be on cpu"):
        judged(guidance, torch.empty(3, 16, 16, 3, device="meta"), 0)


@pytest.mark.parametrize("n, m", [(8, 16), (16, 8), (5, 16), (16, 5), (1, 4), (4, 1), (7, 8)])
def test_resize_is_a_weighted_mean(n, m):
    matrix = resize_matrix(n, m)
    assert matrix.shape == (m, n) and (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(1), 1)
    x = torch.rand(2, 3, n, n, dtype=torch.float64)
    if m > n:
        wanted = torch.nn.functional.interpolate(x, size=m, mode="bilinear", align_corners=False)
        torch.testing.assert_close(resize(x, m), wanted)
    elif n % m == 0:
        torch.testing.assert_close(resize(x, m), torch.nn.functional.avg_pool2d(x, n // m))
    assert float(resize(x, m).mean()) == pytest.approx(float(x.mean()), rel=0.2)


def test_a_render_of_another_size_gets_its_gradient_through_the_resize(folders):
    guidance, rgb = load_guidance(config(folders["packed"]), "cpu"), image(8)
    rgb.grad = judged(guidance, rgb, 0).gradient
    assert rgb.grad.shape == rgb.shape and rgb.grad.abs().max() > 0
    assert resize(rgb.permute(0, 3, 1, 2), 8) is not None
