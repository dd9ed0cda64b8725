"""SDXL (Podell et al. 2023): two text encoders, a pooled text vector, and size conditioning (original size, crop,
target size). The sizes are always the model's own resolution, uncropped, even if the render is encoded at another: a
small original size would ask for a blurred picture."""

from __future__ import annotations

from torch import Tensor

from ...base.slots import sent
from ..checks import foreign_conditions, present
from ..text_encoders import TwoTextEncoders
from ..vae import LatentEncoder
from .diffusion import Ends, Family, Pipeline, Rows, call_unet
from .latent import check_unet


def conditions_problem(pipeline: Pipeline) -> str:
    """Conditions that the UNet expects and SDXL's does not, or ""."""
    c = pipeline.network.config
    if c.addition_embed_type != "text_time":
        return f"its addition_embed_type is {c.addition_embed_type!r}, SDXL's is 'text_time'"
    if problem := foreign_conditions(c, ("text_time",)):
        return problem
    width = 6 * c.addition_time_embed_dim + pipeline.embeddings["pooled"].shape[-1]
    actual = pipeline.network.add_embedding.linear_1.in_features
    return "" if actual == width else f"it takes {actual} added numbers, SDXL's base model {width} (a refiner?)"


def surround(pipeline: Pipeline) -> Ends:
    check_unet(pipeline, conditions_problem(pipeline))
    encoder = LatentEncoder(pipeline, "unet", upcast=True)

    def call(network, rows: Rows) -> Tensor:
        pooled = rows.pick("pooled")
        assert pooled is not None
        side = encoder.native_resolution
        sizes = sent([side, side, 0, 0, side, side], pooled.device, pooled.dtype)
        added = {"text_embeds": pooled, "time_ids": sizes.expand(len(pooled), 6)}
        return call_unet(network, rows, added_cond_kwargs=added)

    return Ends(encoder.shape, encoder, call, vae=encoder.vae)


def accepts(index: dict) -> bool:
    return all(present(index, name) for name in ("vae", "unet", "text_encoder", "text_encoder_2"))


SDXL = Family(
    accepts, surround, scale=101.0, encoder=TwoTextEncoders, parts=("vae",), loader="StableDiffusionXLLoraLoaderMixin"
)
