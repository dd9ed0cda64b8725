"""Models that work on pixels: DeepFloyd IF, the embedded prior, or any UNet2DConditionModel with a text encoder.

The render is resized to the model's resolution and mapped to [-1, 1]. A UNet with 3 f^2 input channels takes f x f
pixels packed into channels, with six more also maps of the position (`packing`); with 6 f^2 output channels it also
predicts variances, which are dropped.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ...base.errors import PriorError, UsageError
from ..checks import check_side, foreign_conditions, present, square_side, text_widths, width_problem
from ..packing import POSITIONS, pack, packing_factor, unpack
from ..reader import is_if
from ..resize import resize
from ..text_encoders import LowerCase
from .diffusion import Ends, Family, Pipeline, Rows, call_unet

USUAL_SIDE = 64  # pixels a side of a UNet's input if its config has none: IF's and the embedded prior's
OTHERS = ("vae", "transformer", "text_encoder_2", "movq", "vqvae", "image_noising_scheduler")


def surround(pipeline: Pipeline) -> Ends:
    return surround_with(pipeline, None)


def surround_with(pipeline: Pipeline, conditions: str | None) -> Ends:
    """conditions: see `latent.check_unet`."""
    if pipeline.config.guidance.vae:
        model = pipeline.config.guidance.model
        raise UsageError(f"guidance.vae: {model} works on pixels and has no VAE to replace")
    (factor, side), channels = geometry(pipeline, conditions), pipeline.network.config.in_channels

    def encode(image: Tensor) -> Tensor:
        return resize(image.permute(0, 3, 1, 2), side) * 2 - 1

    def call(network, rows: Rows) -> Tensor:
        packed = call_unet(network, replace(rows, z=pack(rows.z, channels)))
        return unpack(packed[:, : 3 * factor**2])  # without learned variances

    # IF's own pipeline does not mask the padding of a text in the UNet, as in its training.
    return Ends((3, side, side), encode, call, masked=not is_if(pipeline.folder, pipeline.index))


def geometry(pipeline: Pipeline, conditions: str | None = None) -> tuple[int, int]:
    """The UNet's packing factor, and the side of its images in pixels, or that of the config. Raises PriorError for a
    UNet that does not fit."""
    c, place, resolution = pipeline.network.config, f"{pipeline.folder}/unet", pipeline.config.guidance.resolution
    factor = packing_factor(c.in_channels)
    packed = 3 * factor * factor
    if c.in_channels not in (packed, packed + POSITIONS) or c.out_channels not in (packed, 2 * packed):
        problem = (
            f"it maps {c.in_channels} channels to {c.out_channels}; wanted are 3 f^2 (and {POSITIONS} for "
            "positions) to 3 f^2 or 6 f^2"
        )
    else:
        other = foreign_conditions(c, (None, "text")) if conditions is None else conditions
        problem = other or width_problem(text_widths(c), pipeline.embeddings["hidden"].shape[-1])
    if problem:
        raise PriorError(f"{pipeline.folder}: the unet does not fit, {problem}")
    if resolution is not None and resolution % factor:
        raise PriorError(f"guidance.resolution must be a multiple of {factor} for this model, got {resolution}")
    side = resolution or (square_side(c.sample_size, place) or USUAL_SIDE // factor) * factor
    check_side(side, place)
    return factor, side


def accepts(index: dict) -> bool:
    return all(present(index, name) for name in ("unet", "text_encoder")) and not any(
        present(index, name) for name in OTHERS
    )


# Scale 21 is threestudio's omega of 20 for DeepFloyd IF; texts are in small letters, as in IF's own pipeline.
PIXEL = Family(accepts, surround, scale=21.0, encoder=LowerCase)
