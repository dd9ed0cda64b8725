"""The settings of a run as data: frozen dataclasses, units in the comments."""

from __future__ import annotations

from dataclasses import dataclass


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


def resolution_at(config: RenderConfig, progress: float) -> int:
    """Pixels a side of a training view at `progress` in [0, 1] of the run. A fraction of 1 is never reached."""
    return config.resolution << sum(at < 1.0 and progress >= at for at in config.resolution_doubles)
