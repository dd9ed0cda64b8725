"""The settings of a run as data: frozen dataclasses, units in the comments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .guidance import ClipConfig, GuidanceConfig
from .limits import choice, interval, maybe, number


@dataclass(frozen=True)
class JitterConfig:
    """Random offsets of the cameras. Keys `camera.NAME`, like all of CameraConfig."""

    position_jitter: float = number(0.1, 0, 1e3)  # world units, uniform in each axis
    look_at_std: float = number(0.2, 0, 1e3)  # world units (the paper's N(0, 0.2 I), read as a deviation)
    up_std: float = number(0.02, 0, 10)  # added to the unit up vector


@dataclass(frozen=True)
class CameraConfig(JitterConfig):
    """Where the cameras of a step are."""

    elevation: tuple[float, float] = interval(-10.0, 90.0, -90, 90)  # degrees
    uniform_angle_probability: float = number(0.5, 0, 1)  # else uniform in area on the upper half-sphere
    low_elevation: float = number(0.0, 0, 100)  # elevation from the range by Beta(1, b) with this b; 0: as above
    distance: tuple[float, float] = interval(1.0, 1.5, 1e-3, 1e3)  # world units from the origin
    focal: tuple[float, float] = interval(0.7, 1.35, 1e-2, 1e2)  # image widths; full field of view 71 to 41 degrees
    distance_per_focal: bool = False  # distance is multiplied by the focal length: constant framing
    stratified_azimuth: bool = False  # views of one step evenly spaced around the object
    ring: int | None = maybe(1, 16)  # so many views are a ring around one object: evenly spaced, in the same light


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
class NetworkConfig:
    """The hash grid and the layer behind it. Keys `field.NAME`, like all of FieldConfig."""

    levels: int = number(16, 1, 32)
    features: int = number(2, 1, 8)  # per level
    log2_table: int = number(19, 3, 26)  # rows of one level, at most
    base_resolution: int = number(16, 1, 1 << 20)  # grid lines of the coarsest level
    finest_resolution: int = number(2048, 1, 1 << 20)
    interpolation: str = choice("linear", "smoothstep")
    hidden: int = number(64, 1, 128)  # width of the one hidden ReLU layer
    half_table: bool = False  # kernels read a float16 copy of the table; Adam keeps the float32
    backend: str = choice("native", "tinycudann")  # of the encoding; tinycudann: if that package is installed
    tensor_cores: bool = False  # CUDA, sm_80: products with W1 in split bfloat16; no gain seen


@dataclass(frozen=True)
class FieldConfig(NetworkConfig):
    """What the network's outputs mean, the domain, and the start."""

    kind: str = choice("density", "sdf")  # what the first output is: density before the activation, signed distance
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
class OccupancyConfig:
    """The occupancy grid. Keys `render.NAME`, like all of RenderConfig."""

    occupancy_resolution: int = number(64, 4, 512)  # cells per axis
    occupancy_decay: float = number(0.95, 0, 1)  # per update
    occupancy_threshold: float = number(0.01, 0, 1e6)  # optical thickness of one step
    occupancy_interval: int = number(16, 1, 1 << 40)  # steps between updates


@dataclass(frozen=True)
class RenderConfig(OccupancyConfig):
    """Training views of a volume; resolution and background also apply to a mesh."""

    resolution: int = number(64, 1, 4096)  # pixels of a square training view
    step: float = number(1.5 * 3**0.5 / 256, 1e-6, 1e3)  # world units between samples (the cube's diagonal in 256)
    near: float = number(0.05, 0, 1e3)  # world units
    budget: int = number(1 << 19, 1, (1 << 31) - 1)  # samples per step; bounds the memory
    random_background: float = number(0.0, 0, 1)  # probability of a random colour instead of the background network
    resolution_doubles: tuple[float, float] = interval(1.0, 1.0, 0, 1)  # of the run: from there twice as many pixels


