"""Guidance by a diffusion model that works on pixels: DeepFloyd IF, the embedded prior, or any UNet2DConditionModel
with a text encoder."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ...base.errors import PriorError, UsageError
from ..checks import check_side, foreign_conditions, present, square_side, text_widths, width_problem
from ..packing import POSITIONS, pack, packing_factor, unpack
from ..reader import is_if
from ..resize import resize
from ..text_encoders import LowerCase
from .diffusion import UnetGuidance

USUAL_SIDE = 64  # pixels of what a UNet sees that does not say it: IF's and the embedded prior's


class PixelGuidance(UnetGuidance):
    """Score distillation from a frozen pixel-space model in a local diffusers folder; see `Guidance` for the call.

    The render is resized to the model's resolution and mapped to [-1, 1], so by the chain rule the gradient on the
    image is twice that on what the model sees (and goes back through the resize). A UNet with 3 f^2 input channels sees
    f x f pixels packed into one, with six more their positions besides (`packing`); with 6 f^2 output channels it also
    predicts variances, which are dropped. Scale 21 is threestudio's omega of 20 for DeepFloyd IF.
    """

    DEFAULT_SCALE = 21.0
    ENCODER = LowerCase  # as IF's own pipeline does

    @classmethod
    def accepts(cls, index: dict) -> bool:
        others = ("vae", "transformer", "text_encoder_2", "movq", "vqvae", "image_noising_scheduler")
        return (
            present(index, "unet")
            and present(index, "text_encoder")
            and not any(present(index, name) for name in others)
        )

    def prepare(self, folder: Path, index: dict) -> tuple[int, int, int]:
        if self.config.vae:
            raise UsageError(f"guidance.vae: {self.run.guidance.model} works on pixels and has no VAE to replace")
        self.factor, resolution = _geometry(
            folder, self.unet, self.embeddings["hidden"].shape[-1], self.config.resolution
        )
        # IF's own pipeline shows the padding of a text to the UNet: that is how it was trained.
        self.MASKED = not is_if(folder, index)
        return 3, resolution, resolution

    def encode(self, image: Tensor) -> Tensor:
        return resize(image, self.shape[-1]) * 2 - 1

    def inputs(self, z: Tensor) -> Tensor:
        return pack(z, self.unet.config.in_channels)

    def outputs(self, y: Tensor) -> Tensor:
        return unpack(y[:, : 3 * self.factor**2])  # without learned variances


def _geometry(folder: Path, unet, width: int, asked: int) -> tuple[int, int]:
    """Pixels a side that the UNet packs into channels, and the side of its images in pixels, or `asked` if not 0."""
    c, place = unet.config, f"{folder}/unet"
    factor = packing_factor(c.in_channels)
    packed = 3 * factor * factor
    if c.in_channels not in (packed, packed + POSITIONS) or c.out_channels not in (packed, 2 * packed):
        problem = (
            f"it maps {c.in_channels} channels to {c.out_channels}; wanted are 3 f^2 (and {POSITIONS} for "
            "positions) to 3 f^2 or 6 f^2"
        )
    else:
        problem = foreign_conditions(c, (None, "text")) or width_problem(text_widths(c), width)
    if problem:
        raise PriorError(f"{folder}: the unet does not fit, {problem}")
    if asked % factor:
        raise PriorError(f"guidance.resolution must be a multiple of {factor} for this model, got {asked}")
    side = asked or (square_side(c.sample_size, place) or USUAL_SIDE // factor) * factor
    check_side(side, place)
    return factor, side
