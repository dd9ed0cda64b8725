"""Stable Diffusion 3 and 3.5 (Esser et al. 2024): a transformer that predicts the velocity of a rectified flow on the
latents of a VAE; see `schedule.flow_abar` for the flow instead of a noise schedule."""

from __future__ import annotations

from torch import Tensor

from ...base.errors import PriorError
from ..checks import present
from ..three_text_encoders import ThreeTextEncoders
from ..vae import LatentEncoder
from .diffusion import Ends, Family, Pipeline, Rows


def problem(pipeline: Pipeline) -> str:
    """Why the transformer does not fit, or ""."""
    c, (width, pooled) = pipeline.network.config, (pipeline.embeddings[key].shape[-1] for key in ("hidden", "pooled"))
    if c.out_channels not in (None, c.in_channels):
        return f"it maps {c.in_channels} channels to {c.out_channels}"
    if (c.joint_attention_dim, c.pooled_projection_dim) != (width, pooled):
        return (
            f"it wants text embeddings of widths {c.joint_attention_dim} and {c.pooled_projection_dim}, "
            f"the text encoders give {width} and {pooled}"
        )
    return ""


def surround(pipeline: Pipeline) -> Ends:
    if reason := problem(pipeline):
        raise PriorError(f"{pipeline.folder}: the transformer does not fit, {reason}")
    encoder, c = LatentEncoder(pipeline, "transformer"), pipeline.network.config
    side = encoder.shape[-1]
    if side % c.patch_size or side // c.patch_size > c.pos_embed_max_size:
        raise PriorError(
            f"{pipeline.folder}/transformer has {c.pos_embed_max_size} x {c.pos_embed_max_size} positions for "
            f"patches of {c.patch_size} latents a side, which {side} latents a side do not fit; "
            "choose another guidance.resolution"
        )
    return Ends(encoder.shape, encoder, call, vae=encoder.vae)


def call(network, rows: Rows) -> Tensor:
    hidden, pooled = rows.pick("hidden"), rows.pick("pooled")
    return network(rows.z, encoder_hidden_states=hidden, pooled_projections=pooled, timestep=rows.steps).sample


def accepts(index: dict) -> bool:
    return index.get("transformer") == ["diffusers", FLOW.network_class] and present(index, "text_encoder_2")


# Scale 100 is that of RFDS (Yang et al., ICLR 2025) for Stable Diffusion 3, which preset `sd3` starts from.
FLOW = Family(
    accepts,
    surround,
    scale=100.0,
    encoder=ThreeTextEncoders,
    network="transformer",
    network_class="SD3Transformer2DModel",
    parts=("vae",),
    flow=True,
    loader="SD3LoraLoaderMixin",
)
