"""Presets. `dreamfusion()` is the paper (Poole et al., ICLR 2023, appendix A.2) where a hash-grid field allows it;
`fast()` is the default, and gives its reason for every departure. The presets for public models are data: a published
configuration, converted (published.py), and the differences from it, each with its reason; none of them was tuned, as
no such model was at hand when they were written. Scale is uncond + s (cond - uncond).
"""

from __future__ import annotations

from dataclasses import replace

from ..base.errors import UsageError
from .baselines import BASELINES, baseline
from .models import DETAILS, build
from .recipes import for_a_public_model, magic3d_sd, prolificdreamer_sd, textmesh_public
from .rules import with_rule
from .schema import (
    CameraConfig,
    FieldConfig,
    GuidanceConfig,
    LightConfig,
    LossConfig,
    MeshConfig,
    OptimConfig,
    RenderConfig,
    RunConfig,
    TextureConfig,
)

# Most training views of the embedded prior have these cameras. Constant framing: the object fills the image at every
# focal length, so that a 64 x 64 prior spends its pixels on the object. The paper's look-at jitter of 0.2 crops half of
# the object out of many views; a small model of whole toys does not know crops. Any look-at jitter blurs the mean
# picture of a view, which is all that the model predicts at full noise: .03, a pixel and a half, hid the hole in a
# mug's handle.
FRAMED_CAMERAS = CameraConfig(
    distance=(1.25, 1.35),
    focal=(1.0, 1.35),
    distance_per_focal=True,
    position_jitter=0.03,
    look_at_std=0.0,
    stratified_azimuth=True,
)


def dreamfusion() -> RunConfig:
    """The paper, with Adam on a hash grid instead of Distributed Shampoo on a mip-NeRF 360 MLP."""
    return RunConfig(
        preset="dreamfusion",
        # omega = 100 is s = 101. The scale is not left to the model: with the embedded prior's default of 2.5 the
        # paper's weighting and noise levels empty the scene within a hundred steps.
        guidance=GuidanceConfig(scale=101.0),
        # A random background colour in half of the steps, as threestudio's README advises (it is off by default there):
        # with the learnt background alone, the object moved into the background (a chair to the last voxel).
        render=RenderConfig(random_background=0.5),
    )


def fast() -> RunConfig:
    """The default: the same method within minutes on two cores. Comments give the reason for each difference from the
    paper: measured where there are figures (half the steps, 32 x 32), else by argument."""
    return RunConfig(
        preset="fast",
        steps=1200,
        # Guidance draws every outline a little too large, since it extrapolates the soft edge of a mean picture:
        # cameras a little nearer than those of the prior's training make up for it.
        camera=replace(FRAMED_CAMERAS, distance=(1.15, 1.3)),
        # Few albedo-only steps are enough when Adam learns colour and shape on a grid. Views that are coloured and lit
        # are rare: they are darker than the unconditional prediction, and guidance exaggerates that. So the airplane
        # went from IoU .49 to .53 (with a constant scale); a run without any light was worse.
        light=LightConfig(albedo_only_until=0.05, lit_probability=0.55, textureless_probability=0.8),
        # A 64 x 64 prior knows no detail below 1/64 of the scene: eight levels up to resolution 40 are enough, fit into
        # the cache, and cost a quarter of sixteen; up to 96 they kept noise as roughness. The exponential reaches the
        # density of thin parts soonest; the cone starts as a ball of half the object's size.
        field=FieldConfig(
            levels=8,
            base_resolution=8,
            finest_resolution=40,
            log2_table=15,
            interpolation="smoothstep",
            hidden=32,
            density="exp",
            blob=("cone", 5.0, 0.25),
            density_bias=-1.0,
            background_hidden=0,
        ),
        # Along the ray, two samples per pixel of the prior. Random plain backgrounds: with a fixed or learnt one the
        # field hides plugs of background colour in the holes of objects. Twice the usual budget: when fog used it up,
        # each ray kept only its nearest samples, and a gray chair became a box.
        render=RenderConfig(step=0.02, random_background=1.0, budget=1 << 20),
        # The embedded prior was trained on these words. The text matters at high noise only; at lower noise the prior
        # repeats the rendering. So t stays high for the whole run, in a window that reaches up to pure noise, and every
        # t has the same weight. Clipped, as guidance asks for colours beyond black and white (decision 0022).
        guidance=GuidanceConfig(
            view_words="degrees",
            mode_words=True,
            t_range=(0.02, 0.998),
            t_max_end=0.998,
            t_window=0.16,
            weighting="clean",
            clip_clean=True,
        ),
        # Entropy turns fog into a solid; used from the start it empties the scene. Without smoothness every surface is
        # rough; a weight of .3 gives fog.
        loss=LossConfig(orientation=(1e-3, 1e-2), smoothness=0.05, entropy=0.3, entropy_from=0.3),
        # Every step brings new noise, which surfaces keep as roughness unless the steps become small.
        optim=OptimConfig(final=0.03),
    )


