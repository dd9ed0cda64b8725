"""How close a result comes to the toy that its prompt names: volume, silhouettes, colour. For prompts of the embedded
prior only.

Nothing in generation imports this module: the true shape is looked at afterwards, never before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from .cameras import Cameras, orbit
from .mesh import cell_centres, iso_level, query, sample_grid
from .toybox.captions import parse_prompt
from .toybox.shapes import COLORS, PARAMETERS, distance
from .toybox.world import EXTENT, silhouette, trace

RESOLUTION = 64                      # cells per axis of the compared solids
SCALES = (0.7, 1.4)                  # of the toy
COARSE_YAWS, COARSE_SCALES = 36, 8   # first search, on every second cell per axis
CANDIDATES = 3                       # of the first search, refined on all cells
FINEST_YAW = 1.0                     # degrees; the last step of the refinement

# 24 views, the whole object in each: eight azimuths at three elevations (degrees).
AZIMUTHS = tuple(range(0, 360, 45))
ELEVATIONS = (-5.0, 20.0, 50.0)
VIEW_DISTANCE, VIEW_FOCAL = 1.6, 1.25  # world units, image widths
VIEW_RESOLUTION = 128                # pixels a side


@dataclass(frozen=True)
class Volume:
    """iou: in [0, 1]. yaw: degrees about +Y and scale: of the toy where it fits best. unaligned: IoU at yaw 0 and
    scale 1. level: density of the surface."""

    iou: float
    yaw: float
    scale: float
    unaligned: float
    level: float


def fill_cavities(solid: np.ndarray) -> np.ndarray:
    """`solid` (bool, 3D) with every empty region that has no way out of the grid through cell faces filled."""
    from scipy.ndimage import label

    regions, _ = label(np.pad(~solid, 1, constant_values=True))
    return (regions != regions[0, 0, 0])[1:-1, 1:-1, 1:-1]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two bool arrays; 1 for two empty ones."""
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 1.0


class _Fit:
    """IoU of a fixed solid and the toy, turned and scaled, on the cells of one grid."""

    def __init__(self, solid: np.ndarray, axis: np.ndarray, name: str):
        self.solid, self.name = solid, name
        points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
        radius = np.linalg.norm(points, axis=1)
        self.order = np.argsort(radius)  # from the centre outwards: a small toy needs few of the points
        self.radius = radius[self.order]
        self.points = torch.tensor(points[self.order].T[:, None], dtype=torch.float32)

    def toy(self, yaw: float, scale: float) -> np.ndarray:
        """The toy turned by `yaw` degrees about +Y (from +Z towards +X) and scaled about the origin, cavities
        filled."""
        near = int(np.searchsorted(self.radius, EXTENT * scale))
        x, y, z = self.points[..., :near] / scale
        c, s = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
        inside = np.zeros(self.solid.size, dtype=bool)
        found = distance(self.name, (c * x - s * z, y, s * x + c * z), torch.zeros(1, PARAMETERS))[0] < 0
        inside[self.order[:near]] = found.numpy()
        return fill_cavities(inside.reshape(self.solid.shape))

    def __call__(self, yaw: float, scale: float) -> float:
        return iou(self.solid, self.toy(yaw, scale))


def volumetric_iou(density, name: str, bound: float, *, resolution: int = RESOLUTION, device="cpu") -> Volume:
    """Intersection over union of the solids of a field and of the toy `name` in its canonical proportions.

    density: callable, points (N, 3) -> (N,) density per world unit, defined on [-bound, bound]^3. The field's solid
    is where the density exceeds `mesh.iso_level`, the rule of the mesh export. All pieces count; closed cavities are
    filled on both sides. The toy is turned about the vertical and scaled uniformly about the origin (SCALES) for the
    best IoU: a grid of 36 yaws x 8 scales, then a pattern search from the best three down to 1 degree. Nothing else
    is optimised: no shift, no tilt, no mirror image, no iso-level.
    Raises ExportError for an empty or not finite field.
    """
    half = max(bound, 0.5 * SCALES[1])  # a large toy may leave the scene: what is out there counts against the field

    def inside(x):
        return density(x.clamp(-bound, bound)) * (x.abs() <= bound).all(1).to(x.device)

    grid = sample_grid(inside, half, resolution, device)
    level = iso_level(grid, 2 * half / resolution)
    solid, axis = fill_cavities(grid > level), cell_centres(half, resolution)
    coarse, fine = _Fit(solid[::2, ::2, ::2], axis[::2], name), _Fit(solid, axis, name)
    starts = sorted(((coarse(yaw, scale), yaw, scale) for yaw in np.arange(COARSE_YAWS) * 360 / COARSE_YAWS
                     for scale in np.geomspace(*SCALES, COARSE_SCALES)), reverse=True)[:CANDIDATES]
    unaligned = fine(0.0, 1.0)
    best = max([(unaligned, 0.0, 1.0), *(_refine(fine, yaw, scale) for _, yaw, scale in starts)])
    return Volume(best[0], float((best[1] + 180) % 360 - 180), float(best[2]), unaligned, level)


