"""Tiny random text-to-image models in diffusers format, made in a moment, and fixtures for the tests that use them."""

import json
import shutil

import numpy as np
import pytest
import torch

from dreamfusion_ngp.config.schema import GuidanceConfig, RunConfig
from dreamfusion_ngp.guidance.distill import sds as sds_module
from dreamfusion_ngp.scene.cameras import orbit
from dreamfusion_ngp.scene.lights import ALBEDO, LAMBERTIAN, TEXTURELESS
from dreamfusion_ngp.scene.views import Views

WORDS = [
    "a",
    "red",
    "blue",
    "mug",
    "front",
    "back",
    "side",
    "right",
    "left",
    "view",
    "overhead",
    "high",
    "raised",
    "low",
    "angle",
    "flat",
    "colors",
    "clay",
]


def tiny_unet(kind: str):
    from diffusers import UNet2DConditionModel

    learned = kind == "if"
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=3 if learned else 18 if kind == "placed" else 12,
        out_channels=6 if learned else 12,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn" if learned else "UNetMidBlock2DCrossAttn",
        norm_num_groups=4,
        attention_head_dim=4,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        cross_attention_dim=16,
        encoder_hid_dim=16 if learned else None,
    )


def tiny_tokenizer(kind: str):
    if kind == "if":
        from transformers import T5Tokenizer

        pieces = (
            [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0)]
            + [(f"▁{w}", -2.0) for w in WORDS]
            + [("▁", -3.0), (",", -2.0)]
        )
        return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=20)
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}, unk_token="<unk>")
    )
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(",", "removed"), pre_tokenizers.WhitespaceSplit()]
    )
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=12
    )


def tiny_folder(folder, kind: str):
    """A whole random pipeline. "packed": 2 x 2 pixels in channels, predicts v; "placed": position maps as well; "if":
    3 channels in, 6 out, predicts the noise."""
    from diffusers import DDPMScheduler
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    tokenizer = tiny_tokenizer(kind)
    encoder = T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    )
    scheduler = DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="epsilon" if kind == "if" else "v_prediction",
        variance_type="learned_range" if kind == "if" else "fixed_small",
    )
    for name, part in (
        ("unet", tiny_unet(kind)),
        ("text_encoder", encoder),
        ("tokenizer", tokenizer),
        ("scheduler", scheduler),
    ):
        part.save_pretrained(folder / name)
    index = {
        "_class_name": "IFPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", type(tokenizer).__name__],
        "scheduler": ["diffusers", "DDPMScheduler"],
        "safety_checker": [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    return {kind: tiny_folder(tmp_path_factory.mktemp(kind), kind) for kind in ("packed", "placed", "if")}


@pytest.fixture
def copy(folders, tmp_path):
    """A folder to break."""
    return shutil.copytree(folders["packed"], tmp_path / "model")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMFUSION_NGP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def config(folder, prompt="a red mug", seed=3, **guidance) -> RunConfig:
    return RunConfig(prompt=prompt, seed=seed, steps=100, guidance=GuidanceConfig(model=str(folder), **guidance))


def views(azimuth=(0.0, 90.0, 180.0), elevation=20.0) -> Views:
    """Three views, one in each shading mode."""
    modes = np.array([ALBEDO, LAMBERTIAN, TEXTURELESS])
    return Views(orbit(azimuth, elevation, 1.5, 1.0), torch.zeros(3, 6), modes)


def judged(guidance, image, part=0, seen=None):
    """What a guidance says of an image of three views in a part of the run of `config`."""
    return guidance(image, seen or views(), part, part / 100)


def recorded(guidance, monkeypatch) -> list:
    """What the rule `sds` finds from here on: a list that grows by [z, t, alpha, sigma, guided eps_hat]."""
    calls, guided, rule = [], sds_module.guided_noise, guidance.rule

    def spy(said, z, alpha, sigma, *more):
        calls.append([z, None, alpha, sigma, guided(said, z, alpha, sigma, *more)])
        return calls[-1][-1]

    def told(denoiser, x, noise, t, *more):
        gradient = rule(denoiser, x, noise, t, *more)
        calls[-1][1] = t
        return gradient

    monkeypatch.setattr(sds_module, "guided_noise", spy)
    monkeypatch.setattr(guidance, "rule", told)
    return calls


def embedding(guidance, text, key="hidden"):
    """What a guidance knows of a text."""
    return guidance.denoiser.texts.embeddings[key][guidance.denoiser.texts.rows[text]]


def pipeline(name, folder, **absent):
    """A folder as diffusers' own pipeline of that name. absent: parts that it lacks, each None."""
    import diffusers

    if name == "StableDiffusionPipeline":
        absent["safety_checker"] = None
    if name == "IFPipeline":
        absent |= dict.fromkeys(("safety_checker", "feature_extractor", "watermarker"))
    return getattr(diffusers, name).from_pretrained(folder, low_cpu_mem_usage=False, **absent)
