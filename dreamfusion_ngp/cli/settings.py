"""From the flags of `generate` to the config of a run."""

from __future__ import annotations

from dataclasses import replace

from ..base.characters import clean_text
from ..base.errors import UsageError
from ..config.checks import check_config, clean_texts
from ..config.overrides import override
from ..config.presets import preset
from ..config.prompts import clean_prompt
from ..config.rules import with_rule
from ..config.schema import RunConfig
from ..hub.guided import guided
from ..hub.names import ALIASES, TOYBOX_NAME, TOYBOXES, folder_of, on_the_hub, preset_name


def run_config(args):
    """The preset with the flags of `generate` applied."""
    prompt = args.prompt_flag if args.prompt_flag is not None else args.prompt
    if prompt is None or (args.prompt_flag is not None and args.prompt is not None):
        raise UsageError('give one prompt: dreamfusion-ngp generate "a red mug"')
    prompt = clean_prompt(prompt)  # before a model is fetched for it
    clean_text(args.negative or "", "the negative prompt")
    model = args.guidance if args.guidance is not None else TOYBOX_NAME
    name = args.preset if args.preset is not None else preset_name(model, pipeline_class(model))
    config = replace(preset(name, of_toys(model)), prompt=prompt, seed=args.seed)
    config = flagged(config if args.guidance is None else guided(config, model), args)
    if on_the_hub(config.guidance.model):
        from ..hub.fetch import locate

        locate(config.guidance.model)  # a model that cannot be had is known before torch is loaded
    return config


def flagged(config: RunConfig, args) -> RunConfig:
    """The config with the flags of `arguments.add_guidance`, but for the model, in every stage, and with the number of
    steps in the first. Raises UsageError and PromptError for what cannot be."""
    clean_text(args.negative or "", "the negative prompt")
    if args.rule is not None:
        config = with_rule(config, args.rule, config.guidance.model in TOYBOXES)
    for text in args.overrides:
        config = override(config, text)
    if args.steps is not None:
        if args.steps < 1:
            raise UsageError(f"--steps must be at least 1, got {args.steps}")
        config = replace(config, steps=args.steps)
    config = clean_texts(told(config, args))
    if args.depth_control is not None and not paints(config):
        raise UsageError("--depth-control is for a run with a stage of texture: refine, or preset textmesh")
    check_config(config)
    return config


def paints(config: RunConfig) -> bool:
    """Whether a stage of the run does."""
    return config.paint.views > 0 or (config.then is not None and paints(config.then))


def told(config: RunConfig, args) -> RunConfig:
    """The config with what the flags say to the model of every stage."""
    guidance = config.guidance
    if args.guidance_scale is not None:
        guidance = replace(guidance, scale=args.guidance_scale)
    if args.low_memory:
        guidance = replace(guidance, slice=1, checkpoint=True, offload=guidance.rule != "vsd")
    if args.loras:
        guidance = replace(guidance, loras=(*guidance.loras, *args.loras))
    if args.embeddings:
        guidance = replace(guidance, embeddings=(*guidance.embeddings, *args.embeddings))
    if args.negative is not None:
        guidance = replace(guidance, negative=args.negative)
    if args.depth_control is not None:
        guidance = replace(guidance, control=args.depth_control)
        if config.kind == "texture" and not config.paint.views:  # who names a painter wants something painted
            config = replace(config, paint=replace(config.paint, views=4))
    return replace(config, guidance=guidance, then=config.then and told(config.then, args))


def refine_config(args):
    """The preset "refine", or "refine-geometry", with the flags of `refine` applied, before a mesh and a prompt are
    set."""
    config = replace(preset("refine-geometry" if args.geometry else "refine"), seed=args.seed)
    if args.guidance is not None:
        pipeline_class(args.guidance)
        config = guided(config, args.guidance)
    return flagged(config, args)


def of_toys(model: str) -> bool:
    """Whether a model is an embedded one, or a folder of train-prior that says of itself to be like one."""
    from ..hub.fetch import read_json

    return model in TOYBOXES or bool(read_json(folder_of(model) / "dreamfusion_ngp.json").get("toys"))


def pipeline_class(model: str) -> str:
    """The class of a model's pipeline; "" for short names, whose preset is known, and for a folder that is none:
    whoever loads it says why. Fetches a hub id's model. Raises PriorError where it is not there."""
    from ..hub.fetch import model_path, read_json

    if model in ALIASES or model in TOYBOXES:
        return ""  # its preset is known
    folder = model_path(model)
    if found := read_json(folder / "model_index.json").get("_class_name"):
        return str(found)
    names = read_json(folder / "config.json").get("architectures")  # of a CLIP, which has no pipeline
    return str(names[0]) if isinstance(names, list) and names else ""
