"""Stable Diffusion 1.x and 2.x (Rombach et al. 2022): a UNet on the latents of a VAE that predicts epsilon or v."""

from __future__ import annotations

from ...base.errors import PriorError
from ..checks import foreign_conditions, present, text_widths, width_problem
from ..vae import LatentEncoder
from .diffusion import Ends, Family, Pipeline

TASKS = {9: "inpainting, ", 5: "depth to image, ", 8: "changes of a picture, ", 7: "super-resolution, "}


def check_unet(pipeline: Pipeline, conditions: str | None = None) -> None:
    """Raise PriorError unless the UNet is a text-to-image one that takes the width of the text embeddings. conditions:
    conditions it expects that the family does not provide, "" for none; by default anything but a text."""
    c = pipeline.network.config
    if c.in_channels != c.out_channels:
        task = TASKS.get(c.in_channels, "")
        problem = f"it maps {c.in_channels} channels to {c.out_channels}: {task}not text to image"
    else:
        other = foreign_conditions(c, (None, "text")) if conditions is None else conditions
        problem = width_problem(text_widths(c), pipeline.embeddings["hidden"].shape[-1]) or other
    if problem:
        raise PriorError(f"{pipeline.folder}: the unet does not fit, {problem}")


def surround(pipeline: Pipeline) -> Ends:
    return surround_with(pipeline, None)


def surround_with(pipeline: Pipeline, conditions: str | None) -> Ends:
    """conditions: see `check_unet`."""
    check_unet(pipeline, conditions)
    encoder = LatentEncoder(pipeline, "unet")
    return Ends(encoder.shape, encoder, vae=encoder.vae)


def accepts(index: dict) -> bool:
    return all(present(index, name) for name in ("vae", "unet", "text_encoder")) and not present(
        index, "text_encoder_2"
    )


# Scale 101 is the omega of 100 of DreamFusion and of threestudio's Stable Diffusion configurations.
LATENT = Family(accepts, surround, scale=101.0, parts=("vae",), loader="StableDiffusionLoraLoaderMixin")
