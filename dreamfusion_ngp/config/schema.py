"""The settings of a run as data: frozen dataclasses, units in the comments."""

from __future__ import annotations

from dataclasses import dataclass, field


def number(default, low: float, high: float):
    """A setting of one number from `low` to `high`, or of several."""
    return field(default=default, metadata={"range": (low, high)})


def interval(lowest: float, highest: float, low: float, high: float):
    """A setting (lowest, highest), both from `low` to `high`."""
    return field(default=(lowest, highest), metadata={"range": (low, high), "interval": True})


def choice(default: str, *others: str):
    """A setting that is one of a few words."""
    return field(default=default, metadata={"choices": (default, *others)})


@dataclass(frozen=True)
class CameraConfig:
    elevation: tuple[float, float] = interval(-10.0, 90.0, -90, 90)  # degrees
    uniform_angle_probability: float = number(0.5, 0, 1)  # else uniform in area on the upper half-sphere
    low_elevation: float = number(0.0, 0, 100)  # b of Beta(1, b), by which it is drawn from the range; 0: as above
    distance: tuple[float, float] = interval(1.0, 1.5, 1e-3, 1e3)  # world units from the origin
    focal: tuple[float, float] = interval(0.7, 1.35, 1e-2, 1e2)  # image widths; full field of view 71 to 41 degrees
    distance_per_focal: bool = False  # distance is multiplied by the focal length: constant framing
    position_jitter: float = number(0.1, 0, 1e3)  # world units, uniform in each axis
    look_at_std: float = number(0.2, 0, 1e3)  # world units (the paper's N(0, 0.2 I), read as a deviation)
    up_std: float = number(0.02, 0, 10)  # added to the unit up vector
    stratified_azimuth: bool = False  # views of one step evenly spaced around the object
    ring: int = number(
        0, 0, 16
    )  # so many views are sides of one: evenly spaced, all else alike, lamp and background too


@dataclass(frozen=True)
class LightConfig:
    albedo_only_until: float = 1000 / 15000  # fraction of the run
    lit_probability: float = number(0.75, 0, 1)
    textureless_probability: float = number(0.5, 0, 1)  # of the lit views
    textureless_until: float = number(1.0, 0, 1)  # fraction of the run
    ambient: float = 0.1
    diffuse: float = 0.9
    direction_std: float = number(1.0, 0, 1e3)  # world units, around the camera position
    distance: tuple[float, float] = interval(0.8, 1.5, 1e-3, 1e3)  # world units from the origin: a point light


@dataclass(frozen=True)
class FieldConfig:
    kind: str = choice("density", "sdf")  # what the first output is: density before the activation, signed distance
    levels: int = number(16, 1, 32)
    features: int = number(2, 1, 8)  # per level
    log2_table: int = number(19, 3, 26)  # rows of one level, at most
    base_resolution: int = number(16, 1, 1 << 20)  # grid lines of the coarsest level
    finest_resolution: int = number(2048, 1, 1 << 20)
    interpolation: str = choice("linear", "smoothstep")
    hidden: int = number(64, 1, 128)  # width of the one hidden ReLU layer
    half_table: bool = False  # kernels read a float16 copy of the table; Adam keeps the float32
    backend: str = choice("native", "tinycudann")  # of the encoding; tinycudann: where that package is
    tensor_cores: bool = False  # CUDA, sm_80: products with W1 in split bfloat16; no gain seen
    bound: float = number(0.75, 1e-3, 1e3)  # world units: the scene is the cube [-bound, bound]^3
    density: str = choice("exp", "softplus")
    blob: tuple[str, float, float] = ("gaussian", 5.0, 0.2)  # kind, strength (pre-activation), radius (world units)
    density_bias: float = -3.0  # of the pre-activation: space starts almost empty, exp(-3) per unit
    sphere: float = number(0.4, 1e-3, 1e3)  # kind sdf: radius at the start, world units; density and blob are unused
    beta: tuple[float, float] = number((0.1, 0.01), 1e-4, 1e3)  # kind sdf: width of the surface at the start, its floor
    coarse_to_fine: tuple[int, float] = (0, 0.0)  # levels at the start, fraction when all are active (0: off)
    background_hidden: int = number(32, 0, 4096)  # width of the background network; 0: none
    background_frequencies: int = number(4, 0, 16)


