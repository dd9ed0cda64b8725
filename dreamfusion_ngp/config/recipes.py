"""Multi-stage recipes for public models, with published numbers: threestudio's configurations of the stages, and the
papers' where they differ. None was tuned or run here.
"""

from __future__ import annotations

from dataclasses import replace

from .published import THREESTUDIO, Published, convert, focal_of, mean_weight, t_range_of
from .rules import with_rule
from .schema import LightConfig, MeshConfig, OptimConfig, RunConfig, TextureConfig

LATENT = 4 * 64 * 64  # numbers of a view over which the loss of Stable Diffusion at 512 pixels is summed

MAGIC3D_VOLUME = Published(
    source="threestudio, configs/magic3d-coarse-sd.yaml at 02d05b0",
    elevation=(-10.0, 45.0),
    scale=100.0,
    reduction=LATENT,
    weighting="uniform",
    **{**THREESTUDIO, "coarse_to_fine": (0, 0)},
)
MAGIC3D_SHAPE_STEPS = 5000  # configs/magic3d-refine-sd.yaml at 02d05b0

VOLUME = Published(
    source="threestudio, configs/prolificdreamer.yaml at 0113b37, with the paper's 512 pixels",
    steps=25_000,
    resolution=512,
    distance=(1.0, 1.5),
    fov=(40.0, 70.0),
    elevation=(-10.0, 45.0),
    jitter=(0.1, 0.2, 0.02),  # its loader's defaults
    lit_probability=0.0,
    scale=7.5,
    scale_form="s",
    reduction=LATENT,
    sparsity=10.0,
    random_background=0.5,  # random_aug
)
# Its field is NeuS's signed distance, not VolSDF's, and it has no second stage. Half a side of the cube is ours.
TEXTMESH_VOLUME = Published(
    source="threestudio, configs/textmesh-if.yaml at 28d9d80",
    steps=10_000,
    resolution=64,
    distance=(1.5, 2.0),
    fov=(40.0, 70.0),
    elevation=(-90.0, 90.0),  # the paper's; threestudio has -10 to 90
    jitter=(0.1, 0.2, 0.02),
    growth=1.3819,
    scale=20.0,
    scale_form="omega",
    reduction=3 * 64 * 64,
    random_background=0.5,
)
SPHERE, EIKONAL = 0.5, 1000.0  # threestudio's
BETA = (0.1, 1e-3)  # VolSDF's at the start; the floor is a seventh of the way between samples
TEXTURE_STEPS = 2000  # neither the paper nor anyone else says how many
SHAPE_OF_IMPORTED_STEPS, HIGHEST_OF_IMPORTED = 1000, 0.5  # ours, and Magic3D's t of a mesh

ANNEALED = 5000  # steps after which the highest t is .5; here t falls to it, linearly, in twice as many
SHAPE_STEPS, COLOR_STEPS = 15_000, 30_000


def magic3d_sd() -> RunConfig:
    """Magic3D (Lin et al., CVPR 2023): a volume at 64 pixels, then its mesh at 512 below t = .5. The paper's volume has
    eDiff-I on pixels, its mesh Stable Diffusion; `--set then.guidance.model=...` gives the second another one."""
    volume = replace(convert(MAGIC3D_VOLUME), preset="magic3d")
    volume = replace(volume, render=replace(volume.render, budget=1 << 20))
    highest = t_range_of((0.02, 0.5))
    mesh = replace(
        volume,
        kind="mesh",
        steps=MAGIC3D_SHAPE_STEPS,
        camera=replace(volume.camera, focal=focal_of((30.0, 45.0))),
        light=replace(volume.light, albedo_only_until=0.0),
        render=replace(volume.render, resolution=512),
        guidance=replace(volume.guidance, weighting="sigma2", t_range=highest, t_max_end=highest[1]),
        mesh=MeshConfig(
            resolution=128,
            detail_levels=16,
            detail_finest=4096,
            detail_log2_table=19,
            lr_offset=1e-2,
            consistency=mean_weight(10_000.0, LATENT),
        ),
    )
    return replace(volume, then=mesh)


