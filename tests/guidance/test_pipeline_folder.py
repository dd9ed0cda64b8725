"""Model folders that are broken, foreign or of another kind: one clear line each."""

import json
import shutil

import pytest
from support.tiny_models import config

from dreamfusion_ngp.base.errors import PriorError
from dreamfusion_ngp.guidance import pipeline_folder as parts
from dreamfusion_ngp.guidance.load import check_guidance, load_guidance


def remove(*names):
    def change(folder):
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def write(name, content):
    def change(folder):
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def edit(name, **values):
    def change(folder):
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def truncate(name):
    def change(folder):
        path = folder / name
        path.write_bytes(path.read_bytes()[:-5000])

    return change


def poison(name):
    def change(folder):
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / name)
        save_file({k: v.fill_(float("nan")) for k, v in weights.items()}, folder / name, {"format": "pt"})

    return change


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
BROKEN = {
    "no index": (remove("model_index.json"), "no model_index.json"),
    "index is no JSON": (write("model_index.json", "{"), "cannot be read"),
    "index is a list": (write("model_index.json", "[]"), "expected an object"),
    "index is binary": (write("model_index.json", b"\xff\xfe\x00"), "cannot be read"),
    "no unet": (remove("unet"), "unet/ is missing"),
    "no scheduler": (remove("scheduler"), "scheduler/ is missing"),
    "no tokenizer": (remove("tokenizer"), "tokenizer/ is missing"),
    "no weights": (remove(WEIGHTS), "no weights in safetensors format"),
    "truncated weights": (truncate(WEIGHTS), "is damaged"),
    "garbage weights": (write("text_encoder/model.safetensors", b"\x00" * 64), "is damaged"),
    "no vae": (edit("model_index.json", vae=["diffusers", "AutoencoderKL"]), "vae/ is missing"),
    "transformer": (
        edit("model_index.json", transformer=["diffusers", "SD3Transformer2DModel"]),
        "holds a IFPipeline, which is not",
    ),
    "no text encoder": (edit("model_index.json", text_encoder=[None, None]), "no text_encoder"),
    "remote code": (edit("model_index.json", unet=["my_unet", "MyUNet"]), "never run"),
    "unknown class": (edit("model_index.json", unet=["diffusers", "NoSuchModel"]), "does not have as a unet"),
    "not a model": (
        edit("model_index.json", text_encoder=["transformers", "Trainer"]),
        "does not have as a text_encoder",
    ),
    "flow matching": (
        edit("model_index.json", scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"]),
        "is not understood",
    ),
    "unknown prediction": (edit("scheduler/scheduler_config.json", prediction_type="flow"), "is not understood"),
    "super-resolution": (edit("unet/config.json", in_channels=6), "weight|channels"),
    "layer missing": (edit("unet/config.json", block_out_channels=[8, 24]), "unet"),
    "unet config": (write("unet/config.json", "no"), "unet"),
    "tokenizer": (write("tokenizer/tokenizer.json", "{}"), "tokenizer"),
    "settings": (write("dreamfusion_ngp.json", '{"guidance_scale": "much"}'), "guidance_scale cannot be 'much'"),
    "other unet": (edit("model_index.json", unet=["diffusers", "UNet2DModel"]), "unet"),
    "weights not finite": (poison("text_encoder/model.safetensors"), "not finite"),
    "text width": (None, "width 16, the text encoder gives 8"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_bad_folder_is_one_clear_line(copy, name):
    change, message = BROKEN[name]
    if change is None:
        from transformers import T5Config, T5EncoderModel

        shutil.rmtree(copy / "text_encoder")
        T5EncoderModel(T5Config(vocab_size=40, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)).save_pretrained(
            copy / "text_encoder"
        )
    else:
        change(copy)
    with pytest.raises(PriorError, match=message) as caught:
        load_guidance(config(copy), "cpu")
    assert "\n" not in str(caught.value) and str(copy) in str(caught.value)


def test_a_folder_that_is_none_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("x")
    for path, message in (
        (tmp_path / "nowhere", "^no such folder: "),
        (tmp_path / "file", "is not a folder but a file"),
    ):
        with pytest.raises(PriorError, match=message):
            check_guidance(config(path))


def test_a_sentencepiece_tokenizer_says_what_reads_it(copy, monkeypatch):
    """DeepFloyd IF's T5 comes as a spiece.model without a tokenizer.json."""
    (copy / "tokenizer" / "spiece.model").write_bytes(b"")
    check_guidance(config(copy))
    (copy / "tokenizer" / "tokenizer.json").unlink()
    monkeypatch.setattr(parts, "installed", lambda module: False)
    with pytest.raises(PriorError, match="pip install sentencepiece protobuf"):
        check_guidance(config(copy))
    monkeypatch.setattr(parts, "installed", lambda module: True)
    check_guidance(config(copy))


def test_what_is_visibly_wrong_is_found_without_loading(copy):
    check_guidance(config(copy))
    truncate(WEIGHTS)(copy)
    with pytest.raises(PriorError, match="is damaged"):
        check_guidance(config(copy))


@pytest.mark.parametrize(
    "name", ["PNDMScheduler", "DDIMScheduler", "EulerDiscreteScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler"]
)
def test_the_schedule_is_the_same_whatever_sampler_a_model_comes_with(name, tmp_path):
    """Stable Diffusion 1 comes with PNDM, 2 with DDIM, SDXL with Euler: all the same abar of 0.00085 to 0.012."""
    import diffusers
    import numpy as np

    options = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    getattr(diffusers, name)(**options, prediction_type="v_prediction").save_pretrained(tmp_path / "scheduler")
    schedule = parts.load_schedule(tmp_path, {"scheduler": ["diffusers", name]})
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    np.testing.assert_allclose(schedule.abar, np.cumprod(1 - betas), rtol=1e-4)
    assert schedule.prediction == "v_prediction" and (schedule.times == np.arange(1000)).all()


def test_a_vocabulary_lies_as_in_published_models(tmp_path):
    """vocab.json and merges.txt, without a tokenizer.json."""
    from support.tiny_latent import clip_tokenizer

    tokenizer = clip_tokenizer()
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (tmp_path / "tokenizer").mkdir()
    pairs = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (tmp_path / "tokenizer" / "vocab.json").write_text(json.dumps(model["vocab"]))
    (tmp_path / "tokenizer" / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs, ""]))
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 16, "do_lower_case": True, "errors": "replace"}
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings))
    loaded = parts.load_tokenizer(tmp_path, {"tokenizer": ["transformers", "CLIPTokenizer"]})
    text = ["a red mug, front view"]
    assert loaded(text).input_ids == tokenizer(text).input_ids and loaded.model_max_length == 16