@dataclass(frozen=True)
class RenderConfig:
    resolution: int = number(64, 1, 4096)  # pixels of a square training view
    step: float = number(1.5 * 3**0.5 / 256, 1e-6, 1e3)  # world units between samples (the cube's diagonal in 256)
    near: float = number(0.05, 0, 1e3)  # world units
    budget: int = number(1 << 19, 1, (1 << 31) - 1)  # samples per step; bounds the memory
    occupancy_resolution: int = number(64, 4, 512)  # cells per axis
    occupancy_decay: float = number(0.95, 0, 1)  # per update
    occupancy_threshold: float = number(0.01, 0, 1e6)  # optical thickness of one step
    occupancy_interval: int = number(16, 1, 1 << 40)  # steps between updates
    random_background: float = number(0.0, 0, 1)  # probability of a random colour instead of the background network
    resolution_doubles: tuple[float, float] = interval(1.0, 1.0, 0, 1)  # of the run: from there twice as many pixels


@dataclass(frozen=True)
class GuidanceConfig:
    kind: str = choice("diffusion", "clip")  # of the model: what it distils, or a CLIP's cosine (ClipConfig)
    model: str = "toybox"  # "toybox", "toybox-256", "toybox-mv", "toybox-clip", or a short name, hub id or folder
    scale: float | None = None  # uncond + scale (cond - uncond); None: the model's own default
    t_range: tuple[float, float] = interval(0.02, 0.98, 0, 1)  # of the schedule
    t_max_end: float = number(0.98, 0, 1)  # upper end at the end of the run (annealed linearly)
    t_window: float = number(1.0, 0, 1)  # width: t is at least the upper end less this
    t_min_start: float = number(0.0, 0, 1)  # lower end at the start, where above t_range[0], to which it falls linearly
    t_anneal: float = number(1.0, 1e-6, 1)  # fraction of the run at whose end both ends have arrived
    t_shared: bool = False  # one t for all views of a step
    t_shifted: bool = False  # a flow's t counts the noise levels that its scheduler shifts
    noise: str = choice("fresh", "shared")  # shared: it turns with the object (guidance/shared_noise.py)
    noise_refresh: int = number(1000, 1, 1 << 40)  # parts of steps in which shared noise becomes another
    clip_clean: bool = False  # the guided clean image is clipped to [-1, 1]
    weighting: str = choice("sigma2", "uniform", "clean", "velocity")  # w(t) (sds.py)
    rule: str = choice(
        "sds", "linear", "csd", "nfsd", "bridge", "x0", "asd", "ism", "sdi", "vsd", "rfds", "rfds_rev"
    )  # of distillation: guidance/distill/, one a file; `--rule` brings its settings, too (config/rules.py)
    weights: tuple[float, float, float, float] = number((1.0, -1.0, 0.0, 0.0), -1e6, 1e6)  # rule linear: text, empty
    # text, negative prompt, noise
    flaws: str = ""  # rule bridge: words that make of the prompt the text to leave behind
    denoise_steps: int = number(1, 1, 100)  # rule sdi: from z_t to the target; 1: at once
    lr_lora: float = number(1e-4, 0, 1e3)  # rule vsd: of the LoRA and its conditioning
    view_words: str = choice("paper", "fine", "degrees", "none")  # config/prompts.py
    mode_words: bool = False  # name the shading mode; only for models that know the words
    keep_view: bool = False  # the unconditional branch keeps the view words
    negative: str = ""  # negative prompt: the text of the unconditional branch
    view_blend: str = choice("nearest", "linear", "perp-neg")  # linear, perp-neg: embeddings mixed
    rescale: float = number(0.0, 0, 1)  # share of the rescaling of what guidance makes
    rescale_of: str = choice("prediction", "clean")  # sds.rescale_guidance of a view; sds.rescale_clean
    clip_gradient: float = number(0.0, 0, 1e9)  # largest norm of a pixel's gradient (sds.clip_pixels); 0: off
    resolution: int = number(0, 0, 4096)  # pixels a side of what a latent model sees; 0: its own
    precision: str = choice("auto", "float32", "float16", "bfloat16")  # float16: on the CPU auto
    slice: int = number(0, 0, 256)  # views encoded and judged at a time; 0: all
    checkpoint: bool = False  # the encoder's activations are computed anew in the backward
    offload: bool = False  # the UNet is on the GPU only while it works
    compile: str = choice("none", "default", "reduce-overhead", "max-autotune")  # of the UNet: a mode of torch.compile
    loras: tuple[str, ...] = ()  # each FILE_OR_FOLDER[:WEIGHT[:SHA-256]], added to the model's weights
    embeddings: tuple[str, ...] = ()  # of textual inversion, each FILE_OR_FOLDER[:WORD[:SHA-256]]
    vae: str = ""  # folder or hub id of another VAE for the encoder (TAESD)
    control: str = (
        ""  # folder or hub id of the model of depth that paints: a ControlNet for `model`, or a whole pipeline
    )

    @property
    def layers(self) -> bool:
        """Whether a rendering is given as colours over black and opacity, which the guidance puts before backgrounds of
        its own."""
        return self.kind == "clip"


