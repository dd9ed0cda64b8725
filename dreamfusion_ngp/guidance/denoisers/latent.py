"""Stable Diffusion 1.x and 2.x (Rombach et al. 2022): a UNet on the latents of a VAE that predicts epsilon or v."""

from __future__ import annotations

from ...base.errors import PriorError
from ..checks import foreign_conditions, present, text_widths, width_problem
from ..vae import LatentEncoder
from .diffusion import Ends, Family, Parts

TASKS = {9: "inpainting, ", 5: "depth to image, ", 8: "changes of a picture, ", 7: "super-resolution, "}


def check_unet(parts: Parts, conditions: str | None = None) -> None:
    """Raise PriorError unless the UNet is one of text to image with the widths of the text embeddings. conditions: what
    it wants to be told that the family does not tell it, "" for nothing; by default anything but a text."""
    c = parts.network.config
    if c.in_channels != c.out_channels:
        task = TASKS.get(c.in_channels, "")
        problem = f"it maps {c.in_channels} channels to {c.out_channels}: {task}not text to image"
    else:
        other = foreign_conditions(c, (None, "text")) if conditions is None else conditions
        problem = width_problem(text_widths(c), parts.embeddings["hidden"].shape[-1]) or other
    if problem:
        raise PriorError(f"{parts.folder}: the unet does not fit, {problem}")


def surround(parts: Parts) -> Ends:
    return surround_with(parts, None)


def surround_with(parts: Parts, conditions: str | None) -> Ends:
    """conditions: see `check_unet`."""
    check_unet(parts, conditions)
    encoder = LatentEncoder(parts, "unet")
    return Ends(encoder.shape, encoder, vae=encoder.vae)


def accepts(index: dict) -> bool:
    return all(present(index, name) for name in ("vae", "unet", "text_encoder")) and not present(
        index, "text_encoder_2"
    )


# Scale 101 is the omega of 100 of DreamFusion and of threestudio's Stable Diffusion configurations.
LATENT = Family(accepts, surround, scale=101.0, parts=("vae",), loader="StableDiffusionLoraLoaderMixin")