def prolificdreamer_sd() -> RunConfig:
    """ProlificDreamer (Wang et al., NeurIPS 2023): a volume by VSD, the shape of its mesh by SDS on normals, its
    colours by VSD. 70,000 steps of 512 x 512 pixels: nine and a half hours of a large GPU, as DreamPropeller (Zhou et
    al., CVPR 2024) measured."""
    volume = with_rule(convert(VOLUME), "vsd", toys=False)
    volume = replace(
        volume,
        preset="prolificdreamer",
        guidance=replace(volume.guidance, resolution=None, t_anneal=2 * ANNEALED / volume.steps),
        # A view of 512 x 512 pixels, once the space around the object is known to be empty.
        render=replace(volume.render, budget=1 << 22),
    )
    camera = replace(volume.camera, position_jitter=0.0, look_at_std=0.0, up_std=0.0)
    mesh = replace(
        volume,
        kind="mesh",
        steps=SHAPE_STEPS,
        camera=replace(camera, focal=focal_of((30.0, 60.0))),  # the paper's
        light=LightConfig(albedo_only_until=1.0),
        render=replace(volume.render, random_background=1.0),
        guidance=replace(
            with_rule(volume, "sds", toys=False).guidance, scale=101.0, t_anneal=2 * ANNEALED / SHAPE_STEPS
        ),
        optim=OptimConfig(lr_grid=5e-3, lr_mlp=5e-3),
        mesh=MeshConfig(
            resolution=256,  # the paper's; threestudio has 128
            detail_levels=16,
            detail_finest=2048,
            detail_log2_table=19,
            lr_offset=5e-3,
            consistency=mean_weight(10_000.0, LATENT),
            show="normal",
        ),
    )
    color = replace(
        mesh,
        steps=COLOR_STEPS,
        camera=camera,
        guidance=replace(volume.guidance, t_anneal=2 * ANNEALED / COLOR_STEPS),
        optim=OptimConfig(lr_grid=1e-2, lr_mlp=1e-3),
        mesh=replace(mesh.mesh, consistency=0.0, show="color", learn="color"),
    )
    return replace(volume, then=replace(mesh, then=color))


def textmesh_public() -> RunConfig:
    """TextMesh (Tsalicoglou et al. 2023): a signed distance at 64 pixels, then the texture of its surface below t = .5.
    The paper's first stage has Imagen."""
    volume = convert(TEXTMESH_VOLUME)
    volume = replace(
        volume,
        preset="textmesh",
        field=replace(volume.field, kind="sdf", sphere=SPHERE, beta=BETA),
        loss=replace(volume.loss, eikonal=mean_weight(EIKONAL, TEXTMESH_VOLUME.reduction)),
        render=replace(volume.render, budget=1 << 20),
    )
    highest = t_range_of((0.02, 0.5))
    texture = replace(
        volume,
        kind="texture",
        steps=TEXTURE_STEPS,
        light=LightConfig(albedo_only_until=1.0),
        render=replace(volume.render, resolution=256, random_background=1.0),
        guidance=replace(volume.guidance, t_range=highest, t_max_end=highest[1]),
        loss=replace(volume.loss, eikonal=0.0),
        mesh=MeshConfig(detail_levels=16, detail_finest=2048, detail_log2_table=19),
        texture=TextureConfig(size=2048, faces=50_000),
    )
    return replace(volume, then=texture)


def for_a_public_model(config: RunConfig, own: RunConfig) -> RunConfig:
    """A recipe for imported meshes, `refine` or `refine-geometry` with the numbers for toys, for a public model whose
    preset is `own`: its guidance, views and learning rates, at Magic3D's 512 pixels. The highest t falls to .5 over the
    texture, so that what is smeared can change at first; for a shape it stays below. Not run with real weights."""
    guidance = replace(own.guidance, t_max_end=HIGHEST_OF_IMPORTED, t_anneal=1.0)
    mesh = replace(config.mesh, detail_levels=16, detail_finest=2048, detail_log2_table=19)
    shared = dict(views=own.views, accumulate=own.accumulate, render=replace(config.render, resolution=512), mesh=mesh)
    if config.kind == "mesh":
        low, high = guidance.t_range
        guidance = replace(guidance, t_range=(low, min(high, HIGHEST_OF_IMPORTED)))
        return replace(config, steps=SHAPE_OF_IMPORTED_STEPS, guidance=guidance, **shared)
    then = config.then and for_a_public_model(config.then, own)
    return replace(config, steps=TEXTURE_STEPS, guidance=guidance, optim=own.optim, then=then, **shared)
