"""The architecture of the embedded prior, in diffusers and transformers classes only, and its folder on disk.

A 64 x 64 picture enters the UNet as a 32 x 32 one with 12 channels (2 x 2 pixel unshuffle): with 4 x 4, edges stay
blurred however long it trains (docs/decisions/0001-pixel-packing-of-the-prior.md). Callers read the factor from the
UNet's channels: in_channels = 3 * factor^2 + 6, the last six for maps of the position (`packing`).

The UNet predicts the clean picture. Noise, or v, would have to pass through 96 channels in 48 dimensions without
structure, while the pixels of toys lie near a space of few dimensions (Li and He 2025, "Back to Basics: Let Denoising
Generative Models Denoise"); the measurement is in docs/decisions/0006-prior-learns-by-muon.md.

The text encoder is an embedding table, without layers: word order has no meaning in these captions, and words that
attention mixed, or that were pooled, soon expressed little but the colour.
"""

from __future__ import annotations

import contextlib
import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...guidance.packing import POSITIONS
from ..world.captions import WORDS

PRIOR = Path(__file__).parents[1] / "priors" / "toybox-64"
MAX_TOKENS = 16
PARTS = ("unet", "text_encoder", "tokenizer", "scheduler")
IF_OMITS = ("safety_checker", "feature_extractor", "watermarker")  # of the parts of IF's pipeline
GUIDANCE_SCALE = 2.5  # uncond + scale (cond - uncond): at 4 purple turns blue and outlines grow, at 7 more so


# Config of the UNets of both priors: 32 x 32 positions, of packed pixels or latents.
SHAPE: dict[str, Any] = dict(
    sample_size=32,
    block_out_channels=(48, 96, 144),
    layers_per_block=1,
    down_block_types=("DownBlock2D",) * 3,
    mid_block_type="UNetMidBlock2DCrossAttn",
    up_block_types=("UpBlock2D",) * 3,
    cross_attention_dim=128,
    attention_head_dim=4,
    norm_num_groups=16,
    time_embedding_dim=256,
    resnet_time_scale_shift="scale_shift",
    addition_embed_type="text",
    addition_embed_type_num_heads=4,
)


@contextlib.contextmanager
def quiet():
    """Inside the block diffusers and transformers print errors only: no progress bars for a few megabytes, no advice
    about an intended cast. The settings are restored afterwards."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    logs = (diffusers_logging, transformers_logging)
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    for log in logs:
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, (verbosity, bars) in zip(logs, before, strict=True):
            log.set_verbosity(verbosity)
            if bars:
                log.enable_progress_bar()


@dataclass
class Prior:
    """The four parts of a text-to-image diffusion folder."""

    unet: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any

    def save(self, folder: Path) -> None:
        """Write a diffusers folder: model_index.json and one subfolder per part, float16 safetensors."""
        save_parts(folder, "IFPipeline", {name: getattr(self, name) for name in PARTS}, IF_OMITS)
        settings = {"guidance_scale": GUIDANCE_SCALE, "toys": True}
        (Path(folder) / "dreamfusion_ngp.json").write_text(json.dumps(settings) + "\n")


def save_parts(folder: Path, pipeline: str, parts: dict, omitted: tuple[str, ...]) -> None:
    """Write a folder of the diffusers class `pipeline`: model_index.json, which lists the parts and the omitted ones,
    and a subfolder for each part; models as float16 safetensors."""
    import diffusers
    import torch

    folder = Path(folder)
    index: dict[str, Any] = {"_class_name": pipeline, "_diffusers_version": diffusers.__version__}
    with quiet():
        for name, part in parts.items():
            index[name] = ["diffusers", type(part).__name__]
            if name == "tokenizer":  # a loaded tokenizer would write its origin into its config
                wrap_tokenizer(part.backend_tokenizer).save_pretrained(folder / name)
                index[name] = ["transformers", "PreTrainedTokenizerFast"]
            elif isinstance(part, torch.nn.Module):
                half: Any = copy.deepcopy(part).to(torch.float16)
                half.save_pretrained(folder / name, safe_serialization=True)
                if name == "text_encoder":
                    index[name][0] = "transformers"
                else:
                    forget_origin(folder / name / "config.json")
            else:
                part.save_pretrained(folder / name)
    index |= {name: [None, None] for name in omitted}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def forget_origin(path: Path) -> None:
    """Remove from a saved config where its model was loaded from."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def build_tokenizer():
    """A word-level tokenizer over the toybox vocabulary: lower case, punctuation dropped, </s> appended, padded to
    16."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {word: i for i, word in enumerate(("<pad>", "</s>", "<unk>", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    split = [pre_tokenizers.Split(",", "removed"), pre_tokenizers.WhitespaceSplit()]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return wrap_tokenizer(tokenizer)


def wrap_tokenizer(tokenizer):
    """A tokenizers.Tokenizer with this vocabulary as a transformers one."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=MAX_TOKENS
    )


