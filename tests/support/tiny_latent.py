"""Tiny random latent models in diffusers format: Stable Diffusion that predicts the noise ("sd") or v ("sdv"), and
SDXL ("sdxl"). Real classes, random weights, about a megabyte each."""

import json

import pytest
import torch
from support.tiny_models import WORDS, tiny_tokenizer

INDEX = {
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "safety_checker": [None, None],
    "feature_extractor": [None, None],
}


def clip_tokenizer(length: int = 16):
    """A byte-pair tokenizer that has merged the letters of WORDS."""
    from transformers import CLIPTokenizer

    letters = [*sorted(set("".join(WORDS))), ","]
    tokens, merges = [*letters, *(c + "</w>" for c in letters)], []
    for word in WORDS:
        start, *rest = [*word[:-1], word[-1] + "</w>"]
        for piece in rest:
            if (start, piece) not in merges:
                merges.append((start, piece))
            start += piece
            if start not in tokens:
                tokens.append(start)
    names = ["<|startoftext|>", "<|endoftext|>", *tokens]
    return CLIPTokenizer(vocab={t: i for i, t in enumerate(names)}, merges=merges, model_max_length=length)


def clip_config(tokens: int, width: int, **options):
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=tokens,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=width,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        **options,
    )


def tiny_unet(kind: str, **more):
    from diffusers import UNet2DConditionModel

    more |= (
        dict(
            addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=6 * 4 + 24
        )
        if kind == "sdxl"
        else {}
    )
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=16 + 24 if kind == "sdxl" else 16,
        **more,
    )


def tiny_vae(latent_channels: int = 4):
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=16,
        latent_channels=latent_channels,
    )


def tiny_latent_folder(folder, kind: str):
    from diffusers import DDIMScheduler
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(1)
    tokenizer, index = clip_tokenizer(), dict(INDEX, _class_name="StableDiffusionPipeline")
    parts = {
        "unet": tiny_unet(kind),
        "vae": tiny_vae(),
        "tokenizer": tokenizer,
        "text_encoder": CLIPTextModel(clip_config(len(tokenizer), 16)),
        "scheduler": DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            steps_offset=1,
            clip_sample=False,
            prediction_type="v_prediction" if kind == "sdv" else "epsilon",
        ),
    }
    if kind == "sdxl":
        parts["tokenizer_2"] = tokenizer
        parts["text_encoder_2"] = CLIPTextModelWithProjection(clip_config(len(tokenizer), 24))
        index |= {
            "_class_name": "StableDiffusionXLPipeline",
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "force_zeros_for_empty_prompt": True,
            "image_encoder": [None, None],
            "add_watermarker": None,
        }
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def tiny_flow_folder(folder, with_t5: bool = True):
    """Stable Diffusion 3 in small."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
    from transformers import CLIPTextModelWithProjection, T5Config, T5EncoderModel

    torch.manual_seed(3)
    tokenizer, t5_tokenizer = clip_tokenizer(), tiny_tokenizer("if")
    parts = {
        "transformer": SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=48,
            caption_projection_dim=16,
            pooled_projection_dim=40,
            out_channels=4,
            pos_embed_max_size=16,
        ),
        "vae": AutoencoderKL(
            block_out_channels=(8, 16),
            norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            shift_factor=0.0609,
            scaling_factor=1.5305,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
        "tokenizer": tokenizer,
        "tokenizer_2": tokenizer,
        "text_encoder": CLIPTextModelWithProjection(clip_config(len(tokenizer), 16)),
        "text_encoder_2": CLIPTextModelWithProjection(clip_config(len(tokenizer), 24)),
    }
    if with_t5:
        parts |= {
            "tokenizer_3": t5_tokenizer,
            "text_encoder_3": T5EncoderModel(
                T5Config(vocab_size=len(t5_tokenizer), d_model=48, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
            ),
        }
    absent = ("text_encoder_3", "tokenizer_3", "image_encoder", "feature_extractor")
    index = {"_class_name": "StableDiffusion3Pipeline", **{name: [None, None] for name in absent}}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        index[name] = [
            "transformers" if name.startswith("t") and name != "transformer" else "diffusers",
            type(part).__name__,
        ]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="session")
def latent_folders(tmp_path_factory):
    made = {kind: tiny_latent_folder(tmp_path_factory.mktemp(kind), kind) for kind in ("sd", "sdv", "sdxl")}
    return {**made, "sd3": tiny_flow_folder(tmp_path_factory.mktemp("sd3"))}