@dataclass(frozen=True)
class ClipConfig:
    """What a CLIP is shown of a rendering (guidance.kind "clip"), and what it is told. Defaults: Dream Fields'."""

    windows: int = number(8, 1, 64)  # of each rendering, each before a background of its own
    share: tuple[float, float] = interval(80 / 88, 80 / 88, 0.05, 1)  # of a rendering's side, of a window's
    backgrounds: tuple[str, ...] = ("noise", "checker", "fourier")  # drawn from; there is "flat", too
    blur: tuple[float, float] = interval(0.0, 10.0, 0, 100)  # deviation in pixels of a picture of 224 a side
    kernel: int = number(15, 1, 99)  # taps of the blur there
    cells: tuple[int, int] = interval(8, 8, 1, 64)  # of a checkerboard, a side
    negative: float = number(0.0, 0, 1e3)  # weight of the cosine with guidance.negative


@dataclass(frozen=True)
class LossConfig:
    """Weights relative to an SDS loss that is the mean over the pixels and channels of a view, or to a CLIP's, minus
    the mean cosine."""

    orientation: tuple[float, float] = (1e-4, 1e-2)  # start, end (linear ramp)
    orientation_ramp: float = number(1 / 3, 0, 1)  # fraction of the run
    opacity: float = 1e-3
    smoothness: float = 0.0  # squared differences of the normals of neighbouring pixels
    entropy: float = 0.0  # binary entropy of the rays' opacity, at the end of the run
    entropy_from: float = number(0.0, 0, 1)  # fraction of the run where its linear ramp from 0 begins
    eikonal: float = number(0.0, 0, 1e6)  # field.kind sdf: squared differences of |ds/dx| to 1
    eikonal_points: int = number(2048, 1, 1 << 20)  # of the cube, evenly, where it is asked for besides the samples
    transmittance: float = 0.0  # mean transmittance of a view (Dream Fields), as far as its opacity is above a target
    opacity_target: tuple[float, float] = number((0.6, 0.12), 1e-6, 1)  # at the start and at the end of its ramp
    opacity_ramp: float = number(0.05, 0, 1)  # fraction of the run; the logarithm is linear


@dataclass(frozen=True)
class MeshConfig:
    """A stage of kind "mesh": a surface on a tetrahedral lattice, which starts from a volume, or from another mesh."""

    resolution: int = number(128, 8, 512)  # steps of the lattice a side, even
    samples: int = number(1, 1, 4)  # along each side of a pixel
    refresh: int = number(10, 1, 1 << 40)  # steps between refreshes of the band around the surface
    detail_levels: int = number(8, 1, 32)  # of the hash grid whose colours are added to those of the volume
    detail_finest: int = number(512, 2, 1 << 20)  # grid lines of its finest level; its coarsest has an eighth
    detail_log2_table: int = number(16, 3, 26)
    lr_offset: float = number(1e-2, 0, 1e3)  # of the lattice points' offsets
    consistency: float = number(0.0, 0, 1e9)  # weight: normals of neighbouring triangles are alike
    laplacian: float = number(0.0, 0, 1e9)  # weight: vertices lie amid their neighbours
    laplacian_end: float = number(0.0, 0, 1e9)  # what it falls to, by 10^(-decay p^2) at a fraction p of the run
    laplacian_decay: float = number(0.0, 0, 1e3)  # 0: it stays
    sign_change: float = number(0.0, 0, 1e9)  # weight: values at the ends of an edge have one sign
    show: str = choice("color", "normal")  # to the guidance; normals in the camera's axes, as (n + 1) / 2
    learn: str = choice("all", "color")  # color: the shape stays, the finer hash grid alone learns
    sphere_level: int = number(3, 0, 5)  # a stage of kind "sphere": subdivisions of its icosahedron; 3: 642 vertices
    sphere_radius: float = number(0.4, 1e-3, 1e3)  # world units
    subdivisions: int = number(0, 0, 3)  # by Loop's rule, of these control points, before their limit is taken


