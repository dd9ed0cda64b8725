"""The guidance of a run: one class per kind of diffusion model."""

from __future__ import annotations

from pathlib import Path

import torch

from ..base.errors import PriorError
from ..config.schema import RunConfig
from ..hub.fetch import model_path
from ..hub.names import TOYBOX_NAME
from .checks import what_it_is
from .denoisers.diffusion import UnetGuidance
from .denoisers.flow import FlowGuidance
from .denoisers.latent import LatentGuidance, XLGuidance
from .denoisers.pixel import PixelGuidance
from .pipeline_folder import read_index
from .protocol import Guidance

TOYBOX = Path(__file__).parents[1] / "toybox" / "priors" / "toybox-64"
FAMILIES: tuple[type[UnetGuidance], ...] = (FlowGuidance, XLGuidance, LatentGuidance, PixelGuidance)

__all__ = [
    "FAMILIES",
    "TOYBOX",
    "FlowGuidance",
    "LatentGuidance",
    "PixelGuidance",
    "UnetGuidance",
    "XLGuidance",
    "check_guidance",
    "family",
    "load_guidance",
    "model_folder",
]


def load_guidance(config: RunConfig, device: torch.device | str) -> Guidance:
    """The guidance of a run, on `device`. `config.guidance.model` is "toybox", a local folder in diffusers format, or a
    short name or hub id (hub/names.py), which alone may lead to a download. Raises PriorError where the model is
    missing, damaged, or of a kind that is not understood."""
    folder = model_folder(config)
    return family(folder)(config, folder, torch.device(device))


def check_guidance(config: RunConfig) -> None:
    """Raise PriorError for what can be known to be wrong with the model's folder without loading its weights."""
    folder = model_folder(config)
    family(folder).check(folder)


def family(folder: Path) -> type[UnetGuidance]:
    """The class for the model in a folder. Raises PriorError where there is none."""
    index = read_index(folder)
    for found in FAMILIES:
        if found.accepts(index):
            return found
    reason = f" ({what})" if (what := what_it_is(index)) else ""
    raise PriorError(
        f"{folder} holds a {index.get('_class_name', 'pipeline')}, which is not understood{reason}; what "
        "is: Stable Diffusion 1, 2 and 3, SDXL, DeepFloyd IF and other UNets with a text encoder"
    )


def model_folder(config: RunConfig) -> Path:
    """The local folder of the config's model; fetched where it is on the hub only."""
    model = config.guidance.model
    return TOYBOX if model == TOYBOX_NAME else model_path(model)
