"""Published configurations in their own units, and their exact conversion into this package's.

    theirs                                               here
    SDS gradient summed over the C h w numbers of a view its mean: weights of other losses are divided by C h w
    omega in cond + omega (cond - uncond)                s = omega + 1
    field of view                                        focal length in image widths
    steps                                                fractions of the run
    timesteps from int(a T) to int(b T), both drawn      t in [a, b + 1 / T)
    growth of the grid from level to level               resolution of the finest level

Settings of a configuration that this package does not have are listed in docs/guidance.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .schema import (
    CameraConfig,
    FieldConfig,
    GuidanceConfig,
    LightConfig,
    LossConfig,
    OptimConfig,
    RenderConfig,
    RunConfig,
)

TIMESTEPS = 1000  # of the schedules of all models here


@dataclass(frozen=True)
class Published:
    """A configuration of another program. source: repository, file and commit. Angles are in degrees, lengths in that
    program's world units, `*_steps` in steps. resolution: pixels a side, from the start and doubled at doubling_steps
    (0: never), and again at second_doubling_steps. distance_per_focal: distance is multiplied by the focal length in
    image widths. ring: see `CameraConfig`. reduction: numbers of a view that its distillation loss is summed over; 1
    for a mean. scale_form: "omega" or "s". t_ends: lowest and highest timestep in fractions of the schedule, both
    drawn. descending: they count a flow's scheduler from its noisy end. t_starts: the lowest at the start, falling to
    t_ends[0] at anneal_steps (0: the end); t_max_end: the highest there (None: as at the start). rescale: share, of the
    clean images of all views together. coarse_to_fine: levels at the start, and steps until all are active."""

    source: str
    steps: int
    resolution: int
    distance: tuple[float, float]
    fov: tuple[float, float]
    elevation: tuple[float, float]
    scale: float
    scale_form: str
    reduction: int
    views: int = 1
    jitter: tuple[float, float, float] = (0.0, 0.0, 0.0)  # of position (uniform), point looked at, up (deviations)
    radius: float = 1.0  # half the side of the scene's cube
    orientation: tuple[float, float, int] = (0.0, 0.0, 0)  # start, end, steps until the end
    sparsity: float = 0.0
    opaque: float = 0.0
    lr_grid: float = 1e-2
    lr_mlp: float = 1e-3
    lr_background: float = 1e-3
    doubling_steps: int = 0
    second_doubling_steps: int = 0
    albedo_steps: int = 0
    lit_probability: float = 0.75
    levels: int = 16
    base_resolution: int = 16
    growth: float = 1.447269237440378
    blob: tuple[float, float] = (10.0, 0.5)  # Magic3D's cone: strength before the softplus, radius
    coarse_to_fine: tuple[int, int] = (0, 0)
    samples_per_ray: int = 512  # along the diagonal of the cube
    random_background: float = 0.0
    t_ends: tuple[float, float] = (0.02, 0.98)
    descending: bool = False
    weighting: str = "sigma2"
    guidance_resolution: int | None = None
    distance_per_focal: bool = False
    ring: int | None = None
    t_starts: float = 0.0
    t_max_end: float | None = None
    anneal_steps: int = 0
    rescale: float = 0.0
    negative: str = ""  # prompt


THREESTUDIO: dict[str, Any] = dict(
    steps=10_000,
    resolution=64,
    distance=(1.5, 2.0),
    fov=(40.0, 70.0),
    jitter=(0.1, 0.2, 0.02),
    radius=2.0,
    albedo_steps=2001,
    coarse_to_fine=(8, 6000),
    scale_form="omega",
    orientation=(10.0, 1000.0, 5000),
    sparsity=1.0,
    lr_mlp=1e-2,
)

DREAMFUSION_SD = Published(
    source="threestudio, configs/dreamfusion-sd.yaml at 28d9d80",
    elevation=(-10.0, 45.0),
    scale=100.0,
    reduction=4 * 64 * 64,
    **THREESTUDIO,
)

DREAMFUSION_IF = Published(
    source="threestudio, configs/dreamfusion-if.yaml at 28d9d80",
    elevation=(-10.0, 90.0),
    scale=20.0,
    reduction=3 * 64 * 64,
    **THREESTUDIO,
)

# Its loss is a mean of squares times a random weight of mean 1/2 per view, so the expected gradient is the mean
# residual. Timesteps are indices into the scheduler's table, whose first entry is pure noise.
RFDS_SD3 = Published(
    source="RFDS (Yang et al., ICLR 2025), configs/rfds_sd3.yaml at 235e39f",
    steps=15_000,
    resolution=256,
    doubling_steps=5000,
    distance=(1.0, 1.5),
    fov=(40.0, 70.0),
    elevation=(-10.0, 45.0),
    lit_probability=0.0,
    random_background=0.5,
    scale=100.0,
    scale_form="s",
    t_ends=(0.3, 0.98),
    descending=True,
    weighting="velocity",
    guidance_resolution=512,
    reduction=1,
    sparsity=0.1,
    opaque=0.1,
)


# Its loss is half the sum of squared differences of clean images over all numbers of all views, divided by the number
# of views: weighting "clean" has the same gradient. Distances are U(.8, 1) / tan(fov / 2), that is twice the focal
# length in image widths. It renders 8 views of 64 pixels, and from step 5000 on 4 of 256.
MVDREAM_SD21 = Published(
    source="MVDream-threestudio, configs/mvdream-sd21-rescale0.5.yaml at efcd6c3",
    steps=10_000,
    views=8,
    resolution=64,
    doubling_steps=5000,
    second_doubling_steps=5000,
    distance=(1.6, 2.0),
    distance_per_focal=True,
    fov=(15.0, 60.0),
    elevation=(0.0, 30.0),
    ring=4,
    lit_probability=0.0,
    random_background=0.5,
    scale=50.0,
    scale_form="s",
    t_starts=0.98,
    t_max_end=0.5,
    anneal_steps=8000,
    rescale=0.5,
    negative="ugly, bad anatomy, blurry, pixelated obscure, unnatural colors, poor lighting, dull, and unclear, "
    "cropped, lowres, low quality, artifacts, duplicate, morbid, mutilated, poorly drawn face, deformed, dehydrated, "
    "bad proportions",
    weighting="clean",
    guidance_resolution=256,
    reduction=4 * 32 * 32,
)


def mean_weight(weight: float, reduction: int) -> float:
    """A loss weight tuned against a distillation loss summed over `reduction` numbers of a view, converted for one that
    is a mean."""
    return weight / reduction


def scale_of(scale: float, form: str) -> float:
    """s of uncond + s (cond - uncond), for a scale in the form "s" or "omega", cond + omega (cond - uncond)."""
    return scale + {"s": 0.0, "omega": 1.0}[form]


def focal_of(fov: tuple[float, float]) -> tuple[float, float]:
    """Focal lengths in image widths, short to long, of a range of full fields of view in degrees."""
    short, long = (0.5 / math.tan(math.radians(angle) / 2) for angle in reversed(fov))
    return short, long


def t_range_of(ends: tuple[float, float], descending: bool = False) -> tuple[float, float]:
    """The half-open interval of t from which every timestep from int(ends[0] T) to int(ends[1] T) is drawn alike,
    counted from the clean end."""
    first, last = (int(end * TIMESTEPS) for end in ends)
    if descending:
        first, last = TIMESTEPS - 1 - last, TIMESTEPS - 1 - first
    return first / TIMESTEPS, (last + 1) / TIMESTEPS


def field_of(theirs: Published) -> FieldConfig:
    """The hash grid, and the density at the start."""
    levels, all_at = theirs.coarse_to_fine
    return FieldConfig(
        levels=theirs.levels,
        base_resolution=theirs.base_resolution,
        bound=theirs.radius,
        finest_resolution=round(theirs.base_resolution * theirs.growth ** (theirs.levels - 1)),
        density="softplus",
        blob=("cone", *theirs.blob),
        density_bias=0.0,
        coarse_to_fine=(levels, all_at / theirs.steps),
    )


def guidance_of(theirs: Published) -> GuidanceConfig:
    """Scale, noise levels and weighting."""
    t_range = t_range_of(theirs.t_ends, theirs.descending)
    return GuidanceConfig(
        scale=scale_of(theirs.scale, theirs.scale_form),
        t_range=t_range,
        t_max_end=t_range[1] if theirs.t_max_end is None else t_range_of((0.0, theirs.t_max_end))[1],
        t_min_start=theirs.t_starts,
        t_anneal=(theirs.anneal_steps or theirs.steps) / theirs.steps,
        t_shared=theirs.ring is not None,
        view_words="none" if theirs.ring else "paper",
        rescale=theirs.rescale,
        negative=theirs.negative,
        rescale_of="clean" if theirs.rescale else "prediction",
        t_shifted=theirs.descending,
        weighting=theirs.weighting,
        precision="float16",
        resolution=theirs.guidance_resolution,
    )


def convert(theirs: Published) -> RunConfig:
    """The configuration in this package's units."""
    position, target, up = theirs.jitter
    start, end, ramp = theirs.orientation
    return RunConfig(
        steps=theirs.steps,
        views=theirs.views,
        camera=CameraConfig(
            elevation=theirs.elevation,
            distance=theirs.distance,
            focal=focal_of(theirs.fov),
            position_jitter=position,
            look_at_std=target,
            up_std=up,
            distance_per_focal=theirs.distance_per_focal,
            ring=theirs.ring,
        ),
        light=LightConfig(albedo_only_until=theirs.albedo_steps / theirs.steps, lit_probability=theirs.lit_probability),
        field=field_of(theirs),
        render=RenderConfig(
            resolution=theirs.resolution,
            random_background=theirs.random_background,
            step=2 * math.sqrt(3) * theirs.radius / theirs.samples_per_ray,
            resolution_doubles=(
                (theirs.doubling_steps or theirs.steps) / theirs.steps,
                (theirs.second_doubling_steps or theirs.steps) / theirs.steps,
            ),
        ),
        guidance=guidance_of(theirs),
        loss=LossConfig(
            orientation=(mean_weight(start, theirs.reduction), mean_weight(end, theirs.reduction)),
            orientation_ramp=ramp / theirs.steps,
            opacity=mean_weight(theirs.sparsity, theirs.reduction),
            entropy=mean_weight(theirs.opaque, theirs.reduction),
        ),
        optim=OptimConfig(lr_grid=theirs.lr_grid, lr_mlp=theirs.lr_mlp, lr_background=theirs.lr_background),
    )
