"""Depth-conditioned models: what they are told, which fit, and the image-to-image pass, beside diffusers' own."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from support.changed_folders import edited
from support.tiny_latent import tiny_unet
from support.tiny_models import config as config_of
from support.tiny_models import views

from dreamfusion_ngp.base.errors import PriorError
from dreamfusion_ngp.config.schema import PaintConfig
from dreamfusion_ngp.guidance.denoisers.depth import as_channel
from dreamfusion_ngp.guidance.load import load_guidance
from dreamfusion_ngp.guidance.painter import check_painter, load_painter, repaint, source_of
from dreamfusion_ngp.guidance.sampling import image_to_image
from dreamfusion_ngp.hub.snapshots import weighted_parts

PAINT = PaintConfig(steps=4, strength=0.75, scale=3.0)


def painted(folder, control, paint=PAINT, **guidance):
    return replace(config_of(folder, control=str(control), **guidance), paint=paint)


def pictures(n=1, height=32, width=32):
    torch.manual_seed(4)
    return torch.rand(n, height, width, 3), torch.rand(n, height, width)


@pytest.mark.parametrize("kind", ["sd", "sdxl", "channel"])
def test_a_pass_hears_the_depth_and_a_seed_makes_it_again(kind, latent_folders, depth_folders):
    """Pictures of any shape; another depth makes another picture."""
    base = latent_folders.get(kind, latent_folders["sd"])
    painter = load_painter(painted(base, depth_folders[kind]), "cpu")
    images, depth = pictures(height=32, width=48)
    first, again, other = (repaint(painter, images, d, PAINT, 7) for d in (depth, depth, 1 - depth))
    assert first.shape == images.shape and float(first.min()) >= 0 and float(first.max()) <= 1
    assert torch.equal(first, again) and (first - other).abs().max() > 1e-3
    assert (first - repaint(painter, images, depth, PAINT, 8)).abs().max() > 1e-3


def test_a_new_controlnet_changes_nothing(latent_folders, tmp_path):
    """Its zero convolutions say nothing: the prediction is that of the base model to the bit."""
    from diffusers import ControlNetModel

    ControlNetModel.from_unet(tiny_unet("sd"), conditioning_embedding_out_channels=(4, 8)).save_pretrained(tmp_path)
    painter = load_painter(painted(latent_folders["sd"], tmp_path), "cpu")
    alone = load_guidance(replace(config_of(latent_folders["sd"], view_words="none")), "cpu").denoiser
    z, t = torch.randn(3, 4, 8, 8), np.array([10, 500, 900])
    painter.depth_input.picture = torch.rand(3, 16, 16)
    mine, theirs = painter.denoiser.predict(z, t, views()), alone.predict(z, t, views())
    assert torch.equal(mine.cond, theirs.cond) and torch.equal(mine.uncond, theirs.uncond)


def test_its_prediction_is_that_of_diffusers_modules(latent_folders, depth_folders):
    """controlnet(...), then unet(...) with its residuals, in one row at a time."""
    from diffusers import ControlNetModel, UNet2DConditionModel

    painter = load_painter(painted(latent_folders["sd"], depth_folders["sd"]), "cpu")
    z, t, depth = torch.randn(3, 4, 8, 8), np.array([10, 500, 900]), torch.rand(3, 16, 16)
    painter.depth_input.picture = depth
    found = painter.denoiser.predict(z, t, views())
    control = ControlNetModel.from_pretrained(depth_folders["sd"])
    unet = UNet2DConditionModel.from_pretrained(latent_folders["sd"] / "unet")
    texts = painter.denoiser.texts
    hidden = texts.embeddings["hidden"][texts.rows[texts.prompt]].expand(3, -1, -1)
    with torch.no_grad():
        cond = depth[:, None].expand(-1, 3, -1, -1)
        down, mid = control(z, torch.tensor(t), hidden, controlnet_cond=cond, return_dict=False)
        said = dict(down_block_additional_residuals=down, mid_block_additional_residual=mid)
        wanted = unet(z, torch.tensor(t), hidden, **said).sample
    torch.testing.assert_close(found.cond, wanted, atol=2e-2, rtol=2e-2)  # bfloat16 where that is quick
    assert (wanted - unet(z, torch.tensor(t), hidden).sample).abs().max() > 0.1


def spied(painter, depth):
    """(positional, named, answer) of the UNet's one call in a prediction for three views of this depth."""
    calls = []
    painter.denoiser.network.register_forward_hook(lambda _, *call: calls.append(call), with_kwargs=True)
    painter.depth_input.picture = depth
    painter.denoiser.predict(torch.randn(3, 4, 8, 8), np.array([10, 500, 900]), views())
    (call,) = calls
    return call