@dataclass(frozen=True)
class TransmittanceConfig:
    """Dream Fields' loss. Keys `loss.NAME`, like all of LossConfig."""

    transmittance: float = 0.0  # mean transmittance of a view (Dream Fields), while its opacity is above a target
    opacity_target: tuple[float, float] = number((0.6, 0.12), 1e-6, 1)  # at the start and at the end of its ramp
    opacity_ramp: float = number(0.05, 0, 1)  # fraction of the run; the logarithm is linear


@dataclass(frozen=True)
class LossConfig(TransmittanceConfig):
    """Weights relative to an SDS loss that is the mean over the pixels and channels of a view, or to a CLIP's, minus
    the mean cosine."""

    orientation: tuple[float, float] = (1e-4, 1e-2)  # start, end (linear ramp)
    orientation_ramp: float = number(1 / 3, 0, 1)  # fraction of the run
    opacity: float = 1e-3
    smoothness: float = 0.0  # squared differences of the normals of neighbouring pixels
    entropy: float = 0.0  # binary entropy of the rays' opacity, at the end of the run
    entropy_from: float = number(0.0, 0, 1)  # fraction of the run where its linear ramp from 0 begins
    eikonal: float = number(0.0, 0, 1e6)  # field.kind sdf: (|ds/dx| - 1)^2
    eikonal_points: int = number(2048, 1, 1 << 20)  # uniform in the cube, where it is taken in addition to the samples


@dataclass(frozen=True)
class DetailConfig:
    """The finer hash grid, whose colours are added to a surface's initial colours. Keys `mesh.NAME`."""

    detail_levels: int = number(8, 1, 32)  # of the hash grid whose colours are added to those of the volume
    detail_finest: int = number(512, 2, 1 << 20)  # grid lines of its finest level; its coarsest has an eighth
    detail_log2_table: int = number(16, 3, 26)


@dataclass(frozen=True)
class SmoothConfig:
    """Regularisers of a surface. Keys `mesh.NAME`."""

    consistency: float = number(0.0, 0, 1e9)  # weight: normals of neighbouring triangles are alike
    laplacian: float = number(0.0, 0, 1e9)  # weight: vertices lie amid their neighbours
    laplacian_end: float = number(0.0, 0, 1e9)  # what it falls to, by 10^(-decay p^2) at a fraction p of the run
    laplacian_decay: float = number(0.0, 0, 1e3)  # 0: it stays
    sign_change: float = number(0.0, 0, 1e9)  # weight: values at the ends of an edge have one sign


@dataclass(frozen=True)
class SphereConfig:
    """The initial sphere of a stage of kind "sphere". Keys `mesh.NAME`."""

    sphere_level: int = number(3, 0, 5)  # a stage of kind "sphere": subdivisions of its icosahedron; 3: 642 vertices
    sphere_radius: float = number(0.4, 1e-3, 1e3)  # world units
    subdivisions: int = number(0, 0, 3)  # of the control mesh by Loop's rule, before the limit surface is taken
    bump: float = number(0.0, 0, 10)  # a normal map: height, in world units, of 1 of the finer hash grid's first output


@dataclass(frozen=True)
class MeshConfig(DetailConfig, SmoothConfig, SphereConfig):
    """A stage of kind "mesh": a surface on a tetrahedral lattice, which starts from a volume, or from another mesh."""

    resolution: int = number(128, 8, 512)  # steps of the lattice a side, even
    samples: int = number(1, 1, 4)  # along each side of a pixel
    refresh: int = number(10, 1, 1 << 40)  # steps between refreshes of the band around the surface
    lr_offset: float = number(1e-2, 0, 1e3)  # of the lattice points' offsets
    show: str = choice("color", "normal")  # rendered for the guidance; normals in camera axes, as (n + 1) / 2
    learn: str = choice("all", "color")  # color: the shape is fixed, only the finer hash grid learns


