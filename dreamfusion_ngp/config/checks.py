"""What the settings of a run may be."""

from __future__ import annotations

import dataclasses

from ..base.characters import clean_text
from ..base.errors import UsageError
from .io import from_dict, to_dict
from .schema import RunConfig, resolution_at

CHOICES = {
    "field.interpolation": ("linear", "smoothstep"),
    "field.density": ("exp", "softplus"),
    "field.backend": ("native", "tinycudann"),
    "guidance.weighting": ("sigma2", "uniform", "clean", "velocity"),
    "guidance.rescale_of": ("prediction", "clean"),
    "guidance.view_words": ("paper", "fine", "degrees", "none"),
    "guidance.view_blend": ("nearest", "linear", "perp-neg"),
    "guidance.precision": ("auto", "float32", "float16", "bfloat16"),
    "guidance.compile": ("none", "default", "reduce-overhead", "max-autotune"),
}
# Lowest and highest value of a number, or of both ends of an interval.
RANGES = {
    "seed": (0, (1 << 63) - 1),
    "steps": (1, 1 << 40),
    "views": (1, 256),
    "accumulate": (1, 256),
    "camera.elevation": (-90, 90),
    "camera.uniform_angle_probability": (0, 1),
    "camera.distance": (1e-3, 1e3),
    "camera.focal": (1e-2, 1e2),
    "camera.position_jitter": (0, 1e3),
    "camera.look_at_std": (0, 1e3),
    "camera.up_std": (0, 10),
    "light.lit_probability": (0, 1),
    "light.textureless_probability": (0, 1),
    "light.direction_std": (0, 1e3),
    "light.distance": (1e-3, 1e3),
    "field.levels": (1, 32),
    "field.features": (1, 8),
    "field.log2_table": (3, 26),
    "field.base_resolution": (1, 1 << 20),
    "field.finest_resolution": (1, 1 << 20),
    "field.hidden": (1, 128),
    "field.bound": (1e-3, 1e3),
    "field.background_hidden": (0, 4096),
    "field.background_frequencies": (0, 16),
    "render.resolution": (1, 4096),
    "render.step": (1e-6, 1e3),
    "render.near": (0, 1e3),
    "render.budget": (1, (1 << 31) - 1),
    "render.occupancy_resolution": (4, 512),
    "render.occupancy_decay": (0, 1),
    "render.occupancy_threshold": (0, 1e6),
    "render.occupancy_interval": (1, 1 << 40),
    "render.random_background": (0, 1),
    "guidance.t_range": (0, 1),
    "guidance.t_max_end": (0, 1),
    "guidance.t_window": (0, 1),
    "guidance.rescale": (0, 1),
    "guidance.clip_gradient": (0, 1e9),
    "guidance.resolution": (0, 4096),
    "guidance.slice": (0, 256),
    "render.resolution_doubles": (0, 1),
    "loss.orientation_ramp": (0, 1),
    "loss.entropy_from": (0, 1),
    "optim.lr_grid": (0, 1e3),
    "optim.lr_mlp": (0, 1e3),
    "optim.lr_background": (0, 1e3),
    "optim.betas": (0, 1 - 1e-9),
    "optim.eps": (1e-38, 1),
    "optim.warmup": (0, 1),
    "optim.final": (0, 1),
}
INTERVALS = (
    "camera.elevation",
    "camera.distance",
    "camera.focal",
    "light.distance",
    "guidance.t_range",
    "render.resolution_doubles",
)


def setting(config: RunConfig, path: str):
    """The value at "group.key"."""
    for name in path.split("."):
        config = getattr(config, name)
    return config


def clean_texts(config: RunConfig) -> RunConfig:
    """The config with its texts in normal form (`clean_text`). Raises PromptError that says which cannot be used."""
    guidance = dataclasses.replace(
        config.guidance, negative=clean_text(config.guidance.negative, "the negative prompt")
    )
    return dataclasses.replace(
        config,
        prompt=clean_text(config.prompt, "the prompt"),
        guidance=guidance,
        preset=clean_text(config.preset, "the name of the preset"),
    )


def check_config(config: RunConfig) -> None:
    """Raise UsageError that names the setting for a value of a wrong type, not finite, out of range or not a choice,
    and for a text that cannot be used."""
    from_dict(RunConfig, to_dict(config))
    clean_texts(config)
    for path, known in CHOICES.items():
        if setting(config, path) not in known:
            raise UsageError(f"{path} must be one of {', '.join(known)}, got {setting(config, path)!r}")
    for path, (low, high) in RANGES.items():
        value = setting(config, path)
        if not all(low <= v <= high for v in (value if isinstance(value, tuple) else (value,))):
            raise UsageError(f"{path} must be from {low} to {high}, got {value}")
    for path in INTERVALS:
        if setting(config, path)[0] > setting(config, path)[1]:
            raise UsageError(f"{path} must be (lowest, highest), got {setting(config, path)}")
    field, (kind, _, radius) = config.field, config.field.blob
    problems = {
        "field.finest_resolution must be at least field.base_resolution": field.finest_resolution
        < field.base_resolution,
        "field.levels * field.features must be at most 64": field.levels * field.features > 64,
        'field.blob must be ["gaussian", "cone" or "none", strength, radius above 0]': kind
        not in ("gaussian", "cone", "none")
        or radius <= 0,
        'field.half_table and field.tensor_cores need field.backend "native"': field.backend != "native"
        and (field.half_table or field.tensor_cores),
        "render.occupancy_resolution must be a multiple of 4": config.render.occupancy_resolution % 4 != 0,
        "guidance.compile and guidance.offload exclude each other": config.guidance.compile != "none"
        and config.guidance.offload,
        'guidance.view_blend other than "nearest" needs guidance.view_words "paper"': config.guidance.view_blend
        != "nearest"
        and config.guidance.view_words != "paper",
        "render.resolution, doubled as often as render.resolution_doubles says, must be at most 4096": resolution_at(
            config.render, 1.0
        )
        > 4096,
        'guidance.rescale_of "clean" looks at all views of a step together: accumulate must be 1 (guidance.slice saves '
        "as much memory of the model)": config.guidance.rescale > 0
        and config.guidance.rescale_of == "clean"
        and config.accumulate > 1,
        "guidance.t_max_end must be at least the lower end of guidance.t_range": config.guidance.t_max_end
        < config.guidance.t_range[0],
    }
    for problem in (text for text, wrong in problems.items() if wrong):
        raise UsageError(problem)
