"""What a model folder promises and its networks do not keep: one line that says what does not fit what, before a run
is made of it. What can be read either way is read as it was meant."""

import json

import numpy as np
import pytest
import torch
from support.changed_folders import added_token, clip, copied, edit, edited, replace, t5, unet, vae
from support.tiny_latent import tiny_vae
from support.tiny_models import config, judged

from dreamfusion_ngp import cli
from dreamfusion_ngp.base.errors import PriorError
from dreamfusion_ngp.guidance.load import check_guidance, load_guidance
from dreamfusion_ngp.ops.hashgrid import GridLayout
from dreamfusion_ngp.ops.march import march
from dreamfusion_ngp.runs import generate

PROMPT = "a red mug"


SCHEDULER, UNET, VAE = "scheduler/scheduler_config.json", "unet/config.json", "vae/config.json"
TOKENIZER = "tokenizer/tokenizer_config.json"
# name: (family, change, prompt, negative, what the line says)
BROKEN = {
    "token without embedding": ("sd", added_token(), "a <cat> mug", "", "'<cat>' the number .* for the numbers 0 to"),
    "the same in the negative": ("sd", added_token(), PROMPT, "<cat>", "'<cat>' the number"),
    "the same in SDXL's second": ("sdxl", added_token("tokenizer_2"), "a <cat> mug", "", "tokenizer_2 gives '<cat>'"),
    "the same in SD3's first": ("sd3", added_token(), "a <cat> mug", "", "tokenizer gives '<cat>'"),
    "few embeddings": ("sd", replace(text_encoder=clip(tokens=8)), PROMPT, "", "the numbers 0 to 7 only"),
    "few embeddings of a T5": (
        "sd3",
        replace(text_encoder_3=t5(tokens=4)),
        PROMPT,
        "",
        "tokenizer_3 gives .* 0 to 3 only",
    ),
    "no padding token": ("sd", edit(TOKENIZER, pad_token=None), PROMPT, "", "tokenizer"),
    "no vocabulary": (
        "sd",
        lambda f: (f / "tokenizer/tokenizer.json").unlink(),
        PROMPT,
        "",
        "a tokenizer without words",
    ),
    "few positions": (
        "sd",
        edit("text_encoder/config.json", max_position_embeddings=8),
        PROMPT,
        "",
        "1 weights are missing or have the wrong shape, the first is .*position_embedding.weight",
    ),
    "a list of lengths": ("sd", edit(TOKENIZER, model_max_length=[16]), PROMPT, "", "is .16., not a number of"),
    "length 0": ("sd", edit(TOKENIZER, model_max_length=0), PROMPT, "", "model_max_length is 0, not a number of"),
    "text width of SDXL": ("sdxl", replace(text_encoder=clip(24)), PROMPT, "", "width 40, the text encoder gives 48"),
    "text width of a T5": ("sd3", replace(text_encoder_3=t5(width=32)), PROMPT, "", "width 48, .* the T5 32"),
    "pooled width of SDXL": (
        "sdxl",
        replace(text_encoder_2=clip(24, projection=True, projection_dim=20)),
        PROMPT,
        "",
        "takes 48 added numbers, SDXL's base model 44",
    ),
    "no projection in SDXL": (
        "sdxl",
        edit("model_index.json", text_encoder_2=["transformers", "CLIPTextModel"]),
        PROMPT,
        "",
        "has no projection",
    ),
    "one width of two": ("sd", replace(unet=unet(cross_attention_dim=(16, 24))), PROMPT, "", "width 24, the text"),
    "inpainting": ("sd", replace(unet=unet(in_channels=9)), PROMPT, "", "9 channels to 4: inpainting"),
    "variances": ("sd", replace(unet=unet(out_channels=8)), PROMPT, "", "maps 4 channels to 8: not text to image"),
    "latents": ("sd", replace(unet=unet(in_channels=8, out_channels=8)), PROMPT, "", "have 4 .*takes .8 channels"),
    "labels": ("sd", replace(unet=unet(num_class_embeds=4)), PROMPT, "", "other than text .num_class_embeds 4"),
    "labels of SDXL": ("sdxl", replace(unet=unet("sdxl", num_class_embeds=4)), PROMPT, "", "num_class_embeds 4"),
    "class embedding": (
        "sdxl",
        replace(unet=unet("sdxl", class_embed_type="timestep")),
        PROMPT,
        "",
        "class_embed_type",
    ),
    "SDXL's conditions in SD": ("sd", replace(unet=unet("sdxl", cross_attention_dim=16)), PROMPT, "", "text_time"),
    "pictures as conditions": (
        "sd",
        replace(unet=unet(encoder_hid_dim=16, encoder_hid_dim_type="image_proj")),
        PROMPT,
        "",
        "encoder_hid_dim_type 'image_proj'",
    ),
    "grey VAE": ("sd", replace(vae=lambda: vae(in_channels=1)), PROMPT, "", "pictures of 1 channels, not of 3"),
    "VAE without scale": ("sd", edit(VAE, scaling_factor=None), PROMPT, "", "scaling_factor is None"),
    "VAE of scale 0": ("sd", edit(VAE, scaling_factor=0), PROMPT, "", "scaling_factor is 0"),
    "VAE with a mean": ("sd", edit(VAE, latents_mean=[0.0] * 4), PROMPT, "", "a mean and a spread for each channel"),
    "size 0": ("sd", edit(UNET, sample_size=0), PROMPT, "", "sample_size must be a number or a pair"),
    "size in words": ("sd", edit(UNET, sample_size="8"), PROMPT, "", "sample_size must be"),
    "three sizes": ("sd", edit(UNET, sample_size=[8, 8, 8]), PROMPT, "", "sample_size must be"),
    "oblong": ("sd", edit(UNET, sample_size=[8, 16]), PROMPT, "", "8 x 16, not square"),
    "huge size": ("sd", edit(UNET, sample_size=10**9), PROMPT, "", "pixels a side; at most 4096"),
    "SD3 without positions": ("sd3", edit("transformer/config.json", sample_size=64), PROMPT, "", "16 x 16 positions"),
    "no steps": ("sd", edit(SCHEDULER, num_train_timesteps=0), PROMPT, "", "num_train_timesteps must be"),
    "a billion steps": ("sd3", edit(SCHEDULER, num_train_timesteps=10**9), PROMPT, "", "num_train_timesteps must be"),
    "a list of steps": ("sd", edit(SCHEDULER, num_train_timesteps=[1000]), PROMPT, "", "num_train_timesteps must be"),
    "few betas": ("sd", edit(SCHEDULER, trained_betas=[0.1] * 8), PROMPT, "", "trained_betas must be .* got 8"),
    "one beta": ("sd", edit(SCHEDULER, trained_betas=0.1), PROMPT, "", "trained_betas must be a list"),
    "betas in words": ("sd", edit(SCHEDULER, trained_betas=["x"] * 1000), PROMPT, "", "scheduler"),
    "betas above 1": ("sd", edit(SCHEDULER, trained_betas=[1.5] * 1000), PROMPT, "", "make no noise schedule"),
    "betas of 0": ("sd", edit(SCHEDULER, trained_betas=[0.0] * 1000), PROMPT, "", "make no noise schedule"),
    "a shift of 0": ("sd3", edit(SCHEDULER, shift=0), PROMPT, "", "make no noise schedule"),
    "betas in a list": ("sd", edit(SCHEDULER, beta_start=[0.1]), PROMPT, "", "scheduler"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_does_not_fit_is_one_line(name, latent_folders, tmp_path):
    kind, change, prompt, negative, message = BROKEN[name]
    folder = copied(latent_folders[kind], tmp_path, change)
    with pytest.raises(PriorError, match=message) as caught:
        load_guidance(config(folder, prompt, negative=negative, t_shifted=name == "a shift of 0"), "cpu")
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_it_is_found_before_the_run_folder_and_settings_are_not_blamed(latent_folders, tmp_path, capsys):
    folder = copied(latent_folders["sd"], tmp_path, added_token())
    out = tmp_path / "outputs"
    settings = ["--set", "views=2", "--steps", "1", "--device", "cpu", "-o", str(out)]
    assert cli.main(["generate", "a <cat> mug", "--guidance", str(folder), *settings]) == 2
    error = capsys.readouterr().err
    assert "<cat>" in error and "--set" not in error and error.count("\n") == 1 and not out.exists()


def tiny_march(step: float):
    ray, bits = torch.ones(1, 3), torch.full((8**3 // 8,), 255, dtype=torch.uint8)
    size = dict(resolution=8, bound=1.0, near=0.0, budget=8, seed=-1, stream=0)
    return march(ray, ray, bits, step=step, **size)


def test_settings_are_blamed_only_for_what_their_check_raises(monkeypatch):
    args = cli.build_parser().parse_args(["generate", "x", "--set", "views=2"])
    for act, blamed in (
        (lambda: GridLayout(levels=0), "--set: GridLayout: levels must be"),
        (lambda: tiny_march(step=1e-12), "--set: march: step is too small"),
        (lambda: int("march: step is too small"), None),
    ):
        with pytest.raises(ValueError) as caught:
            act()
        line = cli.foreseen(caught.value, args)
        assert line.startswith(blamed) if blamed else line is None


def test_a_setting_that_an_op_refuses_is_one_line(tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        GridLayout(levels=0)

    monkeypatch.setattr(generate, "generate", refuse)
    assert cli.main(["generate", PROMPT, "--set", "render.step=0.01"]) == 2
    assert capsys.readouterr().err.startswith("error: --set: GridLayout: levels")


@pytest.mark.parametrize("size", [[8, 8], (8, 8), None], ids=str)
@pytest.mark.parametrize("kind", ["sd", "sdxl"])
@pytest.mark.parametrize("resolution", [0, 32])
def test_a_sample_size_may_be_a_pair_or_null(kind, size, resolution, latent_folders, tmp_path):
    folder = copied(latent_folders[kind], tmp_path, edit(UNET, sample_size=size))
    guidance = load_guidance(config(folder, resolution=resolution), "cpu")
    assert guidance.denoiser.shape == (4, (resolution or 16) // 2, (resolution or 16) // 2)
    if kind == "sdxl":
        assert guidance.denoiser.encode.native_resolution == 16


@pytest.mark.parametrize("size, resolution, pixels", [([8, 8], 0, 16), (None, 0, 64), (None, 32, 32), ([4, 8], 24, 24)])
def test_a_model_of_pixels_may_say_its_size_so_too(size, resolution, pixels, folders, tmp_path):
    folder = copied(folders["packed"], tmp_path, edit(UNET, sample_size=size))
    guidance = load_guidance(config(folder, resolution=resolution), "cpu")
    assert guidance.denoiser.shape == (3, pixels, pixels)
    rgb = torch.rand(3, 16, 16, 3, requires_grad=True)
    rgb.grad = judged(guidance, rgb, 0).gradient
    assert rgb.grad.abs().max() > 0


def test_an_oblong_size_gives_way_to_the_resolution_asked_for(latent_folders, tmp_path):
    folder = copied(latent_folders["sd"], tmp_path, edit(UNET, sample_size=[8, 16]))
    assert load_guidance(config(folder, resolution=32), "cpu").denoiser.shape == (4, 16, 16)


@pytest.mark.parametrize("widths", [(16, 16), (99, 16)])
def test_text_widths_may_be_a_list_by_block(widths, latent_folders, tmp_path):
    """The first block of the tiny UNet has no attention: its width does not matter."""
    folder = copied(latent_folders["sd"], tmp_path, replace(unet=unet(cross_attention_dim=widths)))
    rgb = torch.rand(3, 12, 12, 3, requires_grad=True)
    rgb.grad = judged(load_guidance(config(folder), "cpu"), rgb, 0).gradient
    assert rgb.grad.abs().max() > 0


def test_trained_betas_are_the_schedule(latent_folders, tmp_path):
    betas = np.linspace(1e-4, 0.02, 10)
    folder = copied(
        latent_folders["sd"], tmp_path, edit(SCHEDULER, trained_betas=betas.tolist(), num_train_timesteps=10)
    )
    np.testing.assert_allclose(
        load_guidance(config(folder), "cpu").denoiser.schedule.abar, np.cumprod(1 - betas), rtol=1e-6
    )


def test_a_schedule_that_ends_in_pure_noise_gives_numbers(latent_folders, tmp_path):
    folder = copied(latent_folders["sdv"], tmp_path, edit(SCHEDULER, rescale_betas_zero_snr=True))
    ends = config(folder, t_range=(1.0, 1.0), t_max_end=1.0, weighting="clean", clip_clean=True)
    guidance = load_guidance(ends, "cpu")
    rgb = torch.rand(3, 12, 12, 3, requires_grad=True)
    rgb.grad = judged(guidance, rgb, 0).gradient
    assert rgb.grad.isfinite().all()


def test_weights_that_are_not_finite_are_found_before_the_run(latent_folders, tmp_path):
    from safetensors.torch import load_file, save_file

    for name, tensor, bad in (
        ("unet", "", "nan"),
        ("vae", "", "nan"),
        ("unet", "conv_out.bias", "inf"),
        ("unet", "conv_out.bias", "-inf"),
        ("vae", "quant_conv.bias", "inf"),
    ):
        folder = copied(latent_folders["sd"], tmp_path / f"{name}{tensor}{bad}")
        path = folder / name / "diffusion_pytorch_model.safetensors"
        weights = load_file(path)
        for key in [tensor] if tensor else weights:
            weights[key].fill_(float(bad))
        save_file(weights, path, {"format": "pt"})
        with pytest.raises(PriorError, match=f"{name} gives numbers that are not finite"):
            load_guidance(config(folder), "cpu")


def test_a_foreign_text_encoder_is_refused_whatever_is_in_the_cache(latent_folders, tmp_path):
    folder = copied(latent_folders["sd"], tmp_path)
    load_guidance(config(folder), "cpu")
    for entry, message in (
        (["alt_encoder", "AltCLIP"], "never run"),
        (["transformers", "NoSuch"], "does not have"),
        (["transformers", "T5EncoderModel"], "text_encoder"),
    ):
        edited(folder / "model_index.json", text_encoder=entry)
        with pytest.raises(PriorError, match=message):
            load_guidance(config(folder), "cpu")


KINDS = {
    "StableDiffusionImageVariationPipeline": (["unet", "vae", "scheduler", "image_encoder"], "variations of a pict"),
    "DDPMPipeline": (["unet", "scheduler"], "draws without a text"),
    "LDMPipeline": (["unet", "vqvae", "scheduler"], "draws without a text"),
    "LDMTextToImagePipeline": (["unet", "vqvae", "scheduler", "bert", "tokenizer"], "a bert of its own"),
    "KandinskyV22Pipeline": (["unet", "scheduler", "movq"], "Kandinsky"),
    "KandinskyPipeline": (["unet", "scheduler", "movq", "text_encoder", "tokenizer"], "Kandinsky"),
    "IFSuperResolutionPipeline": (["unet", "scheduler", "text_encoder", "image_noising_scheduler"], "enlarges pict"),
    "StableDiffusionXLImg2ImgPipeline": (["unet", "vae", "scheduler", "text_encoder_2"], "refiner"),
    "StableDiffusionPipeline": (["unet", "vae", "scheduler", "tokenizer"], "no text_encoder"),
    "StableCascadePriorPipeline": (["prior", "text_encoder", "tokenizer"], "no unet"),
}


@pytest.mark.parametrize("name", KINDS)
def test_folders_of_other_kinds_are_told_what_they_are(name, tmp_path):
    parts, message = KINDS[name]
    index = {"_class_name": name, "safety_checker": [None, None], "text_encoder_9": [None, None]}
    (tmp_path / "model_index.json").write_text(json.dumps(index | {part: ["diffusers", "X"] for part in parts}))
    with pytest.raises(PriorError, match=f"holds a {name}, which is not understood .*{message}"):
        check_guidance(config(tmp_path))


def test_a_unet_for_videos_is_refused_before_anything_is_loaded(latent_folders, tmp_path):
    video = edit("model_index.json", unet=["diffusers", "UNet3DConditionModel"])
    folder = copied(latent_folders["sd"], tmp_path, video)
    with pytest.raises(PriorError, match="its unet is a UNet3DConditionModel, not a UNet2DConditionModel"):
        check_guidance(config(folder))


def test_a_part_of_a_pipeline_names_the_whole(latent_folders):
    with pytest.raises(PriorError, match=f"one part of a pipeline; give the whole: {latent_folders['sd']}"):
        check_guidance(config(latent_folders["sd"] / "unet"))


def test_a_vae_may_be_given_as_its_pipeline(latent_folders, tmp_path):
    folder = copied(latent_folders["sd"], tmp_path, replace(vae=tiny_vae))
    for model in (folder, folder / "vae"):
        guidance = load_guidance(config(latent_folders["sd"], vae=str(model)), "cpu")
        assert torch.equal(
            guidance.denoiser.ends.vae.encoder.conv_in.weight,
            load_guidance(config(folder), "cpu").denoiser.ends.vae.encoder.conv_in.weight,
        )
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(PriorError, match="names no class"):
        load_guidance(config(folder, vae=str(tmp_path / "empty")), "cpu")
    with pytest.raises(PriorError, match="is a UNet2DConditionModel, not an AutoencoderKL"):
        load_guidance(config(folder, vae=str(folder / "unet")), "cpu")
