"""The two CLIP-guided baselines of DreamFusion's table, as data: the settings of their code, and what changes offline,
where a small CLIP of toys guides for minutes, each change with its reason."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .published import focal_of
from .schema import (
    CameraConfig,
    ClipConfig,
    FieldConfig,
    GuidanceConfig,
    LightConfig,
    LossConfig,
    MeshConfig,
    OptimConfig,
    RenderConfig,
    RunConfig,
)


@dataclass(frozen=True)
class Baseline:
    """source: repository and commit.  config: its numbers in this package's units.  unlike: where this package differs
    from its code, online and offline.  offline: path of a setting -> (value, why), with toybox-clip."""

    source: str
    config: RunConfig
    unlike: tuple[str, ...]
    offline: dict[str, tuple[object, str]]


# Lengths as there: a scene in the cube of 2, seen from 4 with a focal length of 1.2 of its default.
DREAM_FIELDS = RunConfig(
    steps=10_000,
    views=1,
    camera=CameraConfig(
        elevation=(30.0, 30.0),
        uniform_angle_probability=1.0,
        distance=(4.0, 4.0),
        focal=focal_of((33.4, 33.4)),
        position_jitter=0.0,
        look_at_std=0.0,
        up_std=0.0,
    ),
    light=LightConfig(albedo_only_until=1.0, lit_probability=0.0),
    field=FieldConfig(bound=1.0, density="softplus", blob=("none", 0.0, 1.0), density_bias=0.0, background_hidden=0),
    render=RenderConfig(resolution=168, step=2 * 3**0.5 / 192, random_background=1.0, budget=1 << 21),
    guidance=GuidanceConfig(kind="clip", model="clip-b16", view_words="none"),
    clip=ClipConfig(share=(154 / 168, 154 / 168)),
    loss=LossConfig(
        orientation=(0.0, 0.0), opacity=0.0, transmittance=0.5, opacity_target=(0.6, 0.12), opacity_ramp=500 / 10_000
    ),
    optim=OptimConfig(eps=1e-5, warmup=1500 / 10_000),
)

# Their mesh is 2 across, ours .8, so every length is .4 of theirs. Their Laplacian is a mean over vertices and axes,
# ours sums over axes: the weight is a third of theirs, times 1 / .4^2 for the lengths.
_LENGTH = 0.4
_LAPLACIAN = 1 / 3 / _LENGTH**2
CLIP_MESH = RunConfig(
    kind="sphere",
    steps=2000,
    views=25,
    camera=CameraConfig(
        elevation=(0.0, 60.0),
        low_elevation=5.0,
        distance=(5 * _LENGTH, 8 * _LENGTH),
        focal=focal_of((30.0, 90.0)),
        position_jitter=0.0,
        look_at_std=0.0,
        up_std=0.0,
    ),
    light=LightConfig(
        albedo_only_until=0.0, lit_probability=1.0, textureless_probability=13 / 25, textureless_until=0.5
    ),
    field=FieldConfig(background_hidden=0),
    render=RenderConfig(resolution=356, random_background=1.0),
    guidance=GuidanceConfig(kind="clip", model="clip-b32", view_words="none"),
    clip=ClipConfig(
        windows=1, share=(1.0, 1.0), backgrounds=("noise", "checker", "flat"), blur=(2.0, 2.0), kernel=5, cells=(5, 10)
    ),
    loss=LossConfig(orientation=(0.0, 0.0), opacity=0.0),
    optim=OptimConfig(lr_grid=1e-2, lr_mlp=1e-2, eps=1e-8, betas=(0.9, 0.999), final=10 ** (-0.0002 * 2000)),
    mesh=MeshConfig(
        lr_offset=1e-2 * _LENGTH,
        laplacian=30 * _LAPLACIAN,
        laplacian_end=0.6 * _LAPLACIAN,
        laplacian_decay=5e-7 * 2000**2,
        sphere_level=3,
        sphere_radius=_LENGTH,
        detail_levels=8,
        detail_finest=512,
        detail_log2_table=16,
        bump=4e-4,  # an eighth of the finest cell, as offline
    ),
)

_SMALL = "toybox-clip sees 64 pixels: more are blurred away before it looks"
_MINUTES = "minutes on two cores; a toy has few details to learn"
_TOYS = "toybox-clip was trained on toys of this size in the picture"
_NOISE = "as many windows a step as theirs, of more than one view: a device of theirs is one of eight"
_GRID = "of preset `fast`: as fine as pictures of 64 pixels can tell"

BASELINES = {
    "dreamfields": Baseline(
        "google-research/google-research, dreamfields/ at 07a851d, configuration of medium quality",
        DREAM_FIELDS,
        (
            "the field is a hash grid, not a mip-NeRF of 128 features and 4 residual blocks; its learning rates and "
            "their warm-up are this package's",
            "the origin does not follow the centre of the density",
            "the 8 windows are those of one view on one device; in Dream Fields every device has its own view",
            "a triangle filter, which averages when it shrinks, resizes a window; Dream Fields uses a bilinear one, "
            "and starts a window at a whole pixel",
        ),
        {
            "guidance.model": ("toybox-clip", "the embedded one"),
            "steps": (800, _MINUTES),
            "views": (2, _NOISE),
            "clip.windows": (4, _NOISE),
            "clip.share": ((0.85, 1.0), _TOYS),
            "camera.distance": ((1.25, 1.35), _TOYS),
            "camera.distance_per_focal": (True, _TOYS),
            "camera.focal": ((1.2, 1.2), "the paper's in its own unit; one lens, as there"),
            "render.resolution": (64, _SMALL),
            "render.step": (0.02, _GRID),
            "render.budget": (1 << 20, _GRID),
            "field.bound": (0.75, _TOYS),
            "field.levels": (8, _GRID),
            "field.base_resolution": (8, _GRID),
            "field.finest_resolution": (40, _GRID),
            "field.log2_table": (15, _GRID),
            "field.interpolation": ("smoothstep", _GRID),
            "field.hidden": (32, _GRID),
            "loss.opacity_target": (
                (0.6, 0.2),
                "a toy covers .2 of such a picture in the mean over the classes, not .12",
            ),
            "optim.final": (0.1, "every step brings new windows and backgrounds, which surfaces keep as roughness"),
        },
    ),
    "clipmesh": Baseline(
        "NasirKhalid24/CLIP-Mesh at e588c12, configs/single.yml",
        CLIP_MESH,
        (
            "no diffusion prior for image embeddings (its weights are a pickle): the text alone, as in CLIP-Mesh with "
            "an empty prior_path",
            "colours, and the heights whose slopes are the normal map, come from a hash grid in space, not from "
            "textures of 512^2 with a low-pass filter; no alpha, and therefore no second layer behind a transparent "
            "one",
            "the light is this package's point light; the object is not moved off centre",
            "the learning rate falls by a cosine to the final value of CLIP-Mesh's exponential schedule",
            "the focal length is uniform between the ends of their field of view, there the angle itself: the median "
            "is 46 degrees here, 60 there",
            "textureless renderings are white and drawn with a chance of 13 in 25, there grey (.5) and 13 of the 25; a "
            "triangle filter resizes a rendering, there a cubic one",
        ),
        {
            "guidance.model": ("toybox-clip", "the embedded one"),
            "steps": (500, _MINUTES),
            "views": (8, _MINUTES),
            "camera.distance": ((1.2, 1.7), _TOYS),
            "camera.distance_per_focal": (True, _TOYS),
            "camera.focal": ((0.8, 1.6), _TOYS),
            "render.resolution": (96, _SMALL),
            "mesh.sphere_level": (2, "162 points: a toy has few details, and 64 pixels show fewer"),
            "mesh.subdivisions": (1, "as many triangles as theirs"),
            "mesh.detail_finest": (96, _SMALL),
            "mesh.detail_log2_table": (14, _SMALL),
            "mesh.bump": (2e-3, "an eighth of the finest cell; five times as much is noise (decision 0208)"),
            "mesh.lr_offset": (1e-2, _MINUTES),
        },
    ),
}


def changed(config: RunConfig, changes: dict[str, tuple[object, str]]) -> RunConfig:
    """The config with settings at "key" or "group.key" changed."""
    for path, (value, _) in changes.items():
        *group, key = path.split(".")
        new = {key: value}
        if group:
            new = {group[0]: replace(getattr(config, group[0]), **new)}
        config = replace(config, **new)
    return config


def baseline(name: str, offline: bool) -> RunConfig:
    """The preset of a baseline, with toybox-clip or for public CLIPs."""
    entry = BASELINES[name]
    return replace(changed(entry.config, entry.offline) if offline else entry.config, preset=name)