def build_text_encoder(words: int):
    """An untrained embedding table of words, of width 128."""
    import torch
    from transformers import T5Config, T5EncoderModel

    text_encoder = T5EncoderModel(
        T5Config(
            vocab_size=words,
            d_model=128,
            d_kv=32,
            d_ff=256,
            num_layers=0,
            num_heads=4,
            dropout_rate=0.0,
            relative_attention_num_buckets=16,
            relative_attention_max_distance=16,
            pad_token_id=0,
            eos_token_id=1,
        )
    )
    with torch.no_grad():
        text_encoder.shared.weight[:2] = 0  # </s> and padding carry nothing
    return text_encoder


def build_prior(seed: int = 0) -> Prior:
    """The untrained prior: about 5 million parameters."""
    import torch
    from diffusers import DDPMScheduler, UNet2DConditionModel  # pyright: ignore[reportPrivateImportUsage]

    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    text_encoder = build_text_encoder(len(tokenizer))
    unet = UNet2DConditionModel(in_channels=12 + POSITIONS, out_channels=12, **SHAPE)
    scheduler = DDPMScheduler(
        num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=True
    )
    return Prior(unet, text_encoder, tokenizer, scheduler)


def embed_words(text_encoder, ids):
    """(n, T, d) text encoder outputs for tokens (n, T), by a product with its table instead of a lookup, whose backward
    sorts the tokens and cannot be captured in a CUDA graph."""
    import torch

    table = text_encoder.shared.weight
    chosen = (ids[..., None] == torch.arange(len(table), device=ids.device)).to(table.dtype)
    return text_encoder.encoder.final_layer_norm(chosen @ table)


def load_prior(folder: Path = PRIOR) -> Prior:
    """The prior saved in `folder`, weights in float32. Raises OSError where a part or a weight is missing."""
    return Prior(**load_parts(folder, PARTS))


def load_parts(folder: Path, names: tuple[str, ...]) -> dict:
    """Parts of a prior by name, weights in float32. Raises OSError where a part or a weight is missing."""
    import torch
    from diffusers import (
        AutoencoderKL,  # pyright: ignore[reportPrivateImportUsage]
        DDPMScheduler,  # pyright: ignore[reportPrivateImportUsage]
        UNet2DConditionModel,  # pyright: ignore[reportPrivateImportUsage]
    )
    from transformers import PreTrainedTokenizerFast, T5EncoderModel

    folder, parts = Path(folder), {}
    classes = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": T5EncoderModel}
    others = {"tokenizer": PreTrainedTokenizerFast, "scheduler": DDPMScheduler}
    if not (folder / "tokenizer" / "tokenizer.json").is_file():
        raise OSError(f"{folder} has no tokenizer/tokenizer.json")
    with quiet():
        for name in names:
            if name in others:
                parts[name] = others[name].from_pretrained(folder / name, local_files_only=True)
                continue
            model, info = classes[name].from_pretrained(
                folder / name, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
            if info["missing_keys"]:  # the libraries would put random numbers in their place
                raise OSError(f"{folder / name}: {len(info['missing_keys'])} weights are missing")
            parts[name] = model.to(torch.float32)
    return parts


def in_order(vocabulary: dict[str, int]) -> list[str]:
    """The words, in the order of their numbers."""
    return sorted(vocabulary, key=lambda word: vocabulary[word])


def with_all_words(prior: Prior) -> Prior:
    """`prior` with the current vocabulary: words that were appended since it was saved get rows of zeros, so that its
    output is the same until they are trained. Raises ValueError for another vocabulary."""
    import torch

    tokenizer, table = build_tokenizer(), prior.text_encoder.shared.weight.detach()
    words, old = (in_order(each.get_vocab()) for each in (tokenizer, prior.tokenizer))
    if words[: len(old)] != old or len(table) != len(old):
        raise ValueError("its vocabulary is not that of the toybox")
    if len(old) < len(words):
        prior.text_encoder.resize_token_embeddings(len(words), mean_resizing=False)
        with torch.no_grad():
            prior.text_encoder.shared.weight[: len(old)] = table
            prior.text_encoder.shared.weight[len(old) :] = 0
    prior.tokenizer = tokenizer
    return prior
