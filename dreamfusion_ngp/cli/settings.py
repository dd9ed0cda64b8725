"""Makes the config of a run from the flags of the command line."""

from __future__ import annotations

from dataclasses import replace

from ..base.characters import clean_text
from ..base.errors import UsageError
from ..config.checks import check_config, clean_texts
from ..config.models import DETAILS
from ..config.overrides import override
from ..config.presets import preset
from ..config.prompts import clean_prompt
from ..config.recipes import for_a_public_model
from ..config.rules import with_rule
from ..config.schema import RunConfig
from ..hub.names import TOYBOX_NAME, on_the_hub


def run_config(args):
    """The preset with the flags of `generate` applied."""
    from ..hub.guided import guided, knows_toys, preset_of

    prompt = args.prompt_flag if args.prompt_flag is not None else args.prompt
    if prompt is None or (args.prompt_flag is not None and args.prompt is not None):
        raise UsageError('give one prompt: dreamfusion-ngp generate "a red mug"')
    prompt = clean_prompt(prompt)  # before a model is fetched for it
    clean_text(args.negative or "", "the negative prompt")
    model = args.guidance if args.guidance is not None else TOYBOX_NAME
    toys = knows_toys(model)
    name = args.preset if args.preset is not None else preset_of(model)
    config = replace(preset(name, toys), prompt=prompt, seed=args.seed)
    config = with_flags(config if args.guidance is None else guided(config, model), args)
    if on_the_hub(config.guidance.model):
        from ..hub.fetch import locate

        locate(config.guidance.model)  # a missing model is an error before torch is loaded
    return config


def with_flags(config: RunConfig, args) -> RunConfig:
    """The config with the flags of `arguments.add_guidance`, except the model, in every stage, and --steps in the
    first. Raises UsageError and PromptError for settings that cannot be used."""
    clean_text(args.negative or "", "the negative prompt")
    if args.rule is not None:
        from ..hub.guided import knows_toys

        config = with_rule(config, args.rule, knows_toys(config.guidance.model))
    for text in args.overrides:
        config = override(config, text)
    if args.steps is not None:
        if args.steps < 1:
            raise UsageError(f"--steps must be at least 1, got {args.steps}")
        config = replace(config, steps=args.steps)
    config = clean_texts(with_model_flags(config, args))
    stages = list(config.stages())
    if args.depth_control is not None and not any(stage.paint.views for stage in stages):
        raise UsageError("--depth-control is for a run with a stage of texture: refine, or preset textmesh")
    reads_negative = any(stage.guidance.kind != "clip" or stage.clip.negative for stage in stages)
    if config.guidance.negative and not reads_negative:
        raise UsageError(
            "--negative has no effect on a guidance by CLIP while its weight, clip.negative, is 0: add "
            "--set clip.negative=WEIGHT (1: as much as the prompt's), or leave --negative out"
        )
    if args.guidance_scale is not None and all(stage.guidance.kind == "clip" for stage in stages):
        raise UsageError("--guidance-scale has no effect on a guidance by CLIP, which has no scale; leave it out")
    check_config(config)
    return config


def with_model_flags(config: RunConfig, args) -> RunConfig:
    """The config with the flags of the model, in every stage."""
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
        if config.kind == "texture" and not config.paint.views:  # a painter without views to paint would be unused
            config = replace(config, paint=replace(config.paint, views=4))
    return replace(config, guidance=guidance, then=config.then and with_model_flags(config.then, args))


def refine_config(args):
    """The preset "refine", or "refine-geometry", with the flags of `refine` applied, still without mesh and prompt."""
    config = replace(preset("refine-geometry" if args.geometry else "refine"), seed=args.seed)
    if args.guidance is not None:
        from ..hub.guided import guided, knows_toys, preset_of

        name = preset_of(args.guidance)
        if name in DETAILS and name != "mvdream":  # which sees rings of views and is refused
            config = for_a_public_model(config, preset(name, knows_toys(args.guidance)))
        config = guided(config, args.guidance)
    return with_flags(config, args)