def _refine(fit, yaw: float, scale: float) -> tuple[float, float, float]:
    """Pattern search: try both neighbours in yaw and in scale, move to a better one, else halve the steps."""
    value, turn, ratio = fit(yaw, scale), 5.0, 1.05
    while turn >= FINEST_YAW:
        options = [(yaw + turn, scale), (yaw - turn, scale),
                   (yaw, min(scale * ratio, SCALES[1])), (yaw, max(scale / ratio, SCALES[0]))]
        found = max((fit(y, s), y, s) for y, s in options)
        if found[0] > value:
            value, yaw, scale = found
        else:
            turn, ratio = turn / 2, ratio ** 0.5
    return value, yaw, scale


def evaluation_cameras() -> Cameras:
    """The 24 fixed views, the eight azimuths of one elevation after the other."""
    return orbit(AZIMUTHS * len(ELEVATIONS), np.repeat(ELEVATIONS, len(AZIMUTHS)), VIEW_DISTANCE, VIEW_FOCAL)


def silhouette_iou(render_opacity, name: str, *, resolution: int = VIEW_RESOLUTION) -> list[float]:
    """IoU of the field's and the toy's silhouettes in each of the 24 `evaluation_cameras`, nothing aligned.

    render_opacity: callable, (Cameras of B views, resolution) -> (B, resolution, resolution) opacity, a tensor; a
    pixel belongs to the silhouette above 0.5, and to the toy's where at least half of it is covered.
    """
    cameras = evaluation_cameras()
    truth = silhouette(trace(name, torch.zeros(len(cameras), PARAMETERS), cameras, resolution)).numpy()
    found = []
    for i in range(0, len(cameras), len(AZIMUTHS)):
        part = slice(i, i + len(AZIMUTHS))
        views = Cameras(*(getattr(cameras, field)[part] for field in ("c2w", "focal", "azimuth", "elevation")))
        found.append(torch.as_tensor(render_opacity(views, resolution)).detach().cpu().numpy() > 0.5)
    return [iou(a, b) for a, b in zip(np.concatenate(found), truth)]


def surface_colors(density, albedo, bound: float, level: float, *, resolution: int = RESOLUTION,
                   device="cpu") -> np.ndarray:
    """(N, 3) albedo of the field in the cells of its solid that can be seen from outside: those next to open space."""
    from scipy.ndimage import binary_erosion

    solid = fill_cavities(sample_grid(density, bound, resolution, device) > level)
    seen = np.argwhere(solid & ~binary_erosion(solid))
    return query(albedo, cell_centres(bound, resolution)[seen], device)


def color_scores(colors: np.ndarray, color: str) -> tuple[float, float]:
    """(error, share) of surface colours (N, 3): the root mean square over the channels of their mean's distance to the
    named colour; the part of them whose nearest named colour it is. Parts that a toy has in other colours count too."""
    difference = colors.mean(0) - np.array(COLORS[color])
    nearest = np.linalg.norm(colors[:, None] - np.array(list(COLORS.values())), axis=-1).argmin(1)
    return float(np.sqrt((difference ** 2).mean())), float((nearest == list(COLORS).index(color)).mean())


def report(prompt: str, density, render_opacity, albedo, bound: float, *, device="cpu") -> dict:
    """The scores above for the toy that `prompt` names, as a flat JSON-ready dictionary: volumetric_iou with yaw
    (degrees), scale, volumetric_iou_unaligned and iso_level (see `Volume`), silhouette_iou (mean of the 24 views),
    silhouette_iou_worst, color_error and color_share (null where the prompt names no colour), and two lists:
    mean_color, and views with one record each.

    Raises PromptError for a prompt that names no toy, ExportError for an empty or not finite field.
    """
    name, color = parse_prompt(prompt)
    volume = volumetric_iou(density, name, bound, device=device)
    views = silhouette_iou(render_opacity, name)
    colors = surface_colors(density, albedo, bound, volume.level, device=device)
    error, share = color_scores(colors, color) if color else (None, None)
    angles = [(azimuth, elevation) for elevation in ELEVATIONS for azimuth in AZIMUTHS]
    return {"prompt": prompt, "class": name, "color": color,
            "volumetric_iou": volume.iou, "yaw": volume.yaw, "scale": volume.scale,
            "volumetric_iou_unaligned": volume.unaligned, "iso_level": volume.level,
            "silhouette_iou": float(np.mean(views)), "silhouette_iou_worst": min(views),
            "color_error": error, "color_share": share, "mean_color": colors.mean(0).tolist(),
            "views": [{"azimuth": a, "elevation": e, "iou": v} for (a, e), v in zip(angles, views)]}
