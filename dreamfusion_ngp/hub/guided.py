"""Configs for another guidance model."""

from __future__ import annotations

from dataclasses import replace

from ..config.presets import latent_toys
from ..config.schema import GuidanceConfig, RunConfig
from .names import LATENT_TOYBOX, TOYBOXES, folder_of
from .snapshots import read_json


def guided(config: RunConfig, model: str) -> RunConfig:
    """The config with `model` as the guidance of every stage."""
    guidance = with_model(config.guidance, model)
    if model == LATENT_TOYBOX != config.guidance.model:
        guidance = latent_toys(guidance)
    return replace(config, guidance=guidance, then=config.then and guided(config.then, model))


def with_model(guidance: GuidanceConfig, model: str) -> GuidanceConfig:
    """The guidance settings for `model`. View words beyond the paper's four, and mode words, are for models of toys
    only, which know them."""
    if knows_toys(model):
        return replace(guidance, model=model)
    words = "none" if guidance.view_words == "none" else "paper"
    return replace(guidance, model=model, view_words=words, mode_words=False, keep_view=False)


def knows_toys(model: str) -> bool:
    """Whether a model is an embedded one, or a folder of train-prior whose settings say that it knows the same toys."""
    return model in TOYBOXES or bool(read_json(folder_of(model) / "dreamfusion_ngp.json").get("toys"))
