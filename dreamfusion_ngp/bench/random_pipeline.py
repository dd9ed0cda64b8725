"""Stable Diffusion pipelines of the published sizes with random weights, as folders in diffusers format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

SD15 = dict(sample_size=64, block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8)
SDXL = dict(
    sample_size=128,
    block_out_channels=(320, 640, 1280),
    cross_attention_dim=2048,
    attention_head_dim=(5, 10, 20),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=(1, 2, 10),
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)
QUICK = dict(
    sample_size=8,
    block_out_channels=(32, 32),
    cross_attention_dim=16,
    attention_head_dim=4,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
)
FAMILIES = {  # UNet, widths of the VAE's blocks, widths of the text encoders
    "sd15": (SD15, (128, 256, 512, 512), (768,)),
    "sdxl": (SDXL, (128, 256, 512, 512), (768, 1280)),
    "quick": (QUICK, (32, 32), (16,)),
}


def tokenizer():
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(97, 123)] + [","]
    names = ["<|startoftext|>", "<|endoftext|>", *letters, *(c + "</w>" for c in letters)]
    return CLIPTokenizer(vocab={t: i for i, t in enumerate(names)}, merges=[], model_max_length=77)


def text_encoder(width: int, projected: bool):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=60,
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=2,
        num_attention_heads=width // 16,
        projection_dim=width,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def write_pipeline(folder: Path, family: str) -> Path:
    """A pipeline of the family with random weights in half precision."""
    from diffusers import (
        AutoencoderKL,  # pyright: ignore[reportPrivateImportUsage]
        DDIMScheduler,  # pyright: ignore[reportPrivateImportUsage]
        UNet2DConditionModel,  # pyright: ignore[reportPrivateImportUsage]
    )

    torch.manual_seed(0)
    unet, blocks, widths = FAMILIES[family]
    vae: dict[str, Any] = dict(
        block_out_channels=blocks,
        down_block_types=("DownEncoderBlock2D",) * len(blocks),
        up_block_types=("UpDecoderBlock2D",) * len(blocks),
        layers_per_block=2,
    )
    parts = {
        "unet": UNet2DConditionModel(in_channels=4, out_channels=4, **unet).half(),
        "vae": AutoencoderKL(**vae).half(),
        "scheduler": DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
    }
    for i, width in enumerate(widths):
        end = f"_{i + 1}" if i else ""
        parts |= {f"text_encoder{end}": text_encoder(width, i > 0), f"tokenizer{end}": tokenizer()}
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionXLPipeline" if len(widths) > 1 else "StableDiffusionPipeline"
    }
    for name, part in parts.items():
        variant = {"variant": "fp16"} if name in ("unet", "vae") else {}
        part.save_pretrained(folder / name, **variant)
        library = "transformers" if name.startswith("t") else "diffusers"
        index[name] = [library, type(part).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
