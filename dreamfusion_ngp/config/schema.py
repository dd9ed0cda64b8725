"""The settings of a run as data: frozen dataclasses, units in the comments."""

from __future__ import annotations

from dataclasses import dataclass

from .guidance import ClipConfig, GuidanceConfig
from .limits import choice, interval, maybe, number


@dataclass(frozen=True)
class JitterConfig:
    """Away from the plan. Keys `camera.NAME`, as all of CameraConfig."""

    position_jitter: float = number(0.1, 0, 1e3)  # world units, uniform in each axis
    look_at_std: float = number(0.2, 0, 1e3)  # world units (the paper's N(0, 0.2 I), read as a deviation)
    up_std: float = number(0.02, 0, 10)  # added to the unit up vector


@dataclass(frozen=True)
class CameraConfig(JitterConfig):
    """Where the cameras of a step are."""

    elevation: tuple[float, float] = interval(-10.0, 90.0, -90, 90)  # degrees
    uniform_angle_probability: float = number(0.5, 0, 1)  # else uniform in area on the upper half-sphere
    low_elevation: float = number(0.0, 0, 100)  # b of Beta(1, b), by which it is drawn from the range; 0: as above
    distance: tuple[float, float] = interval(1.0, 1.5, 1e-3, 1e3)  # world units from the origin
    focal: tuple[float, float] = interval(0.7, 1.35, 1e-2, 1e2)  # image widths; full field of view 71 to 41 degrees
    distance_per_focal: bool = False  # distance is multiplied by the focal length: constant framing
    stratified_azimuth: bool = False  # views of one step evenly spaced around the object
    ring: int | None = maybe(1, 16)  # so many views are of one: evenly spaced, all else alike, lamp and background too


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
    """The hash grid and the layer behind it. Keys `field.NAME`, as all of FieldConfig."""

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


@dataclass(frozen=True)
class FieldConfig(NetworkConfig):
    """What the network's outputs are, where they are asked for, and how they begin."""

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
    """The grid of empty space. Keys `render.NAME`, as all of RenderConfig."""

    occupancy_resolution: int = number(64, 4, 512)  # cells per axis
    occupancy_decay: float = number(0.95, 0, 1)  # per update
    occupancy_threshold: float = number(0.01, 0, 1e6)  # optical thickness of one step
    occupancy_interval: int = number(16, 1, 1 << 40)  # steps between updates


@dataclass(frozen=True)
class RenderConfig(OccupancyConfig):
    """Training views of a volume; their size and background are those of a mesh, too."""

    resolution: int = number(64, 1, 4096)  # pixels of a square training view
    step: float = number(1.5 * 3**0.5 / 256, 1e-6, 1e3)  # world units between samples (the cube's diagonal in 256)
    near: float = number(0.05, 0, 1e3)  # world units
    budget: int = number(1 << 19, 1, (1 << 31) - 1)  # samples per step; bounds the memory
    random_background: float = number(0.0, 0, 1)  # probability of a random colour instead of the background network
    resolution_doubles: tuple[float, float] = interval(1.0, 1.0, 0, 1)  # of the run: from there twice as many pixels


@dataclass(frozen=True)
class TransmittanceConfig:
    """Dream Fields' loss. Keys `loss.NAME`, as all of LossConfig."""

    transmittance: float = 0.0  # mean transmittance of a view (Dream Fields), as far as its opacity is above a target
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
    eikonal: float = number(0.0, 0, 1e6)  # field.kind sdf: squared differences of |ds/dx| to 1
    eikonal_points: int = number(2048, 1, 1 << 20)  # of the cube, evenly, where it is asked for besides the samples


