"""Folders of MVDream's weights from different ports, read without their code: each holds a network that is diffusers'
UNet2DConditionModel plus a projection of the camera, under one of two naming schemes.

    ashawkey/mvdream-sd2.1-diffusers      unet/: names of latent diffusion, with camera_embed
    KokeCacao/mvdream-*-hf                the same behind "unet."
    lzq49/mvdream-sd21-diffusers, ...     unet/: diffusers' names; camera_proj/: the projection alone
    yanqinJiang/mvdream-sd1.5-diffusers   unet/: diffusers' names, with camera_embedding
    what this package writes              unet/: diffusers' names, with class_embedding
"""

from __future__ import annotations

import inspect
import os
import re
import shlex
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..base.errors import PriorError
from ..hub.guided import PROJECTION
from .multiview import CAMERA
from .pipeline_folder import find_weights, fitting, read_config

STOCK = "UNet2DConditionModel"
RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "camera_embed.0": "class_embedding.linear_1",
    "camera_embed.2": "class_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
IMAGE_KEYS = re.compile(r"^image_embed\.|to_[kv]_ip\b")  # of ImageDream, in diffusers' names or others


def as_stock(folder: Path, index: dict) -> dict:
    """The index with diffusers' class for the UNet. Raises PriorError for ImageDream, and for weights that are pickles
    only, with the command that converts them."""
    if is_imagedream(read_config(folder, "unet"), ()):
        raise PriorError(imagedream(folder))
    for part in ("unet", "vae", "text_encoder", PROJECTION):
        names = sorted(os.listdir(folder / part)) if (folder / part).is_dir() else []
        pickled = [name for name in names if name.endswith((".bin", ".pt", ".ckpt"))]
        if pickled and not any(name.endswith(".safetensors") for name in names):
            raise PriorError(pickle_advice(folder / part / pickled[0]))
    return index | {"unet": ["diffusers", STOCK]}


def pickle_advice(path: Path) -> str:
    read = f"torch.load('{path.name}', map_location='cpu', weights_only=True).items()"
    tensors = f"{{k: v.contiguous() for k, v in {read}}}, '{path.with_suffix('.safetensors').name}'"
    folder = shlex.quote(str(path.parent))
    return (
        f"{path} is a pickle, which may run code and is never read; where you trust it, convert it once: "
        f'cd {folder} && python -c "import torch, safetensors.torch as s; s.save_file({tensors})"'
    )


def is_imagedream(config: dict, keys) -> bool:
    return bool(config.get("ip_dim")) or any(map(IMAGE_KEYS.search, keys))


def imagedream(folder: Path) -> str:
    return (
        f"{folder} is ImageDream, which draws from a picture (ip_dim, a fifth view); wanted is MVDream, which draws "
        "from a text alone: dreamfusion-ngp fetch mvdream"
    )


def load_unet(folder: Path, index: dict, name: str, dtype: torch.dtype | None = None) -> Any:
    """The UNet of a folder, a UNet2DConditionModel: frozen, in eval mode, on the CPU, in `dtype` (default: float32).
    Raises PriorError unless the weights match the config, none missing and none left over."""
    from diffusers import UNet2DConditionModel  # pyright: ignore[reportPrivateImportUsage]

    part, config = folder / name, read_config(folder, name)
    state = read_weights(folder, name)
    if is_imagedream(config, state):
        raise PriorError(imagedream(folder))
    with fitting(f"{part} cannot be loaded as {STOCK}"), torch.device("meta"):
        state = diffusers_names(state, config)
        unet = UNet2DConditionModel(**stock_config(config, state))
    check_same(part, {key: value.shape for key, value in unet.state_dict().items()}, state)
    unet.load_state_dict({key: value.to(dtype or torch.float32) for key, value in state.items()}, assign=True)
    return unet.eval().requires_grad_(False)


def read_weights(folder: Path, name: str) -> dict[str, Tensor]:
    """All tensors of a component, with those of a separate projection under the names of a built-in one."""
    from safetensors.torch import load_file

    state: dict[str, Tensor] = {}
    for path in find_weights(folder, name).paths:
        state |= load_file(path)
    state = {key.removeprefix("model.diffusion_model.").removeprefix("unet."): value for key, value in state.items()}
    if (folder / PROJECTION).is_dir():
        for path in find_weights(folder, PROJECTION).paths:
            state |= {f"class_embedding.{key}": value for key, value in load_file(path).items()}
    return state


