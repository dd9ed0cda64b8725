"""Depth-conditioned models: Stable Diffusion 1, 2 and XL with a ControlNet (Zhang et al., ICCV 2023), and UNets with
one input channel more, Stable Diffusion 2 depth (diffusers' StableDiffusionDepth2ImgPipeline, without its depth
estimator: the depth here is that of a mesh)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ...base.errors import PriorError
from ...base.slots import sent
from ...hub.weights import part_weights
from ..checks import foreign_conditions, text_widths, width_problem
from ..pipeline_folder import fitting, load_model, read_config, read_object
from ..settings import read_settings
from ..vae import LatentEncoder
from . import latent
from .diffusion import Ends, Family, Pipeline, Rows, call_unet, place

# Must agree between a ControlNet and its UNet, or the outputs of one do not fit the inputs of the other.
SHARED = ("cross_attention_dim", "block_out_channels", "in_channels", "layers_per_block", "addition_embed_type")


@dataclass
class DepthInput:
    """The depth input of a model. picture: (b, H, W) in [0, 1] of the b views (`depth_picture`); None for a trial,
    which gets a black one."""

    picture: Tensor | None = None

    def rows(self, rows: Rows, size: tuple[int, int]) -> Tensor:
        """(n, 1, *size) float32 for the rows of a batch."""
        if self.picture is None:
            return rows.z.new_zeros(len(rows.z), 1, *size)
        picture = self.picture[sent(rows.view, self.picture.device)][:, None].to(rows.z)
        if picture.shape[2:] == size:
            return picture
        return torch.nn.functional.interpolate(picture, size=size, mode="bicubic", align_corners=False)


def control_problem(control: dict, unet: dict) -> str:
    """Why a ControlNet does not fit a UNet, by their configs, or ""."""
    if (name := control.get("_class_name")) != "ControlNetModel":
        return f"it is a {name}, not a ControlNetModel"
    if (channels := control.get("conditioning_channels", 3)) != 3:
        return f"it is told of pictures with {channels} channels, not 3"
    for name in SHARED:
        mine, theirs = control.get(name), unet.get(name)
        if name in control and name in unet and mine not in (theirs, single(theirs)):
            return f"it was made for another model (its {name} is {mine}, here {theirs}), which --guidance can name"
    return ""


def single(value):
    """The number of a list of equal ones, a form that diffusers takes for a UNet; anything else as it is."""
    return value[0] if isinstance(value, list) and value and all(each == value[0] for each in value) else value


def check_control(path: Path, folder: Path) -> None:
    """Raise PriorError unless the ControlNet in `path` looks complete and fits the pipeline in `folder`."""
    problem = control_problem(read_object(path / "config.json"), read_config(folder, "unet"))
    if problem:
        raise PriorError(f"{path} is no ControlNet for {folder}: {problem}")
    read_settings(path)
    part_weights(path)


def with_control(family: Family, path: Path, depth_input: DepthInput, scale: float) -> Family:
    """The family with the ControlNet in `path`, whose outputs are multiplied by `scale`."""

    def surround(pipeline: Pipeline) -> Ends:
        check_control(path, pipeline.folder)
        index = {"unet": ["diffusers", "ControlNetModel"]}
        control = load_model(path.parent, index, path.name, pipeline.network.dtype, kind="unet")
        place(control, pipeline.device, pipeline.autocast)
        ends = family.surround(pipeline)

        def residuals(*inputs, **options) -> tuple:
            with fitting(f"{path} does not take what {pipeline.folder} gives it"):
                down, middle = control(*inputs, **options)
            if depth_input.picture is None and not all(each.isfinite().all() for each in (*down, middle)):
                raise PriorError(
                    f"{path} gives numbers that are not finite: its weights are damaged, or "
                    "guidance.precision is too small for it"
                )
            return down, middle

        call = with_residuals(ends.call, residuals, control.dtype, depth_input, scale, ends.encode.factor)
        return replace(ends, call=call)

    return replace(family, surround=surround)


def with_residuals(
    call: Callable, control: Callable, dtype: torch.dtype, depth_input: DepthInput, scale: float, factor: int
) -> Callable:
    """`Ends.call` with the residuals of a ControlNetModel, which `control` calls in its dtype, added to the UNet's skip
    connections and middle block. factor: pixels per latent along a side."""

    def call_with_control(network, rows: Rows) -> Tensor:
        height, width = rows.z.shape[2:]
        shown = depth_input.rows(rows, (height * factor, width * factor)).expand(-1, 3, -1, -1).to(dtype)

        def controlled(z: Tensor, steps: Tensor, hidden: Tensor, **conditions):
            added = conditions.get("added_cond_kwargs")
            down, middle = control(
                z.to(dtype),
                steps,
                hidden,
                controlnet_cond=shown,
                conditioning_scale=scale,
                added_cond_kwargs=added,
                return_dict=False,
            )
            residuals = dict(down_block_additional_residuals=down, mid_block_additional_residual=middle)
            return network(z, steps, hidden, **residuals, **conditions)

        return call(controlled, rows)

    return call_with_control


def with_channel(family: Family, depth_input: DepthInput) -> Family:
    """The family for a UNet that takes depth as its last input channel."""

    def surround(pipeline: Pipeline) -> Ends:
        c = pipeline.network.config
        problem = channel_problem(c) or width_problem(text_widths(c), pipeline.embeddings["hidden"].shape[-1])
        if problem := problem or foreign_conditions(c, (None, "text")):
            raise PriorError(f"{pipeline.folder}: the unet does not fit, {problem}")
        encoder = LatentEncoder(pipeline, "unet", more=1)

        def call(network, rows: Rows) -> Tensor:
            height, width = rows.z.shape[2:]
            depth = as_channel(depth_input.rows(rows, (height, width)))
            return call_unet(network, replace(rows, z=torch.cat([rows.z, depth], 1)))

        return Ends(encoder.shape, encoder, call, vae=encoder.vae)

    return replace(family, surround=surround)


def channel_problem(unet) -> str:
    """Why a UNet is not a depth-to-image one, by its config, or ""."""
    taken, given = unet.get("in_channels", 4), unet.get("out_channels", 4)
    if type(taken) is type(given) is int and taken == given + 1:
        return ""
    task = latent.TASKS.get(taken, "") if isinstance(taken, int) else ""
    return f"it maps {taken} channels to {given}: {task}not depth to image"


def as_channel(depth: Tensor) -> Tensor:
    """(n, 1, h, w) depth at the size of latents, each scaled from its minimum and maximum to [-1, 1], as
    StableDiffusionDepth2ImgPipeline does; -1 for constant depth, for which that gives NaN."""
    low, high = depth.flatten(1).amin(1), depth.flatten(1).amax(1)
    low, spread = low[:, None, None, None], (high - low)[:, None, None, None]
    return torch.where(spread > 1e-6, 2 * (depth - low) / spread.clamp(min=1e-6) - 1, -1.0)
