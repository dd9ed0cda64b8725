"""SDXL (Podell et al. 2023): two text encoders, a pooled text vector, and the sizes that the picture is said to have
had (original, cropping, target). They are always the model's own resolution, uncropped, also where the render is
encoded at another: a small original size would ask for a blurred picture."""

from __future__ import annotations

from torch import Tensor

from ...base.slots import sent
from ..checks import foreign_conditions, present
from ..text_encoders import TwoTextEncoders
from ..vae import LatentEncoder
from .diffusion import Ends, Family, Parts, Rows, call_unet
from .latent import check_unet


def conditions_problem(parts: Parts) -> str:
    """What the UNet wants to be told that SDXL's does not, or ""."""
    c = parts.network.config
    if c.addition_embed_type != "text_time":
        return f"its addition_embed_type is {c.addition_embed_type!r}, SDXL's is 'text_time'"
    if problem := foreign_conditions(c, ("text_time",)):
        return problem
    width = 6 * c.addition_time_embed_dim + parts.embeddings["pooled"].shape[-1]
    taken = parts.network.add_embedding.linear_1.in_features
    return "" if taken == width else f"it takes {taken} added numbers, SDXL's base model {width} (a refiner?)"


def surround(parts: Parts) -> Ends:
    check_unet(parts, conditions_problem(parts))
    encoder = LatentEncoder(parts, "unet", upcast=True)

    def call(network, rows: Rows) -> Tensor:
        pooled = rows.pick("pooled")
        assert pooled is not None
        sizes = sent([encoder.own, encoder.own, 0, 0, encoder.own, encoder.own], pooled.device, pooled.dtype)
        added = {"text_embeds": pooled, "time_ids": sizes.expand(len(pooled), 6)}
        return call_unet(network, rows, added_cond_kwargs=added)

    return Ends(encoder.shape, encoder, call, vae=encoder.vae)


def accepts(index: dict) -> bool:
    return all(present(index, name) for name in ("vae", "unet", "text_encoder", "text_encoder_2"))


SDXL = Family(
    accepts, surround, scale=101.0, encoder=TwoTextEncoders, parts=("vae",), loader="StableDiffusionXLLoraLoaderMixin"
)
