"""The depth prior, toybox-depth: a ControlNet (Zhang et al., ICCV 2023) on the latent prior, which is frozen.

It is a plain diffusers ControlNetModel, which loads like public ones. That class has no setting for the width of the
embedding of time and text, which is four times the first block's: 192, where the latent UNet has 256. So its encoder
starts as the UNet's except for the embedding, which keeps the most important units, and the layers that read it, which
are fitted again.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..world.captions import subject
from ..world.shapes import CLASSES, COLORS
from .latent_model import LATENT_PRIOR, LatentPrior, load_latent_prior
from .latent_start import fit_linear, set_linear, solve, with_ones
from .loss import caption_ids
from .model import embed_words, forget_origin, quiet

DEPTH_PRIOR = Path(__file__).parents[1] / "priors" / "toybox-depth"
GUIDANCE_SCALE = 2.0  # of painting: at 3 and 4 colours shift, brown to green and yellow to orange
EMBEDDING = (8, 16, 32, 64)  # channels of the depth encoder, from 256 pixels a side to 32
TIMES = 40  # timesteps at which the embedding is fitted
RIDGE = 1e-6  # of the mean square of the features
CONFIG = (
    "in_channels",
    "flip_sin_to_cos",
    "freq_shift",
    "down_block_types",
    "mid_block_type",
    "block_out_channels",
    "layers_per_block",
    "downsample_padding",
    "norm_num_groups",
    "norm_eps",
    "cross_attention_dim",
    "attention_head_dim",
    "resnet_time_scale_shift",
    "addition_embed_type",
    "addition_embed_type_num_heads",
)  # of the UNet, that its ControlNet shares


@dataclass
class DepthPrior:
    """A ControlNet and the prior that it is for."""

    control: Any
    latent: LatentPrior

    def save(self, folder: Path) -> None:
        """Write the folder of a ControlNet: its config, float16 safetensors, and the guidance scale of painting."""
        # torch's own method: that of diffusers warns of missing layers.
        half: Any = torch.nn.Module.to(copy.deepcopy(self.control), torch.float16)
        with quiet():
            half.save_pretrained(folder, safe_serialization=True)
        forget_origin(Path(folder) / "config.json")
        settings = {"guidance_scale": GUIDANCE_SCALE}
        (Path(folder) / "dreamfusion_ngp.json").write_text(json.dumps(settings) + "\n")


def load_depth_prior(folder: Path = DEPTH_PRIOR, latent: Path = LATENT_PRIOR) -> DepthPrior:
    """The ControlNet saved in `folder`, for the latent prior in another, weights in float32. Raises OSError where a
    part or a weight is missing."""
    from diffusers import ControlNetModel  # pyright: ignore[reportPrivateImportUsage]

    with quiet():
        loaded: Any = ControlNetModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        control, info = loaded[0].to(torch.float32), loaded[1]
    if info["missing_keys"]:
        raise OSError(f"{folder}: {len(info['missing_keys'])} weights are missing")
    return DepthPrior(control, load_latent_prior(latent))


@torch.no_grad()
def start_depth_prior(latent: LatentPrior, seed: int = 0) -> DepthPrior:
    """A ControlNet without effect yet, whose encoder is the UNet's: 2.3 million parameters."""
    from diffusers import ControlNetModel  # pyright: ignore[reportPrivateImportUsage]

    torch.manual_seed(seed)
    unet = latent.unet
    settings = {name: unet.config[name] for name in CONFIG}
    control = ControlNetModel(conditioning_embedding_out_channels=EMBEDDING, **settings)
    target, source = control.state_dict(), unet.state_dict()
    same = {name: value for name, value in source.items() if name in target and target[name].shape == value.shape}
    control.load_state_dict(same, strict=False)
    narrow(control, latent)
    return DepthPrior(control, latent)


def narrow(control: Any, latent: LatentPrior) -> None:
    """Fit a ControlNet's embedding of time and text, which is narrower than the UNet's, so that its blocks get what the
    UNet's blocks get."""
    unet, texts = latent.unet, all_texts(latent)
    steps = torch.linspace(0, len(latent.scheduler.alphas_cumprod) - 1, TIMES)
    wide = embedding_of(unet, steps, texts)
    readers = list(zip(time_readers(control), time_readers(unet), strict=False))
    weight = torch.cat([theirs.weight for _, theirs in readers])
    kept = most(nn.functional.silu(wide), weight, control.time_embedding.linear_1.out_features)
    mine, theirs = control.time_embedding, unet.time_embedding
    times = unet.time_proj(torch.arange(len(latent.scheduler.alphas_cumprod)).float())
    hidden, goal = theirs.act(theirs.linear_1(times)), theirs(times)[:, kept]
    units = most(hidden, theirs.linear_2.weight, mine.linear_1.out_features)
    mine.linear_1.weight.copy_(theirs.linear_1.weight[units])
    mine.linear_1.bias.copy_(theirs.linear_1.bias[units])
    set_linear(mine.linear_2, slice(None), fit_linear(hidden[:, units], goal))
    for name in ("proj", "norm2"):
        for part in ("weight", "bias"):
            value = getattr(getattr(unet.add_embedding, name), part)
            getattr(getattr(control.add_embedding, name), part).copy_(value[kept])
    rows = with_ones(nn.functional.silu(embedding_of(control, steps, texts))).double()
    features = nn.functional.silu(wide)
    square = rows.T @ rows
    for reader, original in readers:
        set_linear(reader, slice(None), solve(square, rows.T @ original(features).double(), RIDGE))


def all_texts(latent: LatentPrior) -> Tensor:
    """(S, MAX_TOKENS, d): the text encodings of every toy in every colour, and of the empty text."""
    texts = ["", *(subject(name, color) for name in CLASSES for color in COLORS)]
    return embed_words(latent.text_encoder, torch.tensor(caption_ids(latent.tokenizer, texts)))


def embedding_of(network: Any, steps: Tensor, texts: Tensor) -> Tensor:
    """(steps x texts, d): the embedding of times and texts that the blocks of a UNet, or of its ControlNet, read."""
    time = network.time_embedding(network.time_proj(steps))
    return (time[:, None] + network.add_embedding(texts)).flatten(0, 1)


def time_readers(network: Any) -> list[Any]:
    """The linear layers of the encoder and of the middle that read the embedding, in order."""
    blocks = [*network.down_blocks, network.mid_block]
    return [resnet.time_emb_proj for block in blocks for resnet in block.resnets]


def most(features: Tensor, weight: Tensor, count: int) -> Tensor:
    """Indices of the `count` columns of features (n, d) with most effect on a layer of weights (m, d), in order."""
    return (features.std(0) * weight.norm(dim=0)).topk(count).indices.sort().values
