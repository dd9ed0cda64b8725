"""Guidance: what pulls a rendering towards its text. One protocol; one class per kind of diffusion model."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch

from ..config import RunConfig
from ..views import Views
from .pixel import PixelGuidance, check_folder
from .sds import SdsOutput

TOYBOX = Path(__file__).parents[1] / "toybox" / "priors" / "toybox-64"

__all__ = ["TOYBOX", "Guidance", "PixelGuidance", "SdsOutput", "check_guidance", "load_guidance"]


class Guidance(Protocol):
    """A frozen judge of renderings.

    rgb: (B, H, W, 3) float32 in [0, 1], with autograd.  views: the B views it shows.  step: 0-based step of the run;
    all randomness is a function of the run's seed and of it. `output.loss.backward()` puts the guidance's gradient on
    rgb.
    """

    def __call__(self, rgb: torch.Tensor, views: Views, step: int) -> SdsOutput: ...


def load_guidance(config: RunConfig, device: torch.device | str) -> Guidance:
    """The guidance of a run, on `device`. `config.guidance.model` is "toybox" or a local folder in diffusers format;
    nothing is ever downloaded. Raises PriorError where the folder is missing, damaged, or holds a kind of model that is
    not understood."""
    return PixelGuidance(config, model_folder(config), torch.device(device))


def check_guidance(config: RunConfig) -> None:
    """Raise PriorError for what can be known to be wrong with the model's folder without loading it (milliseconds)."""
    check_folder(model_folder(config))


def model_folder(config: RunConfig) -> Path:
    return TOYBOX if config.guidance.model == "toybox" else Path(config.guidance.model).expanduser()
