"""The guidance of a run, from the model's folder."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from ..base.errors import PriorError
from ..config.schema import RunConfig
from ..hub.fetch import model_path
from ..hub.names import TOYBOXES
from .checks import what_it_is
from .clip import ClipGuidance, check_clip, load_clip_guidance
from .denoisers.diffusion import DiffusionDenoiser, Family
from .denoisers.flow import FLOW
from .denoisers.latent import LATENT
from .denoisers.multiview import MULTIVIEW, MULTIVIEW_PIXELS
from .denoisers.pixel import PIXEL
from .denoisers.sdxl import SDXL
from .dual_encoder import is_dual_encoder
from .embedded import embedded_folder
from .pipeline_folder import read_index
from .protocol import Distill
from .rules import check_rule, rule_of
from .score_distillation import ScoreDistillation

log = logging.getLogger(__name__)

FAMILIES = (MULTIVIEW, MULTIVIEW_PIXELS, FLOW, SDXL, LATENT, PIXEL)  # the first that accepts a folder is its family


def load_guidance(
    config: RunConfig, device: torch.device | str, rule: Distill | None = None
) -> ScoreDistillation[DiffusionDenoiser] | ClipGuidance:
    """The guidance of a run, on `device`, of the kind that the config names. `config.guidance.model` is an embedded
    prior, a local folder in diffusers format (of a CLIP in transformers'), or a short name or hub id (hub/names.py),
    which alone may lead to a download. rule: a custom distillation rule instead of `config.guidance.rule`. Raises
    PriorError if the model is missing, damaged, or of an unsupported kind, and UsageError for a rule that does not
    support it."""
    if config.guidance.kind == "clip":
        return load_clip_guidance(config, torch.device(device))
    folder = model_folder(config)
    model_family = family(folder)
    if rule is None:
        check_rule(config.guidance, model_family)
    denoiser = DiffusionDenoiser(model_family, config, folder, torch.device(device))
    if config.guidance.clip_clean and denoiser.ends.vae is not None:
        log.info(
            "note        guidance.clip_clean clips the latents of %s to [-1, 1], and they go beyond; "
            "--set guidance.clip_clean=false (then.guidance.clip_clean in a second stage) leaves them whole",
            config.guidance.model[:60],
        )
    rule = rule or rule_of(config.guidance, denoiser, config.seed)
    return ScoreDistillation(config, denoiser, rule, denoiser.resident)


def check_guidance(config: RunConfig) -> None:
    """Raise PriorError for errors in the model's folder that can be detected without loading weights, UsageError for a
    rule that does not support it."""
    if config.guidance.kind == "clip":
        check_clip(config)
        return
    folder = model_folder(config)
    family(folder).check(folder)
    check_rule(config.guidance, family(folder))


def family(folder: Path) -> Family:
    """The family of the model in a folder. Raises PriorError if there is none."""
    if is_dual_encoder(folder):
        raise PriorError(f"{folder} holds a CLIP, no diffusion model: guide with it by preset dreamfields or clipmesh")
    index = read_index(folder)
    for candidate in FAMILIES:
        if candidate.accepts(index):
            return candidate
    reason = f" ({what})" if (what := what_it_is(index)) else ""
    raise PriorError(
        f"{folder} holds a {index.get('_class_name', 'pipeline')}, which is not understood{reason}; what "
        "is: Stable Diffusion 1, 2 and 3, SDXL, DeepFloyd IF, MVDream and other UNets with a text encoder"
    )


def model_folder(config: RunConfig) -> Path:
    """The local folder of the config's model; fetched if it is on the hub only."""
    model = config.guidance.model
    return embedded_folder(model) if model in TOYBOXES else model_path(model)