@dataclass(frozen=True)
class DetailConfig:
    """The finer hash grid, whose colours are added to those that a surface begins with. Keys `mesh.NAME`."""

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
    """What a stage of kind "sphere" begins with. Keys `mesh.NAME`."""

    sphere_level: int = number(3, 0, 5)  # a stage of kind "sphere": subdivisions of its icosahedron; 3: 642 vertices
    sphere_radius: float = number(0.4, 1e-3, 1e3)  # world units
    subdivisions: int = number(0, 0, 3)  # by Loop's rule, of these control points, before their limit is taken


@dataclass(frozen=True)
class MeshConfig(DetailConfig, SmoothConfig, SphereConfig):
    """A stage of kind "mesh": a surface on a tetrahedral lattice, which starts from a volume, or from another mesh."""

    resolution: int = number(128, 8, 512)  # steps of the lattice a side, even
    samples: int = number(1, 1, 4)  # along each side of a pixel
    refresh: int = number(10, 1, 1 << 40)  # steps between refreshes of the band around the surface
    lr_offset: float = number(1e-2, 0, 1e3)  # of the lattice points' offsets
    show: str = choice("color", "normal")  # to the guidance; normals in the camera's axes, as (n + 1) / 2
    learn: str = choice("all", "color")  # color: the shape stays, the finer hash grid alone learns


@dataclass(frozen=True)
class KeepConfig:
    """Texels of an imported mesh that stay. Keys `texture.NAME`."""

    keep: str = ""  # named views whose well seen texels stay: of front, left, back, right, with commas
    keep_cosine: float = number(0.5, 0, 1)  # between the normal and the sight: texels above it stay whole
    keep_feather: float = number(0.2, 0, 1)  # cosines below `keep_cosine` over which they fade into new ones


@dataclass(frozen=True)
class TextureConfig(KeepConfig):
    """A stage of kind "texture": the colours of an imported mesh (docs/imported-meshes.md), or of the stage before."""

    source: str = ""  # path of its file
    digest: str = ""  # SHA-256 of that file, by which a resumed run knows it
    up: str | None = None  # axes of the file, as "+z" or "-y"; None: those of its format
    front: str | None = None
    uv: str = choice("auto", "keep", "unwrap")  # the file's own UVs, a new atlas, or one where it must be
    textures: str = choice("each", "one")  # one for each image of the file, or for all of them
    size: int = number(1024, 16, 4096)  # texels a side
    faces: int = number(20000, 4, 1 << 30)  # triangles at most, of the mesh that the stage before leaves


@dataclass(frozen=True)
class PassConfig:
    """The pass that paints the sides. Keys `paint.NAME`, as all of PaintConfig."""

    views: int = number(0, 0, 6)  # 0: none; 4: front, right, back, left; 6: with top and bottom
    resolution: int = number(256, 32, 2048)  # pixels a side of a view; the picture is 2 or 3 views wide and 2 high
    strength: float = number(0.8, 0, 1)  # of the change: the share of the steps that are made
    steps: int = number(30, 1, 1000)  # of DDIM, from pure noise
    scale: float | None = None  # guidance scale of the pass; None: the model's own, at most 7.5
    control_scale: float = number(1.0, 0, 10)  # of what a ControlNet says
    together: bool = True  # all sides in one picture; else each alone


@dataclass(frozen=True)
class PaintConfig(PassConfig):
    """Sides of a mesh that a depth-conditioned model repaints in one picture (docs/texture-stage.md)."""

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
    guidance: GuidanceConfig = GuidanceConfig()  # noqa: RUF009 (frozen)
    clip: ClipConfig = ClipConfig()  # noqa: RUF009 (frozen)
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    mesh: MeshConfig = MeshConfig()
    texture: TextureConfig = TextureConfig()
    paint: PaintConfig = PaintConfig()
    then: RunConfig | None = None  # the stage after this one; prompt, seed and field are those of this one


def resolution_at(config: RenderConfig, progress: float) -> int:
    """Pixels a side of a training view at `progress` in [0, 1] of the run. A fraction of 1 is never reached."""
    return config.resolution << sum(at < 1.0 and progress >= at for at in config.resolution_doubles)