def magic3d() -> RunConfig:
    """Magic3D's two stages (Lin et al. 2023): the default's volume, then a mesh rendered at a higher resolution."""
    volume = fast()
    mesh = replace(
        volume,
        preset="magic3d",
        kind="mesh",
        steps=200,
        views=2,
        # A mesh has hard outlines, which guidance does not draw too large: with the volume's nearer cameras a mug
        # shrank (silhouette IoU .93 at the start, .90 after 150 steps, .95 with these; decision 0174).
        camera=replace(volume.camera, distance=FRAMED_CAMERAS.distance),
        render=replace(volume.render, resolution=128),
        # Lower noise and smaller steps than the volume's: the shape is there and should stay (decision 0196).
        guidance=replace(volume.guidance, t_range=(0.02, 0.7), t_max_end=0.5, t_window=1.0),
        optim=replace(volume.optim, lr_grid=3e-3, warmup=0.05),
        mesh=MeshConfig(resolution=96, lr_offset=3e-3, consistency=0.1),
    )
    return replace(volume, preset="magic3d", then=mesh)


def prolificdreamer() -> RunConfig:
    """ProlificDreamer's three stages (Wang et al. 2023, section 4): a volume by VSD, the shape of a mesh by SDS on
    pictures without colour, its colours by VSD."""
    volume = with_rule(replace(fast(), preset="prolificdreamer"), "vsd", toys=True)
    mesh = magic3d().then
    assert mesh is not None
    mesh = replace(mesh, preset="prolificdreamer", steps=100)
    # The paper renders normals. The embedded prior knows untextured toys instead, which show the shape as well.
    untextured = LightConfig(albedo_only_until=0.0, lit_probability=1.0, textureless_probability=1.0)
    color = replace(
        with_rule(mesh, "vsd", toys=True),
        light=replace(mesh.light, albedo_only_until=0.0, textureless_probability=0.0),
        optim=replace(mesh.optim, lr_grid=1e-2),
        mesh=replace(mesh.mesh, learn="color", consistency=0.0),
    )
    return replace(volume, then=replace(mesh, light=untextured, then=color))


def textmesh() -> RunConfig:
    """TextMesh (Tsalicoglou et al. 2023): a signed distance field, then the texture of its surface. What the paper
    leaves open was measured on the toys (decision 0156)."""
    volume, texture = fast(), refine()
    volume = replace(
        volume,
        preset="textmesh",
        camera=replace(volume.camera, distance=FRAMED_CAMERAS.distance),  # outlines are hard, as a mesh's
        field=replace(volume.field, kind="sdf", sphere=0.3, beta=(0.04, 0.002), interpolation="linear"),
        loss=replace(volume.loss, eikonal=0.03, smoothness=0.08),
    )
    texture = replace(texture, preset="textmesh", steps=100, texture=TextureConfig(size=512, faces=10000))
    return replace(volume, then=texture)


