"""Settings for this package in a model's folder: dreamfusion_ngp.json."""

from __future__ import annotations

from pathlib import Path

from ..base.errors import PriorError
from .pipeline_folder import read_object

SETTINGS = "dreamfusion_ngp.json"
MOST_LAYERS = 1000


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -1e9 < value < 1e9


# name -> (what its value must be, in words; whether it is)
KNOWN = {
    "guidance_scale": ("a number", _is_number),
    "encoder_attention_mask": ("true or false", lambda value: isinstance(value, bool)),
    "prediction_type": (
        "epsilon, v_prediction or sample",
        lambda value: value in ("epsilon", "v_prediction", "sample"),
    ),
    "views": ("a whole number from 2 to 16", lambda value: type(value) is int and 2 <= value <= 16),
    "clip_skip": ("a whole number from 0", lambda value: type(value) is int and 0 <= value < MOST_LAYERS),
    "toys": ("true or false", lambda value: isinstance(value, bool)),
}


def read_settings(folder: Path) -> dict:
    """The settings in a folder's dreamfusion_ngp.json; {} without one; null means unset.

    guidance_scale: number, the model's own scale, uncond + scale (cond - uncond).  encoder_attention_mask: bool,
    whether the UNet was trained with padding hidden from it.  prediction_type: what the UNet predicts, instead of what
    its scheduler says.  clip_skip: how many of CLIP's last layers the texts skip, as in diffusers' `encode_prompt`; the
    negative text skips none, as there.  views: of an object that a model of several views sees at once.  toys: it knows
    the embedded toys, so presets use the numbers for embedded models. Raises PriorError for an unknown setting or an
    invalid value.
    """
    path = folder / SETTINGS
    if not path.exists():
        return {}
    settings = {name: value for name, value in read_object(path).items() if value is not None}
    for name, value in settings.items():
        if name not in KNOWN:
            raise PriorError(f"{path}: there is no setting {name[:60]!r}; there are {', '.join(KNOWN)}")
        expected, right = KNOWN[name]
        if not right(value):
            raise PriorError(f"{path}: {name} cannot be {repr(value)[:60]}; wanted is {expected}")
    return settings
