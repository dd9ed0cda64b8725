"""Presets for public models: the published configuration that each starts from, and its changes, with reasons."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .baselines import changed
from .published import DREAMFUSION_IF, DREAMFUSION_SD, MVDREAM_SD21, RFDS_SD3, Published, convert
from .schema import RunConfig


@dataclass(frozen=True)
class Preset:
    """base: the configuration it starts from. changes: path of a setting -> (value, why it differs from the base)."""

    base: Published
    changes: dict[str, tuple[object, str]]


_CUBE = (
    "threestudio looks at the middle of a cube of 4. The half of it that its cameras see holds the object, and "
    "the cells of the occupancy grid and of the exported mesh are half as wide; the finest level's cell is the "
    "same."
)
_SMALL_STEPS = (
    "Every step brings new noise, which surfaces keep as roughness unless the steps become small: measured "
    "with preset `fast`."
)
_BACKGROUND = (
    "threestudio's README advises it (random_aug, off by default) where the background becomes part of the "
    "object, as it did in runs of preset `dreamfusion` here."
)
_OPPOSITE = (
    "Views on opposite sides: reported to raise R-Precision by ten points at an equal number of UNet calls "
    "(arXiv 2606.29964). Not measured here; twice the cost of a step."
)

_OURS = {
    "field.bound": (1.0, _CUBE),
    "field.finest_resolution": (2048, _CUBE),
    "render.random_background": (0.5, _BACKGROUND),
    "optim.final": (0.1, _SMALL_STEPS),
}
_DETAIL = "A latent model's encoder sees 64 pixels blurred up to 512: enough for the shape, too little for texture."
_LATENT = {
    **_OURS,
    "render.resolution_doubles": ((0.2, 0.6), _DETAIL),
    "render.budget": (1 << 22, "Samples for two views of 256 x 256 pixels."),
    "guidance.t_max_end": (0.5, "Low noise sharpens: the upper end of t falls to .5 in ProlificDreamer and MVDream."),
}
_TWO_VIEWS = {"views": (2, _OPPOSITE), "camera.stratified_azimuth": (True, _OPPOSITE)}
_TOGETHER = (
    "MVDream's form and share: scale 101 over-saturates. At low noise it holds contrast down, at high noise "
    "it is little but a factor."
)
_FRUGAL = "2.6 billion parameters and 1024 pixels in 24 GB, by the memory plan."
_OWN = (
    "RFDS encodes 512 pixels. The model's own resolution is right for every folder and costs more: the encoder's "
    "activations are computed anew."
)

DETAILS = {
    "sd15": Preset(
        DREAMFUSION_SD,
        {
            **_LATENT,
            **_TWO_VIEWS,
            "guidance.rescale": (0.5, _TOGETHER),
            "guidance.rescale_of": ("clean", _TOGETHER),
            "guidance.t_shared": (True, "One factor for all views fits them only at one noise level, as in MVDream."),
        },
    ),
    "sd21": Preset(DREAMFUSION_SD, {**_LATENT, **_TWO_VIEWS}),
    "sdxl": Preset(
        DREAMFUSION_SD,
        {
            **_LATENT,
            "accumulate": (2, "Two views a step, one after the other, to average their noise."),
            "guidance.slice": (1, _FRUGAL),
            "guidance.checkpoint": (True, _FRUGAL),
        },
    ),
    "sd3": Preset(
        RFDS_SD3,
        {
            "guidance.resolution": (None, _OWN),
            "guidance.checkpoint": (True, _OWN),
            "render.budget": (
                1 << 22,
                "RFDS keeps every sample; these bound the memory and hold a view of 512 x 512 once "
                "the space around the object is known to be empty.",
            ),
        },
    ),
    "mvdream": Preset(
        MVDREAM_SD21,
        {
            "views": (4, "One object. MVDream has two while it renders 64 pixels, which a run here cannot change."),
            "optim.final": (0.1, _SMALL_STEPS),
            "render.budget": (1 << 22, "Samples for four views of 256 x 256 pixels, once empty space is known."),
        },
    ),
    "if": Preset(
        DREAMFUSION_IF,
        {
            **_OURS,
            "views": (4, "The paper's; threestudio's gallery of this configuration was made with 8."),
            "camera.stratified_azimuth": (True, _OPPOSITE),
            "render.budget": (1 << 20, "Samples for four views of 64 x 64 pixels."),
        },
    ),
}


def build(name: str) -> RunConfig:
    """The preset called `name`, of those in DETAILS."""
    config = replace(convert(DETAILS[name].base), preset=name)
    return changed(config, DETAILS[name].changes)
