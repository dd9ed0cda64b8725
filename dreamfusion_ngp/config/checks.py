"""Checks of a run's settings."""

from __future__ import annotations

import dataclasses

from ..base.characters import clean_text
from ..base.errors import UsageError
from .io import from_dict, to_dict
from .schema import ClipConfig, GuidanceConfig, RunConfig, resolution_at

VIEWS = ("front", "left", "back", "right")  # of TextureConfig.keep
LARGEST = 1e30  # numbers without limits of their own: float32 holds them
BACKGROUNDS = ("noise", "checker", "fourier", "flat")  # of ClipConfig


def limited(config, group: str = ""):
    """Yield (path, value, limits) of every setting, those of groups as "group.key"."""
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        if dataclasses.is_dataclass(value):
            yield from limited(value, f"{group}{each.name}.")
        else:
            yield f"{group}{each.name}", value, each.metadata


def setting(config: RunConfig, path: str):
    """The value at "group.key"."""
    for name in path.split("."):
        config = getattr(config, name)
    return config


def clean_texts(config: RunConfig) -> RunConfig:
    """The config with its texts in normal form (`clean_text`). Raises PromptError that names a text that cannot be
    used."""
    guidance = dataclasses.replace(
        config.guidance,
        negative=clean_text(config.guidance.negative, "the negative prompt"),
        flaws=clean_text(config.guidance.flaws, "guidance.flaws"),
    )
    return dataclasses.replace(
        config,
        prompt=clean_text(config.prompt, "the prompt"),
        guidance=guidance,
        preset=clean_text(config.preset, "the name of the preset"),
    )


def check_limits(config: RunConfig) -> None:
    """Raise UsageError that names the setting for a value out of range or not a choice."""
    for path, value, limits in limited(config):
        if value not in limits.get("choices", (value,)):
            raise UsageError(f"{path} must be one of {', '.join(map(str, limits['choices']))}, got {value!r}")
        low, high = limits.get("range", (-LARGEST, LARGEST))
        numbers = [v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, (int, float))]
        if not all(low <= v <= high for v in numbers):
            raise UsageError(f"{path} must be from {low} to {high}, got {str(value)[:60]}")
        if limits.get("interval") and value is not None and value[0] > value[1]:
            raise UsageError(f"{path} must be (lowest, highest), got {value}")


def check_config(config: RunConfig) -> None:
    """Raise UsageError that names the setting for a value of a wrong type, not finite, out of range or not a choice,
    and for a text that cannot be used."""
    from_dict(RunConfig, to_dict(config))
    clean_texts(config)
    check_limits(config)
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
        'loss.eikonal is for a signed distance: field.kind "sdf"': config.loss.eikonal > 0 and field.kind != "sdf",
        'mesh.bump is for a stage of kind "sphere" with mesh.show "color"': config.mesh.bump > 0
        and (config.kind != "sphere" or config.mesh.show != "color"),
        "field.beta must be (at the start, floor below it)": field.beta[0] <= field.beta[1],
        "field.sphere must be below field.bound": field.kind == "sdf" and field.sphere >= field.bound,
        "particles are of volumes: a stage of another kind has one": config.particles > 1 and config.kind != "volume",
        "mesh.resolution must be even": config.mesh.resolution % 2 != 0,
        "render.occupancy_resolution must be a multiple of 4": config.render.occupancy_resolution % 4 != 0,
        "render.resolution, doubled as often as render.resolution_doubles says, must be at most 4096": resolution_at(
            config.render, 1.0
        )
        > 4096,
        f"views must be a multiple of camera.ring, of {config.camera.ring} sides of one object": config.views
        % (config.camera.ring or 1)
        != 0,
    }
    problems |= {
        "paint.views must be 0, 4 or 6": config.paint.views not in (0, 4, 6),
        "paint.resolution must be a multiple of 32": config.paint.resolution % 32 != 0,
        'only a stage of kind "texture" paints: paint.views must be 0': config.paint.views > 0
        and config.kind != "texture",
    }
    problems |= guidance_problems(config.guidance, config.clip, config.accumulate) | order_problems(config, config.then)
    for problem in (text for text, wrong in problems.items() if wrong):
        raise UsageError(problem)
    if config.then is not None:
        check_config(config.then)


def order_problems(config: RunConfig, then: RunConfig | None) -> dict[str, bool]:
    """Message about what a stage cannot do, or what cannot follow it -> whether this config has it."""
    words = {part.strip().lower() for part in config.texture.keep.split(",")} - {""}
    fixed = config.kind == "texture" or (config.kind == "mesh" and config.mesh.learn == "color")
    problems = {
        f"texture.keep must be views, of {', '.join(VIEWS)}, with commas": not words <= set(VIEWS),
        'mesh.show "normal" is for a stage that changes the shape: this one learns colours alone': fixed
        and config.mesh.show == "normal",
    }
    if then is None:
        return problems
    return problems | {
        "a sphere is the first stage of a run; it takes nothing over": then.kind == "sphere",
        "several particles start from nothing: they cannot go on from another stage": then.particles > 1,
        "a texture of an imported mesh is the first stage, with no other before it": then.kind == "texture"
        and bool(then.texture.source),
        "a volume goes on from a volume only": then.kind == "volume" and config.kind != "volume",
        "a texture goes on from a volume, a mesh or a sphere, not from another texture": then.kind == "texture"
        and config.kind == "texture",
    }


def guidance_problems(config: GuidanceConfig, clip: ClipConfig, accumulate: int) -> dict[str, bool]:
    """Message about settings of guidance that exclude each other -> whether this config has them."""
    rescales = config.rescale > 0 and config.rescale_of == "clean"
    weighs = config.rule in ("linear", "csd", "nfsd", "bridge")
    return {
        "guidance.compile and guidance.offload exclude each other": config.compile is not None and config.offload,
        'guidance.view_blend other than "nearest" needs guidance.view_words "paper"': config.view_blend != "nearest"
        and config.view_words != "paper",
        'guidance.rescale_of "clean" looks at all views of a step together: accumulate must be 1 (guidance.slice saves '
        "as much memory of the model)": rescales and accumulate > 1,
        'guidance.rule "bridge" needs guidance.flaws, words for what a rendering should not look like (the embedded '
        "priors know none)": config.rule == "bridge" and not config.flaws.strip(),
        'guidance.view_blend "perp-neg" is for rules that ask for the guided prediction; linear, csd, nfsd and bridge '
        "weigh texts themselves": config.view_blend == "perp-neg" and weighs,
        "guidance.rule rfds and rfds_rev weigh velocities, not clean images: guidance.clip_clean and "
        'guidance.rescale_of "clean" are not for them': config.rule.startswith("rfds")
        and (config.clip_clean or rescales),
        f"clip.backgrounds must be some of {', '.join(BACKGROUNDS)}": not clip.backgrounds
        or not set(clip.backgrounds) <= set(BACKGROUNDS),
        'a guidance of kind "clip" distils nothing: guidance.rule, loras, embeddings and vae are not for it': (
            config.kind == "clip" and bool(config.rule != "sds" or config.loras or config.embeddings or config.vae)
        ),
        "guidance.t_max_end must be at least the lower end of guidance.t_range": config.t_max_end < config.t_range[0],
    }