def refine() -> RunConfig:
    """Texture of an imported mesh: the default's cameras and guidance, with a fixed shape."""
    base = fast()
    return replace(
        base,
        preset="refine",
        kind="texture",
        steps=400,
        views=2,
        light=replace(base.light, albedo_only_until=1.0),
        render=replace(base.render, resolution=128),
        mesh=MeshConfig(detail_levels=8, detail_finest=256, detail_log2_table=17),
    )


def refine_geometry() -> RunConfig:
    """`refine`, then the shape: the mesh is rebuilt on a lattice, whose field first learns its signed distance."""
    base, mesh = refine(), magic3d().then
    assert mesh is not None
    return replace(
        base,
        preset="refine-geometry",
        steps=200,
        field=replace(base.field, levels=10, finest_resolution=128, log2_table=16),
        then=replace(
            mesh,
            preset="refine-geometry",
            steps=200,
            light=replace(mesh.light, albedo_only_until=0.0),
            # An imported shape is finer than 64 pixels can show: larger learning rates ruffle it (decision 0195).
            optim=replace(mesh.optim, lr_grid=5e-4, lr_mlp=1e-4),
            mesh=replace(mesh.mesh, resolution=128, consistency=0.5),
        ),
    )


def toybox_256() -> RunConfig:
    """`fast` for the embedded latent prior."""
    base = fast()
    return replace(base, preset="toybox-256", guidance=latent_toys(replace(base.guidance, model="toybox-256")))


def mvdream() -> RunConfig:
    """MVDream (Shi et al. 2024) with the embedded four-view prior: `fast`, but each step renders one toy from four
    sides, as in the prior's training, and no text names a view."""
    base = fast()
    return replace(
        base,
        preset="mvdream",
        camera=replace(base.camera, stratified_azimuth=False, position_jitter=0.0, up_std=0.0, ring=4),
        guidance=replace(base.guidance, model="toybox-mv", view_words="none", t_shared=True),
    )


def latent_toys(guidance: GuidanceConfig) -> GuidanceConfig:
    """The embedded prior's guidance settings, converted for the latent one: where `fast` keeps to high noise, the same
    levels in Stable Diffusion's schedule, whose alpha is .25 at three quarters and stays above .068. Latents go beyond
    -1 and 1, so nothing is clipped."""
    if guidance.t_window < 1:
        guidance = replace(guidance, t_range=(0.02, 0.98), t_max_end=0.98, t_window=0.24)
    return replace(guidance, clip_clean=False)


PRESETS = {
    "fast": fast,
    "toybox-256": toybox_256,
    "dreamfusion": dreamfusion,
    "magic3d": magic3d,
    "prolificdreamer": prolificdreamer,
    "textmesh": textmesh,
    "refine-geometry": refine_geometry,
    "refine": refine,
    **{name: lambda name=name: baseline(name, offline=True) for name in BASELINES},
    **{name: lambda name=name: build(name) for name in DETAILS},
    "mvdream": mvdream,
}


OF_PROMPTS = tuple(name for name in PRESETS if not name.startswith("refine"))  # the others start from a mesh

OF_MODELS = {
    "magic3d": magic3d_sd,
    "prolificdreamer": prolificdreamer_sd,
    "textmesh": textmesh_public,
    "mvdream": lambda: build("mvdream"),
    "refine": lambda: for_a_public_model(refine(), build("sd21")),
    "refine-geometry": lambda: for_a_public_model(refine_geometry(), build("sd21")),
    **{name: lambda name=name: baseline(name, offline=False) for name in BASELINES},
}


def preset(name: str, toys: bool = True) -> RunConfig:
    """The preset called `name`. toys: an embedded prior guides; else recipes that have separate numbers for public
    models use those. Raises UsageError that lists the known ones."""
    if name not in PRESETS:
        raise UsageError(f"unknown preset {name!r}; known presets: {', '.join(PRESETS)}")
    return PRESETS[name]() if toys or name not in OF_MODELS else OF_MODELS[name]()
