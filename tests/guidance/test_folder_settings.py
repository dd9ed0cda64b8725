"""What dreamfusion_ngp.json says in a model's folder: prediction type, layers to skip, unknown keys."""

import json

import pytest
import torch
from support.changed_folders import copied, edited
from support.tiny_models import config, embedding, judged, pipeline

from dreamfusion_ngp.base.errors import PriorError
from dreamfusion_ngp.guidance.load import load_guidance

PROMPT, VIEW = "a red mug", "a red mug, front view"


def settings(folder, **values):
    (folder / "dreamfusion_ngp.json").write_text(json.dumps(values))


@pytest.mark.parametrize("skip", [1, 2])
def test_clip_skip_is_that_of_the_pipeline(skip, latent_folders, tmp_path, monkeypatch):
    """Prompts skip layers, negative prompts do not, and a text may be both."""
    from transformers import CLIPTextModel

    folder = copied(latent_folders["sd"], tmp_path)
    settings(folder, clip_skip=skip)
    guidance = load_guidance(config(folder, negative=VIEW), "cpu")
    if not hasattr(CLIPTextModel, "text_model"):  # the pipeline asks for it; newer transformers have it flat
        monkeypatch.setattr(CLIPTextModel, "text_model", property(lambda self: self), raising=False)
    pipe = pipeline("StableDiffusionPipeline", folder)
    theirs, negative = pipe.encode_prompt(VIEW, "cpu", 1, True, VIEW, clip_skip=skip)
    torch.testing.assert_close(embedding(guidance, VIEW), theirs[0])
    torch.testing.assert_close(
        guidance.denoiser.texts.embeddings["hidden"][guidance.denoiser.texts.negative_rows[VIEW]], negative[0]
    )
    assert (theirs - negative).abs().max() > 1e-3


@pytest.mark.parametrize("kind, name", [("sdxl", "StableDiffusionXLPipeline"), ("sd3", "StableDiffusion3Pipeline")])
def test_clip_skip_is_that_of_the_larger_pipelines(kind, name, latent_folders, tmp_path):
    folder = copied(latent_folders[kind], tmp_path)
    settings(folder, clip_skip=1)
    guidance, pipe = load_guidance(config(folder, negative="a blue mug"), "cpu"), pipeline(name, folder)
    third = {"prompt_3": None} if kind == "sd3" else {}
    theirs = pipe.encode_prompt(VIEW, prompt_2=None, **third, negative_prompt="a blue mug", clip_skip=1, device="cpu")
    for text, key, expected in zip(
        (VIEW, "a blue mug") * 2, ("hidden", "hidden", "pooled", "pooled"), theirs, strict=True
    ):
        torch.testing.assert_close(embedding(guidance, text, key), expected[0])


def test_clip_skip_is_refused_where_there_is_nothing_to_skip(latent_folders, folders, tmp_path):
    for i, (source, skip, message) in enumerate(
        (
            (latent_folders["sd"], 4, "has 3 layers"),
            (latent_folders["sdxl"], 3, "has 3 layers"),
            (folders["if"], 1, "clip_skip is for CLIP"),
        )
    ):
        folder = copied(source, tmp_path / str(i))
        settings(folder, clip_skip=skip)
        with pytest.raises(PriorError, match=message):
            load_guidance(config(folder), "cpu")


def test_a_prediction_type_overrides_the_schedulers(latent_folders, tmp_path):
    folder = copied(latent_folders["sd"], tmp_path)
    rgb = torch.rand(3, 12, 12, 3)
    values = {}
    for said in (None, "v_prediction", "sample", "epsilon"):
        settings(folder, prediction_type=said)
        guidance = load_guidance(config(folder), "cpu")
        values[said] = float(judged(guidance, rgb, 0).value)
    assert values[None] == values["epsilon"] != values["v_prediction"] != values["sample"]
    edited(folder / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    settings(folder)
    assert float(judged(load_guidance(config(folder), "cpu"), rgb, 0).value) == values["v_prediction"]
    edited(folder / "scheduler" / "scheduler_config.json", prediction_type="something")
    settings(folder, prediction_type="sample")
    assert float(judged(load_guidance(config(folder), "cpu"), rgb, 0).value) == values["sample"]


@pytest.mark.parametrize(
    "values, message",
    [
        (
            {"clipskip": 1},
            "no setting 'clipskip'; there are guidance_scale, encoder_attention_mask, prediction_type, views, clip",
        ),
        ({"clip_skip": 1.5}, "clip_skip cannot be 1.5"),
        ({"clip_skip": True}, "clip_skip cannot be True"),
        ({"clip_skip": -1}, "clip_skip cannot be -1"),
        ({"guidance_scale": True}, "guidance_scale cannot be True"),
        ({"prediction_type": "v"}, "cannot be 'v'; wanted is epsilon, v_prediction or sample"),
        ({"prediction_type": ["epsilon"]}, "prediction_type cannot be"),
        ({"guidance_scale": float("nan")}, "guidance_scale cannot be nan"),
        ({"guidance_scale": 10**400}, "cannot be 1000"),
        ({"encoder_attention_mask": 1}, "encoder_attention_mask cannot be 1"),
    ],
)
def test_settings_of_a_folder_are_known_and_right(values, message, latent_folders, tmp_path):
    folder = copied(latent_folders["sd"], tmp_path)
    settings(folder, **values)
    with pytest.raises(PriorError, match=message) as caught:
        load_guidance(config(folder), "cpu")
    assert "dreamfusion_ngp.json" in str(caught.value) and "\n" not in str(caught.value)


def test_a_flow_has_no_other_prediction(latent_folders, tmp_path):
    folder = copied(latent_folders["sd3"], tmp_path)
    settings(folder, prediction_type="epsilon")
    with pytest.raises(PriorError, match="a rectified flow predicts a velocity"):
        load_guidance(config(folder), "cpu")