@pytest.mark.parametrize("kind", ["sdv", "sdxl"])
def test_every_base_model_gets_the_residuals_of_diffusers_module(kind, latent_folders, depth_folders):
    """Stable Diffusion 2, which predicts v, and XL, whose ControlNet is told of sizes and pooled texts as well."""
    from diffusers import ControlNetModel

    folder = depth_folders["sdxl" if kind == "sdxl" else "sd"]
    depth = torch.rand(3, 16, 16)
    (z, steps, hidden), named, _ = spied(load_painter(painted(latent_folders[kind], folder), "cpu"), depth)
    assert len(z) == 6 and ("added_cond_kwargs" in named) == (kind == "sdxl"), "both branches see the depth"
    shown = depth.repeat(2, 1, 1)[:, None].expand(-1, 3, -1, -1)
    added = {k: v.float() for k, v in named.get("added_cond_kwargs", {}).items()}
    with torch.no_grad():
        control = ControlNetModel.from_pretrained(folder)
        down, middle = control(
            z.float(), steps, hidden.float(), controlnet_cond=shown, added_cond_kwargs=added, return_dict=False
        )
    found = (*named["down_block_additional_residuals"], named["mid_block_additional_residual"])
    assert len(found) == len(down) + 1 and float(middle.abs().max()) > 0.1
    for mine, theirs in zip(found, (*down, middle), strict=True):
        torch.testing.assert_close(mine.float(), theirs, atol=5e-2, rtol=5e-2)  # bfloat16 where that is quick


def test_the_unet_gets_the_depth_as_its_fifth_channel(latent_folders, depth_folders):
    depth = torch.rand(3, 16, 16)
    (z, *_), _, _ = spied(load_painter(painted(latent_folders["sd"], depth_folders["channel"]), "cpu"), depth)
    small = torch.nn.functional.interpolate(depth[:, None], size=(8, 8), mode="bicubic", align_corners=False)
    assert z.shape == (6, 5, 8, 8)
    torch.testing.assert_close(z[:, 4:].float(), as_channel(small).repeat(2, 1, 1, 1), atol=1e-2, rtol=1e-2)


def test_the_fifth_channel_is_scaled_as_the_pipeline_scales_it():
    """StableDiffusionDepth2ImgPipeline.prepare_depth_map: bicubic, then from the least to the most."""
    from diffusers import StableDiffusionDepth2ImgPipeline as Pipeline

    depth = torch.rand(2, 32, 48)
    image = Image.new("RGB", (48, 32))
    theirs = Pipeline.prepare_depth_map(
        SimpleNamespace(vae_scale_factor=2), image, depth[:1].clone(), 1, False, torch.float32, torch.device("cpu")
    )
    small = torch.nn.functional.interpolate(depth[:1, None], size=(16, 24), mode="bicubic", align_corners=False)
    torch.testing.assert_close(as_channel(small), theirs, atol=1e-5, rtol=1e-5)
    flat = as_channel(torch.full((1, 1, 4, 4), 0.3))
    assert (flat == -1).all(), "constant depth is no NaN"


def test_strength_is_the_share_of_the_steps(latent_folders, depth_folders):
    """None leaves the picture as it is; all of it forgets most of it; diffusers counts int(steps * strength)."""
    painter = load_painter(painted(latent_folders["sd"], depth_folders["sd"]), "cpu")
    calls, predict = [], painter.denoiser.predict
    painter.denoiser.predict = lambda z, t, views: calls.append(int(t[0])) or predict(z, t, views)
    images, depth = pictures()
    for strength, made in ((0.0, 0), (0.24, 0), (0.5, 2), (0.8, 3), (1.0, 4)):
        calls.clear()
        repaint(painter, images, depth, replace(PAINT, strength=strength), 0)
        assert len(calls) == made and calls == sorted(calls, reverse=True)
    assert calls[0] == round(0.99 * 999)


def test_the_scale_is_the_controlnets_else_the_pipelines_but_no_more_than_others_have(
    latent_folders, depth_folders, tmp_path
):
    """Of the family it is 101, which no picture bears."""
    assert load_painter(painted(latent_folders["sd"], depth_folders["sd"]), "cpu").scale == 7.5
    folder = shutil.copytree(depth_folders["sd"], tmp_path / "control")
    (folder / "dreamfusion_ngp.json").write_text('{"guidance_scale": 2.5}')
    assert load_painter(painted(latent_folders["sd"], folder), "cpu").scale == 2.5


