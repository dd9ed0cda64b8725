"""Configs for another guidance model, by its name and what its folder holds."""

from __future__ import annotations

from dataclasses import replace

from ..config.presets import latent_toys
from ..config.schema import GuidanceConfig, RunConfig
from .fetch import model_path
from .names import ALIASES, CLIP_CLASSES, LATENT_TOYBOX, TOYBOXES, folder_of, preset_name
from .snapshots import parts_of, read_json

PROJECTION = "camera_proj"  # the folder of a separate projection of cameras, in ports of MVDream
FOREIGN = ("MultiViewUNetModel", "MultiViewUNetWrapperModel", "MultiViewUNet2DConditionModel")


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


def preset_of(model: str) -> str:
    """The name of the preset of a run with a model; a hub's is fetched. Raises PriorError where it is missing."""
    return preset_name(model, pipeline_class(model), knows_toys(model))


def pipeline_class(model: str) -> str:
    """The class of a model's pipeline; "" for short names, whose preset is known, and for a folder without a pipeline,
    which raises when it is loaded. Fetches the model of a hub id. Raises PriorError where it is missing."""
    if model in ALIASES or model in TOYBOXES:
        return ""  # its preset is known
    folder = model_path(model)
    index = read_json(folder / "model_index.json")
    if is_multiview(index):  # ports differ in the class that they name
        return "MVDreamPipeline"
    if name := index.get("_class_name"):
        return str(name)
    config = read_json(folder / "config.json")  # of a CLIP, which has no pipeline
    return CLIP_CLASSES.get(str(config.get("model_type")), "")


def is_multiview(index: dict) -> bool:
    """Whether a model_index.json is of a port of MVDream, or of a folder that this package writes."""
    unet = index.get("unet")
    named = isinstance(unet, list) and len(unet) == 2 and unet[1] in FOREIGN
    return str(index.get("_class_name")).startswith("MVDream") or named or PROJECTION in parts_of(index)