@dataclass(frozen=True)
class TextureConfig:
    """A stage of kind "texture": the colours of an imported mesh (docs/imported-meshes.md), or of the stage before."""

    source: str = ""  # path of its file
    digest: str = ""  # SHA-256 of that file, by which a resumed run knows it
    up: str | None = None  # axes of the file, as "+z" or "-y"; None: those of its format
    front: str | None = None
    uv: str = choice("auto", "keep", "unwrap")  # the file's own UVs, a new atlas, or one where it must be
    textures: str = choice("each", "one")  # one for each image of the file, or for all of them
    size: int = number(1024, 16, 4096)  # texels a side
    faces: int = number(20000, 4, 1 << 30)  # triangles at most, of the mesh that the stage before leaves
    keep: str = ""  # named views whose well seen texels stay: of front, left, back, right, with commas
    keep_cosine: float = number(0.5, 0, 1)  # between the normal and the sight: texels above it stay whole
    keep_feather: float = number(0.2, 0, 1)  # cosines below `keep_cosine` over which they fade into new ones


@dataclass(frozen=True)
class PaintConfig:
    """Sides of a mesh that a depth-conditioned model repaints in one picture (docs/texture-stage.md)."""

    views: int = number(0, 0, 6)  # 0: none; 4: front, right, back, left; 6: with top and bottom
    resolution: int = number(256, 32, 2048)  # pixels a side of a view; the picture is 2 or 3 views wide and 2 high
    strength: float = number(0.8, 0, 1)  # of the change: the share of the steps that are made
    steps: int = number(30, 1, 1000)  # of DDIM, from pure noise
    scale: float | None = None  # guidance scale of the pass; None: the model's own, at most 7.5
    control_scale: float = number(1.0, 0, 10)  # of what a ControlNet says
    together: bool = True  # all sides in one picture; else each alone
    cosine: float = number(0.2, 0, 1)  # between the normal and the sight: points below it count nothing in a view
    power: float = number(6.0, 0, 64)  # of the cosine, by which a view counts
    rim: int = number(2, 0, 64)  # pixels beside a silhouette or a jump of depth that count nothing
    weight: float = number(1.0, 0, 1e9)  # of the mean square difference from the painted views, beside an SDS of 1
    batch: int = number(8192, 64, 1 << 20)  # points a step at which that is taken
    sds: float = number(0.1, 0, 1e9)  # weight of score distillation from random cameras; 0: none


@dataclass(frozen=True)
class OptimConfig:
    lr_grid: float = number(1e-2, 0, 1e3)
    lr_mlp: float = number(1e-3, 0, 1e3)
    lr_background: float = number(1e-3, 0, 1e3)
    betas: tuple[float, float] = number((0.9, 0.99), 0, 1 - 1e-9)
    eps: float = number(1e-15, 1e-38, 1)
    warmup: float = number(0.0, 0, 1)  # fraction of the run, linear
    final: float = number(1.0, 0, 1)  # learning-rate factor at the end (cosine)


@dataclass(frozen=True)
class RunConfig:
    prompt: str = ""
    preset: str = "fast"
    kind: str = choice("volume", "mesh", "texture", "sphere")  # of this stage
    seed: int = number(0, 0, (1 << 63) - 1)
    steps: int = number(15000, 1, 1 << 40)
    views: int = number(4, 1, 256)  # at a time: the paper's four chips, one view each
    particles: int = number(1, 1, 4)  # volumes with seeds of their own under one guidance (rule vsd: one student)
    accumulate: int = number(1, 1, 256)  # times `views` are drawn and differentiated per step
    cuda_graphs: bool = True  # where there is a CUDA device and accumulate is 1
    camera: CameraConfig = CameraConfig()
    light: LightConfig = LightConfig()
    field: FieldConfig = FieldConfig()
    render: RenderConfig = RenderConfig()
    guidance: GuidanceConfig = GuidanceConfig()
    clip: ClipConfig = ClipConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    mesh: MeshConfig = MeshConfig()
    texture: TextureConfig = TextureConfig()
    paint: PaintConfig = PaintConfig()
    then: RunConfig | None = None  # the stage after this one; prompt, seed and field are those of this one


def resolution_at(config: RenderConfig, progress: float) -> int:
    """Pixels a side of a training view at `progress` in [0, 1] of the run. A fraction of 1 is never reached."""
    return config.resolution << sum(at < 1.0 and progress >= at for at in config.resolution_doubles)
