"""Models that are told of depth: Stable Diffusion 1, 2 and XL with a ControlNet (Zhang et al., ICCV 2023), and UNets
with one input channel more, Stable Diffusion 2 depth (diffusers' StableDiffusionDepth2ImgPipeline, without its depth
estimator: the depth here is that of a mesh)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...base.errors import PriorError
from ...base.precision import bfloat16_is_quick
from ...base.slots import sent
from ...hub.weights import part_weights
from ..checks import foreign_conditions, text_widths, width_problem
from ..pipeline_folder import load_model, read_config, read_object
from ..vae import LatentEncoder
from . import latent
from .diffusion import Ends, Family, Parts, Rows, call_unet, place

# Of a ControlNet and its UNet alike, or the one's outputs are not the other's inputs.
SHARED = ("cross_attention_dim", "block_out_channels", "in_channels", "layers_per_block", "addition_embed_type")


@dataclass
class Seen:
    """What the model is shown. picture: (b, H, W) in [0, 1] of the b views (`depth_picture`); None for a trial, which
    sees a black one."""

    picture: Tensor | None = None

    def rows(self, rows: Rows, size: tuple[int, int]) -> Tensor:
        """(n, 1, *size) float32 for the rows of a batch."""
        if self.picture is None:
            return rows.z.new_zeros(len(rows.z), 1, *size)
        found = self.picture[sent(rows.view, self.picture.device)][:, None].to(rows.z)
        if found.shape[2:] == size:
            return found
        return torch.nn.functional.interpolate(found, size=size, mode="bicubic", align_corners=False)


def control_problem(control: dict, unet: dict) -> str:
    """What keeps a ControlNet from being that of a UNet, by their configs, or ""."""
    if (name := control.get("_class_name")) != "ControlNetModel":
        return f"it is a {name}, not a ControlNetModel"
    if (channels := control.get("conditioning_channels", 3)) != 3:
        return f"it is told of pictures with {channels} channels, not 3"
    for name in SHARED:
        mine, theirs = control.get(name), unet.get(name)
        if name in control and name in unet and mine != theirs:
            return f"it was made for another model (its {name} is {mine}, here {theirs}), which --guidance can name"
    return ""


def check_control(path: Path, folder: Path) -> None:
    """Raise PriorError unless the ControlNet in `path` looks whole and fits the pipeline in `folder`."""
    problem = control_problem(read_object(path / "config.json"), read_config(folder, "unet"))
    if problem:
        raise PriorError(f"{path} is no ControlNet for {folder}: {problem}")
    part_weights(path)


def with_control(family: Family, path: Path, seen: Seen, scale: float) -> Family:
    """A family whose network hears the ControlNet in `path`, its outputs times `scale`."""

    def surround(parts: Parts) -> Ends:
        check_control(path, parts.folder)
        index = {"unet": ["diffusers", "ControlNetModel"]}
        control = load_model(path.parent, index, path.name, parts.network.dtype, kind="unet")
        place(control, parts.device, parts.dtype is None and bfloat16_is_quick(parts.device))
        ends = family.surround(parts)
        return replace(ends, call=heard(ends.call, control, seen, scale, ends.encode.factor))

    return replace(family, surround=surround)


def heard(call: Callable, control: Any, seen: Seen, scale: float, factor: int) -> Callable:
    """`Ends.call` with what a ControlNetModel adds to the UNet's skips and middle. factor: pixels a side for one
    latent."""

    def called(network, rows: Rows) -> Tensor:
        height, width = rows.z.shape[2:]
        shown = seen.rows(rows, (height * factor, width * factor)).expand(-1, 3, -1, -1).to(control.dtype)

        def told(z: Tensor, steps: Tensor, hidden: Tensor, **conditions):
            added = conditions.get("added_cond_kwargs")
            down, middle = control(
                z.to(control.dtype),
                steps,
                hidden,
                controlnet_cond=shown,
                conditioning_scale=scale,
                added_cond_kwargs=added,
                return_dict=False,
            )
            said = dict(down_block_additional_residuals=down, mid_block_additional_residual=middle)
            return network(z, steps, hidden, **said, **conditions)

        return call(told, rows)

    return called


def with_channel(family: Family, seen: Seen) -> Family:
    """The family of a UNet that takes the depth as its last channel."""

    def surround(parts: Parts) -> Ends:
        c = parts.network.config
        problem = channel_problem(c) or width_problem(text_widths(c), parts.embeddings["hidden"].shape[-1])
        if problem := problem or foreign_conditions(c, (None, "text")):
            raise PriorError(f"{parts.folder}: the unet does not fit, {problem}")
        encoder = LatentEncoder(parts, "unet", more=1)

        def call(network, rows: Rows) -> Tensor:
            height, width = rows.z.shape[2:]
            depth = as_channel(seen.rows(rows, (height, width)))
            return call_unet(network, replace(rows, z=torch.cat([rows.z, depth], 1)))

        return Ends(encoder.shape, encoder, call, vae=encoder.vae)

    return replace(family, surround=surround)


def channel_problem(unet) -> str:
    """What keeps a UNet from being one of depth to image, by its config, or ""."""
    if unet["in_channels"] == unet["out_channels"] + 1:
        return ""
    task = latent.TASKS.get(unet["in_channels"], "")
    return f"it maps {unet['in_channels']} channels to {unet['out_channels']}: {task}not depth to image"


def as_channel(depth: Tensor) -> Tensor:
    """(n, 1, h, w) in [-1, 1] of depth at the size of latents, from the least to the most of each, as
    StableDiffusionDepth2ImgPipeline scales it; -1 where all of it is alike, of which that makes NaN."""
    low, high = depth.flatten(1).amin(1), depth.flatten(1).amax(1)
    low, spread = low[:, None, None, None], (high - low)[:, None, None, None]
    return torch.where(spread > 1e-6, 2 * (depth - low) / spread.clamp(min=1e-6) - 1, -1.0)
