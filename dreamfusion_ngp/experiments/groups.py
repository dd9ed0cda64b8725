"""What `ablation` compares, as data: arms are presets with some settings changed, and a reason each.

Every arm makes as many steps as the default preset, times its own factor, so that arms see equally many pictures
(but where length is what is compared).
"""

from __future__ import annotations

from dataclasses import replace

from .arms import Arm, Group
from .prompts import SIX, TWENTY_FOUR

# What the paper's ablation takes away (figure 6), over preset `fast`. Narrow: Dream Fields' limit, one lens, no jitter.
NARROW = (
    "camera.elevation=[0,30]",
    "camera.focal=[1.2,1.2]",
    "camera.position_jitter=0",
    "camera.look_at_std=0",
    "camera.up_std=0",
)
ONE_PROMPT = ("guidance.view_words=none",)
UNLIT = ("light.lit_probability=0", "guidance.mode_words=false")

DEFAULT = Arm("preset", "preset `fast` as it is")
TWO_VIEWS = Arm("2 views", "on opposite sides: evenly spaced azimuths are antipodal for two", ("views=2",), steps=2)
MULTIVIEW = Arm("toybox-mv", "four views at once and no words of the view", preset="mvdream")

RULES = (
    DEFAULT,
    Arm("sds, 2 views", "two opposite views a step and twice the steps", ("views=2",), steps=2),
    Arm("csd", "what the text adds, without the noise", rule="csd"),
    Arm("x0", "the clean image, rescaled over the views as in MVDream", rule="x0"),
    Arm("asd", "the text's answer at a later t instead of the noise", rule="asd", steps=2 / 3),
    Arm("vsd", "a student of the renderings; its lesson counts as three", rule="vsd", steps=2 / 6),
    Arm("ism", "two points of an unguided path from the rendering", rule="ism", steps=2 / 8),
    Arm("sdi", "the noise from which DDIM comes to the rendering", rule="sdi", steps=2 / 22),
)

SCALE = ("guidance.scale=7.5",)
AT_7_5 = (
    DEFAULT,
    Arm("sds, 7.5", "three times the prior's own scale", SCALE),
    Arm("x0, 7.5", "its rescaling is to keep the colours", SCALE, rule="x0"),
    Arm("asd, 7.5", "the scale of its paper", SCALE, rule="asd", steps=2 / 3),
    Arm("vsd, 7.5", "the scale of its paper; a lesson counts as three", SCALE, rule="vsd", steps=2 / 6),
)
RULE_GROUPS = ("rules", "rules-long", "rules-256", "rules-scale")

LONG = replace(DEFAULT, why="preset `fast` in three times its steps")
LATENT = replace(DEFAULT, why="preset `toybox-256` in as many steps as `fast`")

