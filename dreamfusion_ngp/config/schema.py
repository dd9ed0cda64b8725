"""Configuration as data: frozen dataclasses, units in the comments, presets as functions that return them.

`dreamfusion()` is the paper (Poole et al., ICLR 2023, appendix A.2) where a hash-grid field allows it. `fast()` is the
default; every departure carries its reason.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import dataclass

from ..base.characters import clean_text
from ..base.errors import UsageError


@dataclass(frozen=True)
class CameraConfig:
    elevation: tuple[float, float] = (-10.0, 90.0)  # degrees
    uniform_angle_probability: float = 0.5  # else uniform in area on the upper half-sphere
    distance: tuple[float, float] = (1.0, 1.5)  # world units from the origin
    focal: tuple[float, float] = (0.7, 1.35)  # image widths; full field of view 71 to 41 degrees
    distance_per_focal: bool = False  # distance is multiplied by the focal length: constant framing
    position_jitter: float = 0.1  # world units, uniform in each axis
    look_at_std: float = 0.2  # world units (the paper's N(0, 0.2 I), read as a deviation)
    up_std: float = 0.02  # added to the unit up vector
    stratified_azimuth: bool = False  # views of one step evenly spaced around the object


@dataclass(frozen=True)
class LightConfig:
    albedo_only_until: float = 1000 / 15000  # fraction of the run
    lit_probability: float = 0.75
    textureless_probability: float = 0.5  # of the lit views
    ambient: float = 0.1
    diffuse: float = 0.9
    direction_std: float = 1.0  # world units, around the camera position
    distance: tuple[float, float] = (0.8, 1.5)  # world units from the origin: a point light


@dataclass(frozen=True)
class FieldConfig:
    levels: int = 16
    features: int = 2  # per level
    log2_table: int = 19  # rows of one level, at most
    base_resolution: int = 16  # grid lines of the coarsest level
    finest_resolution: int = 2048
    interpolation: str = "linear"  # or "smoothstep"
    hidden: int = 64  # width of the one hidden ReLU layer
    half_table: bool = False  # kernels read a float16 copy of the table; Adam keeps the float32
    backend: str = "native"  # of the encoding; or "tinycudann", where that package is installed
    tensor_cores: bool = False  # CUDA, sm_80: products with W1 in split bfloat16; no gain seen
    bound: float = 0.75  # world units: the scene is the cube [-bound, bound]^3
    density: str = "exp"  # or "softplus"
    blob: tuple[str, float, float] = ("gaussian", 5.0, 0.2)  # kind, strength (pre-activation), radius (world units)
    density_bias: float = -3.0  # of the pre-activation: space starts almost empty, exp(-3) per unit
    coarse_to_fine: tuple[int, float] = (0, 0.0)  # levels at the start, fraction when all are active (0: off)
    background_hidden: int = 32  # width of the background network; 0: none
    background_frequencies: int = 4


@dataclass(frozen=True)
class RenderConfig:
    resolution: int = 64  # pixels of a square training view
    step: float = 1.5 * 3**0.5 / 256  # world units between samples (the cube's diagonal in 256)
    near: float = 0.05  # world units
    budget: int = 1 << 19  # samples per step; bounds the memory
    occupancy_resolution: int = 64  # cells per axis
    occupancy_decay: float = 0.95  # per update
    occupancy_threshold: float = 0.01  # optical thickness of one step
    occupancy_interval: int = 16  # steps between updates
    random_background: float = 0.0  # probability of a random colour instead of the background network
    resolution_doubles: tuple[float, float] = (1.0, 1.0)  # fractions of the run from which resolution is doubled


@dataclass(frozen=True)
class GuidanceConfig:
    model: str = "toybox"  # "toybox", or a short name, hub id or folder (hub/names.py)
    scale: float | None = None  # uncond + scale (cond - uncond); None: the model's own default
    t_range: tuple[float, float] = (0.02, 0.98)  # of the schedule
    t_max_end: float = 0.98  # upper end at the end of the run (annealed linearly)
    t_window: float = 1.0  # width: t is at least the upper end less this
    t_shared: bool = False  # one t for all views of a step
    t_shifted: bool = False  # a flow's t counts the noise levels that its scheduler shifts
    clip_clean: bool = False  # the guided clean image is clipped to [-1, 1]
    weighting: str = "sigma2"  # w(t) = sigma_t^2; "uniform", "clean", "velocity" (sds.py)
    view_words: str = "paper"  # "paper", "fine", "degrees" or "none" (config/prompts.py)
    mode_words: bool = False  # name the shading mode; only for models that know the words
    keep_view: bool = False  # the unconditional branch keeps the view words
    negative: str = ""  # negative prompt: the text of the unconditional branch
    view_blend: str = "nearest"  # view words; or their embeddings mixed: "linear", "perp-neg"
    rescale: float = 0.0  # share of the rescaling of what guidance makes
    rescale_of: str = "prediction"  # of a view (sds.rescale_guidance); or "clean" (sds.rescale_clean)
    clip_gradient: float = 0.0  # largest norm of a pixel's gradient (sds.clip_pixels); 0: off
    resolution: int = 0  # pixels a side of what a latent model sees; 0: its own
    precision: str = "auto"  # "float32", "bfloat16", or "float16" (on the CPU "auto")
    slice: int = 0  # views encoded and judged at a time; 0: all
    checkpoint: bool = False  # the encoder's activations are computed anew in the backward
    offload: bool = False  # the UNet is on the GPU only while it works
    compile: str = "none"  # of the UNet: a mode of torch.compile
    vae: str = ""  # folder or hub id of another VAE for the encoder (TAESD)


@dataclass(frozen=True)
class LossConfig:
    """Weights relative to an SDS loss that is the mean over the pixels and channels of a view."""

    orientation: tuple[float, float] = (1e-4, 1e-2)  # start, end (linear ramp)
    orientation_ramp: float = 1 / 3  # fraction of the run
    opacity: float = 1e-3
    smoothness: float = 0.0  # squared differences of the normals of neighbouring pixels
    entropy: float = 0.0  # binary entropy of the rays' opacity, at the end of the run
    entropy_from: float = 0.0  # fraction of the run where its linear ramp from 0 begins


@dataclass(frozen=True)
class OptimConfig:
    lr_grid: float = 1e-2
    lr_mlp: float = 1e-3
    lr_background: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-15
    warmup: float = 0.0  # fraction of the run, linear
    final: float = 1.0  # learning-rate factor at the end (cosine)


@dataclass(frozen=True)
class RunConfig:
    prompt: str = ""
    preset: str = "fast"
    seed: int = 0
    steps: int = 15000
    views: int = 4  # at a time: the paper's four chips, one view each
    accumulate: int = 1  # times `views` are drawn and differentiated per step
    cuda_graphs: bool = True  # where there is a CUDA device and accumulate is 1
    camera: CameraConfig = CameraConfig()
    light: LightConfig = LightConfig()
    field: FieldConfig = FieldConfig()
    render: RenderConfig = RenderConfig()
    guidance: GuidanceConfig = GuidanceConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()


def dreamfusion() -> RunConfig:
    """The paper, with Adam on a hash grid in the place of Distributed Shampoo on a mip-NeRF 360 MLP."""
    return RunConfig(
        preset="dreamfusion",
        # omega = 100 is 101 here. It is not left to the model: with the embedded prior's own 2.5 the paper's weighting
        # and noise levels empty the scene within a hundred steps.
        guidance=GuidanceConfig(scale=101.0),
        # Half of the steps over a random colour, which threestudio's README advises (it is off by default there): where
        # the learnt background alone was behind it, the object moved there (a chair to the last voxel).
        render=RenderConfig(random_background=0.5),
    )


def fast() -> RunConfig:
    """The default: the same method within minutes on two cores. What differs from the paper, and the reason to try it:
    measurements where figures stand (runs of half the steps at 32 x 32), else arguments and the feasibility study."""
    return RunConfig(
        preset="fast",
        steps=1200,
        # Guidance draws every outline a little too large, since it extrapolates the soft edge of a mean picture:
        # cameras that are a little nearer than those that the prior was trained with give it back.
        camera=dataclasses.replace(FRAMED_CAMERAS, distance=(1.15, 1.3)),
        # Shape first needs few steps of plain colour when colour and shape are learnt by Adam on a grid. Coloured and
        # lit is rare: a lit picture is darker than the answer without a text, which guidance exaggerates. With it the
        # airplane went from IoU .49 to .53 (beside a constant scale); a run without any light was worse.
        light=LightConfig(albedo_only_until=0.05, lit_probability=0.55, textureless_probability=0.8),
        # A 64 x 64 prior knows no detail below 1/64 of the scene: eight levels to 40 are enough, fit into the cache,
        # and cost a quarter of sixteen; to 96 they kept noise as roughness. The exponential reaches the density of
        # thin parts soonest; the cone starts as a ball of half the object.
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
        # Two samples per prior pixel along the ray. Random plain backgrounds: a fixed or learnt one lets the field hide
        # plugs of background colour in the holes of objects. Twice the usual budget: where fog had used it up, each ray
        # kept its nearest samples alone, and a gray chair became a box.
        render=RenderConfig(step=0.02, random_background=1.0, budget=1 << 20),
        # The embedded prior was trained on these words. The text decides at high noise alone; below, the prior repeats
        # what it is shown. So t stays there for the whole run, in a window that reaches up to where nothing is shown,
        # and every t counts the same. A window of .16 fits best (means over mug, chair, house and airplane, volumetric
        # / silhouette IoU: .741 / .889, .728 / .888 for .11); with .05 the answers are mean pictures before mid-grey
        # for the most part, and the scene fills with grey fog. Clipped: guidance asks for colours beyond black and
        # white (house .29 -> .71, before). See docs/decisions/0022-fast-surfaces.md.
        guidance=GuidanceConfig(
            view_words="degrees",
            mode_words=True,
            t_range=(0.02, 0.998),
            t_max_end=0.998,
            t_window=0.16,
            weighting="clean",
            clip_clean=True,
        ),
        # Entropy turns fog into a solid, the house from IoU .49 to .70 (before); from the start it empties the scene.
        # Without smoothness every surface is rough, with .3 a fog (mug and chair, volumetric / silhouette IoU: 0
        # .624 / .843, .05 .626 / .845, and with the eight levels .3 .592 / .832).
        loss=LossConfig(orientation=(1e-3, 1e-2), smoothness=0.05, entropy=0.3, entropy_from=0.3),
        # Every step brings new noise, which surfaces keep as roughness unless the steps become small.
        optim=OptimConfig(final=0.03),
    )


# What the embedded prior is trained with for the most part. Constant framing: the object fills the image whatever the
# focal length, so that a 64 x 64 prior spends its pixels on the object. The paper's look-at jitter of 0.2 crops half of
# the object out of many views; a small model of whole toys does not know crops. Any jitter of the point looked at is
# blur in the mean picture of a view, which is all that a text says at full noise: .03, a pixel and a half, hid the hole
# in a mug's handle.
FRAMED_CAMERAS = CameraConfig(
    distance=(1.25, 1.35),
    focal=(1.0, 1.35),
    distance_per_focal=True,
    position_jitter=0.03,
    look_at_std=0.0,
    stratified_azimuth=True,
)

PRESETS = {"fast": fast, "dreamfusion": dreamfusion}


def preset(name: str, known: dict = PRESETS) -> RunConfig:
    """The preset called `name`. Raises UsageError that lists the known ones."""
    if name not in known:
        raise UsageError(f"unknown preset {name!r}; known presets: {', '.join(known)}")
    return known[name]()


def to_dict(config) -> dict:
    """Plain JSON-ready dictionary of a config."""
    return dataclasses.asdict(config)


def from_dict(cls, data: dict):
    """Inverse of `to_dict`: nested dataclasses and tuples are restored. A missing key takes its default, so that what
    was stored before the key existed can be read: the default of a new key is what was done without it. Raises
    UsageError that names the key for an unknown one, a value of another type, and a number that is not finite."""
    if not isinstance(data, dict):
        raise UsageError(f"{cls.__name__}: expected an object, got {type(data).__name__}")
    kinds = typing.get_type_hints(cls)
    if unknown := [repr(key)[:40] for key in data if key not in kinds]:
        raise UsageError(f"{cls.__name__}: unknown keys {', '.join(sorted(unknown)[:5])}")
    return cls(**{name: _restore(f"{cls.__name__}.{name}", value, kinds[name]) for name, value in data.items()})


def _restore(name: str, value, kind):
    """`value` as the annotated type `kind`: lists become tuples and whole numbers floats where the annotation says
    so."""
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return from_dict(kind, value)
    options = typing.get_args(kind)
    if typing.get_origin(kind) is tuple and isinstance(value, (list, tuple)) and len(value) == len(options):
        return tuple(_restore(f"{name}[{i}]", v, k) for i, (v, k) in enumerate(zip(value, options, strict=True)))
    if type(None) in options:
        return None if value is None else _restore(name, value, next(k for k in options if k is not type(None)))
    if kind is float and type(value) is int and abs(value) < 1 << 63:
        value = float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise UsageError(f"{name}: expected {kind if options else kind.__name__}, got {repr(value)[:60]}")
    return value


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


def resolution_at(config: RenderConfig, progress: float) -> int:
    """Pixels a side of a training view at `progress` in [0, 1] of the run. A fraction of 1 is never reached."""
    return config.resolution << sum(at < 1.0 and progress >= at for at in config.resolution_doubles)


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