@dataclass(frozen=True)
class KeepConfig:
    """Texels of an imported mesh that keep their colours. Keys `texture.NAME`."""

    keep: str = ""  # views whose well visible texels stay: of front, left, back, right, with commas
    keep_cosine: float = number(0.5, 0, 1)  # between normal and view direction: texels above it stay unchanged
    keep_feather: float = number(0.2, 0, 1)  # cosines below `keep_cosine` over which they fade into new colours


@dataclass(frozen=True)
class TextureConfig(KeepConfig):
    """A stage of kind "texture": the colours of an imported mesh (docs/imported-meshes.md), or of the stage before."""

    source: str = ""  # path of its file
    digest: str = ""  # SHA-256 of that file, checked when a run is resumed
    up: str | None = None  # axes of the file, as "+z" or "-y"; None: those of its format
    front: str | None = None
    uv: str = choice("auto", "keep", "unwrap")  # keep the file's UVs, make a new atlas, or only if necessary
    textures: str = choice("each", "one")  # one for each image of the file, or for all of them
    size: int = number(1024, 16, 4096)  # texels a side
    faces: int = number(20000, 4, 1 << 30)  # triangles at most, of the mesh that the stage before leaves


@dataclass(frozen=True)
class PassConfig:
    """The pass that paints the sides. Keys `paint.NAME`, as all of PaintConfig."""

    views: int = number(0, 0, 6)  # 0: none; 4: front, left, back, right; 6: with top and bottom
    resolution: int = number(256, 32, 2048)  # pixels a side of a view; the picture is 2 or 3 views wide and 2 high
    strength: float = number(0.8, 0, 1)  # of the change: the share of the denoising steps that are taken
    steps: int = number(30, 1, 1000)  # of DDIM, from pure noise
    scale: float | None = None  # guidance scale of the pass; None: the model's own, at most 7.5
    control_scale: float = number(1.0, 0, 10)  # of a ControlNet's residuals
    together: bool = True  # all sides in one picture; else each alone


@dataclass(frozen=True)
class PaintConfig(PassConfig):
    """Sides of a mesh that a depth-conditioned model repaints in one picture (docs/texture-stage.md)."""

    cosine: float = number(0.2, 0, 1)  # between normal and view direction: points below it have no weight in a view
    power: float = number(6.0, 0, 64)  # exponent of the cosine in a view's weight
    rim: int = number(2, 0, 64)  # pixels beside a silhouette or a depth discontinuity that have no weight
    weight: float = number(1.0, 0, 1e9)  # of the mean squared difference from the painted views, next to an SDS of 1
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
    views: int = number(4, 1, 256)  # per batch: the paper's four chips, one view each
    particles: int = number(1, 1, 4)  # volumes with different seeds under one guidance (rule vsd: one student)
    accumulate: int = number(1, 1, 256)  # batches of `views` that are rendered and differentiated per step
    cuda_graphs: bool = True  # where there is a CUDA device and accumulate is 1
    camera: CameraConfig = CameraConfig()
    light: LightConfig = LightConfig()
    field: FieldConfig = FieldConfig()
    render: RenderConfig = RenderConfig()
    guidance: GuidanceConfig = GuidanceConfig()  # noqa: RUF009 (frozen)
    clip: ClipConfig = ClipConfig()  # noqa: RUF009 (frozen)
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    mesh: MeshConfig = MeshConfig()
    texture: TextureConfig = TextureConfig()
    paint: PaintConfig = PaintConfig()
    then: RunConfig | None = None  # the stage after this one; prompt, seed and field are those of this one

    def stages(self) -> Iterator[RunConfig]:
        """This stage and those after it; they lack what they have of this one (`runs.stages.stage_configs`)."""
        config: RunConfig | None = self
        while config is not None:
            yield config
            config = config.then


def resolution_at(config: RenderConfig, progress: float) -> int:
    """Pixels a side of a training view at `progress` in [0, 1] of the run. A fraction of 1 is never reached."""
    return config.resolution << sum(at < 1.0 and progress >= at for at in config.resolution_doubles)