GROUPS = {
    "bars": Group(
        "Twenty-four toys, default preset",
        "The bars: the default command on a list that was drawn once by a fixed seed.",
        (DEFAULT,),
        TWENTY_FOUR,
        (0, 1, 2),
        whole=True,
    ),
    "paper": Group(
        "The paper's ablation",
        "DreamFusion, figure 6: what random cameras, view-dependent prompts, lighting and textureless shading are each "
        "worth. Every arm has what the one before it has.",
        (
            Arm("base", "albedo only, one prompt for all views, narrow views", NARROW + ONE_PROMPT + UNLIT),
            Arm("+ random views", "the preset's elevations, lenses and jitter", ONE_PROMPT + UNLIT),
            Arm("+ view words", "the prompt says from where the object is seen", UNLIT),
            Arm("+ lighting", "some views are lit, and the prompt says which", ("light.textureless_probability=0",)),
            Arm("+ textureless", "some lit views have no colours: preset `fast` as it is"),
        ),
        SIX,
    ),
    "scale": Group(
        "Guidance scale",
        "uncond + scale (cond - uncond). The paper's 100 is for Imagen; the embedded prior is far smaller.",
        (
            Arm("1", "no guidance: the conditional answer", ("guidance.scale=1",)),
            Arm("1.5", "between that and the prior's own", ("guidance.scale=1.5",)),
            Arm("preset", "the prior's own scale (2.5 for the weights of November 2026)"),
            Arm("5", "twice that", ("guidance.scale=5",)),
            Arm("20", "what DeepFloyd IF is run with", ("guidance.scale=20",)),
            Arm("100", "about the paper's (its omega of 100 is 101 here)", ("guidance.scale=100",)),
        ),
        SIX,
    ),
    "views": Group(
        "Views per step",
        "The same number of pictures, in more or fewer steps.",
        (
            Arm("1 view", "four times the steps", ("views=1",), steps=4),
            TWO_VIEWS,
            Arm("preset", "4 views, evenly spaced around the object"),
            Arm("8 views", "half of the steps", ("views=8",), steps=0.5),
        ),
        SIX,
    ),
    "words": Group(
        "What the guidance is told about the view",
        "A prior that knows views still makes faces all round if it is not told from where it looks. The ways to say "
        "so, from nothing to degrees, and those that others use for models that know four words.",
        (
            Arm("nothing", "one prompt for all views", ("guidance.view_words=none",)),
            Arm("four words", "the paper's front, side, back and overhead", ("guidance.view_words=paper",)),
            Arm(
                "four, mixed",
                "their embeddings mixed by the azimuth",
                ("guidance.view_words=paper", "guidance.view_blend=linear"),
            ),
            Arm(
                "four, Perp-Neg",
                "and weighed against what the view is not, at twice the UNet's work",
                ("guidance.view_words=paper", "guidance.view_blend=perp-neg"),
            ),
            Arm("eight directions", "left and right told apart, four heights", ("guidance.view_words=fine",)),
            Arm("preset", "24 azimuths and 7 elevations as words"),
            Arm("view on both sides", "the unconditional answer is told the view, too", ("guidance.keep_view=true",)),
        ),
        SIX,
    ),
    "multiview": Group(
        "Four views at once",
        "MVDream's claim: a model that sees four sides of one object together has no reason for a second face, though "
        "no text tells it the side. The row of toybox-mv was made on a machine half as fast as the others': its UNet "
        "takes 1.45 times as long as toybox-64's, not its runs 2.4 times.",
        (
            Arm("nothing", "toybox-64, one prompt for all views", ONE_PROMPT),
            Arm("four words", "toybox-64, the paper's front, side, back and overhead", ("guidance.view_words=paper",)),
            Arm("preset", "toybox-64, azimuths and elevations in degrees as words"),
            MULTIVIEW,
        ),
        SIX,
    ),
    "multiview-24": Group(
        "Four views at once, twenty-four toys",
        "The prompts and seeds of the first table with preset `mvdream`; seconds of the optimisation alone.",
        (MULTIVIEW,),
        TWENTY_FOUR,
    ),
    "antipodal": Group(
        "Views of one step together",
        "Reported for Stable Diffusion (arXiv 2606.29964): views on opposite sides in one step raise R-Precision at an "
        "equal number of UNet calls. Here with the same number of pictures.",
        (
            Arm("2 independent", "azimuths drawn one by one", ("views=2", "camera.stratified_azimuth=false"), steps=2),
            TWO_VIEWS,
            Arm("4 independent", "azimuths drawn one by one", ("camera.stratified_azimuth=false",)),
            Arm("preset", "4 views, evenly spaced"),
        ),
        SIX,
    ),
    "annealing": Group(
        "Noise levels over the run",
        "The paper draws t from (.02, .98) to the end; later methods let the upper end fall.",
        (
            Arm(
                "all levels",
                "the paper's: t in (.02, .98) throughout",
                ("guidance.t_range=[0.02,0.98]", "guidance.t_max_end=0.98", "guidance.t_window=1"),
            ),
            Arm("to .5", "the upper end falls to .5", ("guidance.t_max_end=0.5", "guidance.t_window=1")),
            Arm("window to .5", "a window of .16 whose upper end falls to .5", ("guidance.t_max_end=0.5",)),
            Arm("window to .8", "a window of .16 whose upper end falls to .8", ("guidance.t_max_end=0.8",)),
            Arm("preset", "a window of .16 that stays, up to .998"),
            Arm("narrow window", "a window of .03 that stays", ("guidance.t_window=0.03",)),
        ),
        SIX,
    ),
    "weighting": Group(
        "Weight of a noise level",
        "w(t) of the SDS gradient.",
        (
            Arm("sigma^2", "the paper's", ("guidance.weighting=sigma2",)),
            Arm("uniform", "the paper: performed similarly", ("guidance.weighting=uniform",)),
            Arm("preset", "sigma / alpha: the distance to the clean picture, whatever t"),
        ),
        SIX,
    ),
    "preset": Group(
        "`dreamfusion` against `fast`",
        "The paper's numbers and the default, in equally many steps, and the paper's in more. The paper makes 15000.",
        (
            Arm(
                "dreamfusion",
                "the paper's cameras, lights, schedule, losses, a hash grid of 16 levels",
                preset="dreamfusion",
            ),
            Arm("dreamfusion, 4 times", "four times the steps", preset="dreamfusion", steps=4),
            DEFAULT,
        ),
        SIX,
    ),
    "mesh": Group(
        "A volume alone, and a mesh stage after it",
        "Magic3D's second stage: the surface of the volume on a lattice, in finer pictures, under the same guidance or "
        "under the latent prior.",
        (
            DEFAULT,
            Arm("longer volume", "the time of both stages for the volume alone", steps=1.25),
            Arm("magic3d", "200 steps of the mesh after those of the preset", preset="magic3d"),
            Arm(
                "magic3d, latent",
                "the mesh guided by toybox-256 in pictures of 256 pixels",
                ("then.guidance.model=toybox-256", "then.guidance.clip_clean=false", "then.render.resolution=256"),
                preset="magic3d",
            ),
        ),
        TWENTY_FOUR,
    ),
    "textmesh": Group(
        "A density and a signed distance",
        "TextMesh's first argument: the surface of a signed distance is clean. Angle of normals, pieces, handles and "
        "the triangles that it takes, beside those of the default's density; with its texture stage.",
        (DEFAULT, Arm("textmesh", "a signed distance with its texture", preset="textmesh")),
        TWENTY_FOUR,
    ),
    "rules": Group(
        "Distillation rules",
        "With as many evaluations of the UNet as the preset; near full noise nfsd is csd, and bridge has no words.",
        RULES,
        SIX,
    ),
    "rules-long": Group(
        "Distillation rules, three times as long",
        "The same rules and budgets times three: what a rule gains when time does not count.",
        tuple(replace(arm, steps=3 * arm.steps) for arm in (LONG, *RULES[1:])),
        SIX,
    ),
    "rules-256": Group(
        "Distillation rules on the latent prior",
        "The same rules and budgets with toybox-256, through the classes that load Stable Diffusion.",
        tuple(replace(arm, preset="toybox-256") for arm in (LATENT, *RULES[1:])),
        SIX,
    ),
    "rules-scale": Group(
        "Distillation rules at a guidance scale of 7.5",
        "What VSD and others claim: no over-saturation at the scale of sampling. Three times the prior's own scale, "
        "with as many evaluations of the UNet as the preset.",
        AT_7_5,
        SIX,
    ),
    "limits": Group(
        "What limits the result",
        "The prior, the words, the field or the time? An oracle is the exact answer of a diffusion model that knows "
        "nothing but true pictures of the one toy (a posterior mean over 300 views, without guidance): what it does "
        "not reach is not for want of a better prior.",
        (
            DEFAULT,
            Arm("oracle by words", "true pictures from all cameras that the view words may mean", oracle="words"),
            Arm("oracle by camera", "true pictures from the nearest cameras", oracle="camera"),
            Arm("twice the steps", "everything takes twice as long", steps=2),
            Arm(
                "finer field",
                "12 levels to 256 instead of 8 to 40",
                ("field.levels=12", "field.finest_resolution=256", "field.log2_table=17"),
            ),
        ),
        SIX,
    ),
}