def diffusers_names(state: dict[str, Tensor], config: dict) -> dict[str, Tensor]:
    """Weights under diffusers' names; those without one keep their own."""
    if any(key.startswith("input_blocks.") for key in state):
        layers = residual_blocks(config)
        return {diffusers_name(key, layers): value for key, value in state.items()}
    return {re.sub(r"^camera_embedding\.", "class_embedding.", key): value for key, value in state.items()}


def residual_blocks(config: dict) -> int:
    """Residual blocks a level, of a config that has a number, or a list of equal ones. Raises ValueError."""
    given = config.get("num_res_blocks", 2)
    levels = given if isinstance(given, list) else [given]
    if not levels or any(type(n) is not int or n < 1 or n != levels[0] for n in levels):
        raise ValueError(f"num_res_blocks must be one number for all levels, got {repr(given)[:60]}")
    return levels[0]


def diffusers_name(key: str, layers: int) -> str:
    """diffusers' name for a key of latent diffusion's UNet with `layers` residual blocks a level."""
    block, _, tensor = key.rpartition(".")
    if block in ENDS:
        return f"{ENDS[block]}.{tensor}"
    match = re.match(r"(input_blocks|output_blocks|middle_block)\.(\d+)(?:\.(\d+))?\.(.+)$", key)
    if match is None:
        return key
    side, i, j, rest = match[1], int(match[2]), match[3], match[4]
    if side == "middle_block":
        rest = rest if j is None else f"{j}.{rest}"
        return f"mid_block.attentions.0.{rest}" if i == 1 else f"mid_block.resnets.{i // 2}.{resnet(rest)}"
    level, layer = divmod(i - 1 if side == "input_blocks" else i, layers + 1)
    place = f"{'down' if side == 'input_blocks' else 'up'}_blocks.{level}"
    if rest.startswith("op."):
        return f"{place}.downsamplers.0.conv.{rest.removeprefix('op.')}"
    if rest.startswith("conv."):
        return f"{place}.upsamplers.0.conv.{rest.removeprefix('conv.')}"
    return f"{place}.resnets.{layer}.{resnet(rest)}" if j == "0" else f"{place}.attentions.{layer}.{rest}"


def resnet(rest: str) -> str:
    block, _, tensor = rest.rpartition(".")
    return f"{RESNET.get(block, block)}.{tensor}"


def stock_config(config: dict, state: dict[str, Tensor]) -> dict:
    """The arguments of UNet2DConditionModel for a port's config.json and its weights under diffusers' names."""
    camera = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": CAMERA}
    if "model_channels" not in config:
        parameters = inspect.signature(stock_class()).parameters
        return {key: value for key, value in config.items() if key in parameters} | camera
    channels = [config["model_channels"] * factor for factor in config["channel_mult"]]
    attends = [1 << level in config["attention_resolutions"] for level in range(len(channels))]
    per_head = config.get("num_head_channels", -1)
    heads = [width // per_head if per_head > 0 else config["num_heads"] for width in channels]
    projection = next((value for key, value in state.items() if key.endswith("proj_in.weight")), None)
    return camera | {
        "sample_size": config.get("image_size", 32),
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "block_out_channels": channels,
        "layers_per_block": residual_blocks(config),
        "down_block_types": ["CrossAttnDownBlock2D" if attends[i] else "DownBlock2D" for i in range(len(channels))],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        "cross_attention_dim": config["context_dim"],
        "attention_head_dim": heads,  # diffusers' name for the number of heads
        "transformer_layers_per_block": config.get("transformer_depth", 1),
        "use_linear_projection": projection is not None and projection.ndim == 2,
    }


def stock_class() -> type:
    from diffusers import UNet2DConditionModel  # pyright: ignore[reportPrivateImportUsage]

    return UNet2DConditionModel


def check_same(part: Path, expected: dict[str, torch.Size], state: dict[str, Tensor]) -> None:
    """Raise PriorError unless the weights have the names and shapes of `expected`."""
    groups = {
        "missing": sorted(expected.keys() - state.keys()),
        "unknown": sorted(state.keys() - expected.keys()),
        "of the wrong shape": sorted(k for k in expected.keys() & state.keys() if expected[k] != state[k].shape),
    }
    wrong = [f"{len(keys)} {what} (the first is {keys[0]})" for what, keys in groups.items() if keys]
    if wrong:
        raise PriorError(f"{part}: of {len(expected)} weights of a UNet of several views {', '.join(wrong)}")