def test_what_is_known_stays(latent_folders, depth_folders):
    """Latents where all that they show is known are the encoder's to the bit, the others change."""
    painter = load_painter(painted(latent_folders["sd"], depth_folders["sd"]), "cpu")
    x, noise = torch.randn(2, 1, 4, 8, 8)
    known = torch.zeros(1, 1, 8, 8)
    known[..., :4] = 1
    settings = replace(painter.denoiser.config, scale=2.0)
    one = replace(views(), cameras=views().cameras[:1], shading=views().shading[:1], modes=views().modes[:1])
    found = image_to_image(painter.denoiser, x, noise, one, settings, 4, 0.75, known)
    assert torch.equal(found[..., :4], x[..., :4]) and (found[..., 4:] - x[..., 4:]).abs().max() > 1e-2


def test_the_depth_estimator_is_neither_fetched_nor_loaded(depth_folders):
    index = json.loads((depth_folders["channel"] / "model_index.json").read_text())
    assert set(weighted_parts(index)) == {"unet", "vae", "text_encoder"}
    assert not (depth_folders["channel"] / "depth_estimator").exists()


WRONG = {
    "of another base": ("sdxl", {}, "another model .*cross_attention_dim is 40, here 16"),
    "not of colours": ("sd", {"conditioning_channels": 1}, "1 channels, not 3"),
    "of another class": ("sd", {"_class_name": "T2IAdapter"}, "T2IAdapter, not a ControlNetModel"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_controlnet_that_does_not_fit_is_one_line(case, latent_folders, depth_folders, tmp_path):
    kind, changes, message = WRONG[case]
    folder = shutil.copytree(depth_folders[kind], tmp_path / "control")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(PriorError, match=message) as error:
        check_painter(painted(latent_folders["sd"], folder))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes", [{"cross_attention_dim": [16, 16], "layers_per_block": [1, 1]}, {"sample_size": [8, 16]}]
)
def test_what_can_be_read_either_way_fits(changes, latent_folders, depth_folders, tmp_path):
    """A base with numbers by block, or an oblong one with the resolution of the run."""
    base = shutil.copytree(latent_folders["sd"], tmp_path / "base")
    edited(base / "unet" / "config.json", **changes)
    run = painted(base, depth_folders["sd"], resolution=32)
    check_painter(run)
    assert load_painter(run, "cpu").denoiser.ends.vae is not None


def test_settings_and_channels_are_checked_before_anything_is_loaded(latent_folders, depth_folders, tmp_path):
    control = shutil.copytree(depth_folders["sd"], tmp_path / "control")
    (control / "dreamfusion_ngp.json").write_text('{"scale": 3}')
    with pytest.raises(PriorError, match="there is no setting 'scale'"):
        check_painter(painted(latent_folders["sd"], control))
    for channels, message in ((None, "maps None channels to 4"), ([5], r"maps \[5\] channels to 4")):
        folder = shutil.copytree(depth_folders["channel"], tmp_path / f"depth {channels}")
        edited(folder / "unet" / "config.json", in_channels=channels)
        with pytest.raises(PriorError, match=message):
            check_painter(painted(latent_folders["sd"], folder))
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "in_channels"}))
    with pytest.raises(PriorError, match="maps 4 channels to 4"):
        check_painter(painted(latent_folders["sd"], folder))


def test_pickles_and_missing_weights_are_refused(latent_folders, depth_folders, tmp_path):
    folder = shutil.copytree(depth_folders["sd"], tmp_path / "control")
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / "diffusion_pytorch_model.bin")
    with pytest.raises(PriorError, match="safetensors"):
        check_painter(painted(latent_folders["sd"], folder))


def test_models_without_depth_are_one_line(latent_folders, folders, depth_folders):
    with pytest.raises(PriorError, match="no pipeline of depth to image"):
        check_painter(painted(latent_folders["sd"], latent_folders["sd"]))
    with pytest.raises(PriorError, match="--depth-control"):
        check_painter(painted(latent_folders["sd"], ""))
    for base in (latent_folders["sd3"], folders["packed"]):
        with pytest.raises(PriorError, match="cannot be painted with"):
            check_painter(painted(base, depth_folders["sd"]))


def test_the_embedded_priors_have_their_own(tmp_path, monkeypatch, depth_folders):
    from dreamfusion_ngp.guidance import painter

    monkeypatch.setattr(painter, "PRIORS", tmp_path)
    with pytest.raises(PriorError, match="train-prior --kind depth"):
        source_of(painted("toybox", ""))
    (tmp_path / "toybox-depth").mkdir()
    assert source_of(painted("toybox", "")).control == tmp_path / "toybox-depth"
    assert source_of(painted("toybox", "")).folder == tmp_path / "toybox-256"
    assert source_of(painted("toybox", depth_folders["sd"])).control == depth_folders["sd"]
