"""The latent prior: what its UNet starts from, a training of seconds, and its folder, which is Stable Diffusion's."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.tiny_runs import TINY_PRIOR

from dreamfusion_ngp.base.errors import PriorError, UsageError
from dreamfusion_ngp.cli import main
from dreamfusion_ngp.config.presets import toybox_256
from dreamfusion_ngp.guidance.denoisers.latent import LATENT
from dreamfusion_ngp.guidance.load import family, load_guidance
from dreamfusion_ngp.toybox.prior import latents
from dreamfusion_ngp.toybox.prior.latent_model import build_latent_prior, load_latent_prior
from dreamfusion_ngp.toybox.prior.latent_sampling import sample
from dreamfusion_ngp.toybox.prior.latent_start import start_from_pixels
from dreamfusion_ngp.toybox.prior.latent_training import Part, train_latent_prior
from dreamfusion_ngp.toybox.prior.latents import noise_loss
from dreamfusion_ngp.toybox.prior.loop import read_log
from dreamfusion_ngp.toybox.prior.loss import caption_ids
from dreamfusion_ngp.toybox.prior.model import embed_words, load_prior
from dreamfusion_ngp.toybox.prior.reconstruction import pictures_of_all

TINY = replace(TINY_PRIOR, images=4, batch=2, chunk=1, views_per_class=1, report_every=1)


def ids_of(prior, texts):
    return torch.tensor(caption_ids(prior.tokenizer, texts))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder that two steps of each part left."""
    out = tmp_path_factory.mktemp("run") / "prior"
    patch = pytest.MonkeyPatch()
    patch.setattr(latents, "START_PER_CLASS", 1)
    patch.setattr(latents, "SHADES", 1)
    train_latent_prior({"autoencoder": Part(TINY), "unet": Part(replace(TINY, sheet_steps=0))}, out)
    patch.undo()
    return out


def test_the_unet_starts_as_the_pixel_prior_and_says_the_noise():
    """Latents are 4 of the 12 packed numbers here: means of 8 x 8 pixels, of unit spread. From all but the last noise
    the clean ones are known better than from the noisy ones alone, with sigma / (alpha^2 + sigma^2)^(1/2) as error."""
    torch.manual_seed(0)
    pictures, _ = pictures_of_all(1, 3)
    z = torch.nn.functional.avg_pool2d(pictures, 8)
    z = torch.cat([z, z.mean(1, keepdim=True) + 0.3 * torch.randn(20, 1, 32, 32)], 1)
    z = (z - z.mean((0, 2, 3), keepdim=True)) / z.std((0, 2, 3), keepdim=True)
    latent = build_latent_prior(0)
    ids = ids_of(latent, ["a red mug", ""] * 10)
    start_from_pixels(latent, load_prior(), z, pictures, ids)
    abar, noise = latent.scheduler.alphas_cumprod, torch.randn_like(z)
    for t in (300, 600, 850):
        a = abar[t]
        with torch.no_grad():
            noisy = a.sqrt() * z + (1 - a).sqrt() * noise
            found = latent.unet(noisy, torch.tensor(t), embed_words(latent.text_encoder, ids)).sample
        clean = (noisy - (1 - a).sqrt() * found) / a.sqrt()
        assert (clean - z).square().mean().sqrt() < 0.9 * (1 - a).sqrt(), t


def test_the_loss_is_the_squared_error_of_v():
    """An error e of the noise is one of e / alpha in v."""
    prior = build_latent_prior(0)
    z, steps = torch.randn(8, 4, 32, 32), torch.arange(8) * 120
    ids, seen = ids_of(prior, ["a mug"] * 8), []

    def knowing(noisy, t, hidden):
        abar = prior.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
        seen.append((noisy - abar.sqrt() * z) / (1 - abar).sqrt())
        return type("", (), {"sample": seen[0] + 0.1})()

    class Fake:
        scheduler, text_encoder, unet = prior.scheduler, prior.text_encoder, staticmethod(knowing)

    loss = noise_loss(Fake, z, ids, steps)
    expected = (0.01 / prior.scheduler.alphas_cumprod[steps]).mean()
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-3)
    assert seen[0].std() == pytest.approx(1, abs=0.05)


def test_the_schedule_is_stable_diffusions():
    prior = build_latent_prior(0)
    abar = prior.scheduler.alphas_cumprod
    assert prior.scheduler.config.prediction_type == "epsilon" and prior.vae.config.scaling_factor == 1.0
    assert float(abar[-1]) == pytest.approx(0.0047, abs=1e-4) and float(abar[0]) == pytest.approx(0.99915, abs=1e-5)


def test_both_parts_are_trained_and_logged(trained):
    logs = json.loads((trained / "training.json").read_text())
    assert set(logs) == {"autoencoder", "unet"}
    assert all(logs[name]["images"] == 4 and len(logs[name]["loss"]) == 2 for name in logs)
    assert sorted(p.name for p in trained.parent.iterdir()) == ["prior"], "no temporary folders stay"


def test_the_folder_is_loaded_as_stable_diffusion_is(trained):
    assert family(trained) is LATENT
    config = toybox_256()
    config = replace(config, prompt="a red mug", guidance=replace(config.guidance, model=str(trained)))
    guidance = load_guidance(config, "cpu")
    assert guidance.denoiser.shape == (4, 32, 32) and guidance.denoiser.schedule.prediction == "epsilon"
    image = torch.rand(1, 64, 64, 3, requires_grad=True)
    guidance.denoiser.encode(image).sum().backward()
    assert image.grad.isfinite().all() and image.grad.abs().max() > 0


def test_diffusers_own_pipeline_draws_with_it(trained):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(trained, local_files_only=True, use_safetensors=True).to(
        "cpu", torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline("a red mug", num_inference_steps=2, output_type="np").images
    assert drawn.shape == (1, 256, 256, 3) and np.isfinite(drawn).all()


def test_what_is_resumed_goes_on_and_holds_the_encoder_once_the_unet_has_learnt(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(latents, "SHADES", 1)
    before = load_latent_prior(trained)
    train_latent_prior({"autoencoder": Part(TINY)}, tmp_path / "more", resume=trained)
    after = load_latent_prior(tmp_path / "more")
    assert (
        read_log(tmp_path / "more", "autoencoder")["images"] == 8 and read_log(tmp_path / "more", "unet")["images"] == 4
    )

    def weights(module):
        return torch.cat([p.detach().flatten() for p in module.parameters()])

    for name in ("encoder", "quant_conv"):
        assert torch.equal(weights(getattr(before.vae, name)), weights(getattr(after.vae, name))), name
    assert torch.equal(weights(before.unet), weights(after.unet))
    assert not torch.equal(weights(before.vae.decoder), weights(after.vae.decoder))
    train_latent_prior({"unet": Part(TINY)}, tmp_path / "unet", resume=tmp_path / "more")
    again = load_latent_prior(tmp_path / "unet")
    assert torch.equal(weights(again.vae), weights(after.vae)) and not torch.equal(
        weights(again.unet), weights(after.unet)
    )
    assert (weights(again.unet) - weights(after.unet)).abs().max() < 0.05, "it went on from where it was"


def test_samples_are_pictures_and_depend_on_seed_and_words(trained):
    prior = load_latent_prior(trained)
    one, same, other = (sample(prior, ["a red mug"], steps=2, seed=seed) for seed in (0, 0, 1))
    assert one.shape == (1, 256, 256, 3) and one.min() >= 0 and one.max() <= 1
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert not torch.equal(sample(prior, ["a blue mug"], steps=2, seed=0), one)


def test_what_cannot_be_trained_is_said_at_once(trained, tmp_path, capsys):
    with pytest.raises(UsageError, match="trained autoencoder"):
        train_latent_prior({"unet": Part(TINY)}, tmp_path / "out")
    with pytest.raises(PriorError, match="cannot be resumed from"):
        train_latent_prior({"unet": Part(TINY)}, tmp_path / "out", resume=tmp_path / "nothing")
    assert not any(tmp_path.iterdir())
    assert main(["train-prior", "--part", "unet", "-o", str(tmp_path / "out")]) != 0
    error = capsys.readouterr().err
    assert "--part" in error and error.count("\n") == 1
