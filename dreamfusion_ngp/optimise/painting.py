"""The texture stage: a depth-conditioned model paints all sides in one picture, then the colours are optimised to match
it, with a little score distillation (TextMesh, Tsalicoglou et al., 3DV 2024, section 3.3).

The paper's gradient is that of the mean square error on four painted views plus lambda times that of score
distillation. Views are weighted by a power of the cosine, as in SyncMVD (Liu et al. 2023).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..base.rng import Stream, generator, later_seed
from ..base.slots import sent
from ..config.schema import RunConfig
from ..guidance.depth import depth_picture, tiled, untiled
from ..guidance.painter import Painter, load_painter, repaint
from ..guidance.protocol import Guidance, GuidanceOutput
from ..render.mesh import MeshRendering, render_mesh
from ..render.sides import Sides, rasterise_sides, side_cameras, view_weights
from ..scene.painted_surface import PaintedSurface
from ..scene.views import Views
from .mesh import SurfaceStage
from .painted_views import Points, fill_unseen, join, kept_share, match_colors, points_of, views_loss
from .stage import StepRecord

log = logging.getLogger(__name__)

DARKEST = 0.3  # of the background behind painted views: black would bleed into dark spots


class PaintStage(SurfaceStage):
    """A `Stage` of a surface that keeps its shape. views: (B, H, H, 3) the painted views, zeros before the first step;
    None where the config asks for none. painted: whether they are painted."""

    surface: PaintedSurface
    load: Callable[..., Painter] = staticmethod(load_painter)

    def __init__(self, config: RunConfig, device: str | torch.device, surface: PaintedSurface):
        super().__init__(config, device, surface)
        count, side = config.paint.views, config.paint.resolution
        self.views = torch.zeros(count, side, side, 3, device=self.device) if count else None
        self.painted, self.points = False, None  # points: made at first use

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | ({} if self.views is None else {"paint.views": self.views})

    def counters(self) -> dict[str, int]:
        return super().counters() | ({} if self.views is None else {"painted": int(self.painted)})

    def restore(self, step: int, counters: Mapping[str, int]) -> None:
        super().restore(step, counters)
        self.painted, self.points = bool(counters.get("painted", 0)), None

    def advance(self, guidance: Guidance, clock: Callable[[], float]) -> StepRecord:
        if self.views is not None and not self.painted:
            self.paint(self.load(self.config, self.device))
        return super().advance(guidance, clock)

    @torch.no_grad()
    def paint(self, painter: Painter) -> None:
        """Let `painter` repaint the views, from how they look now."""
        assert self.views is not None
        sides = self.sides()
        self.views.copy_(painted_views(self.surface, sides, painter, self.config))
        self.painted = True
        log.info("painted     %d sides of %d x %d pixels", *self.views.shape[:3])

    def sides(self) -> Sides:
        vertices, faces = self.surface()
        paint = self.config.paint
        cameras = side_cameras(self.config.camera, paint.views)
        return rasterise_sides(vertices.detach(), faces, cameras, paint.resolution, two_sided=self.surface.two_sided)

    def losses(self, rendering: MeshRendering) -> dict[str, tuple[float, Tensor]]:
        paint = self.config.paint
        if self.views is None:
            return {}
        if self.points is None:
            self.points = self.painted_points(self.views)
        if not len(self.points):  # no view sees anything well enough, or all of it is kept
            return {}
        random = generator(self.config.seed, self.step + 1, Stream.PAINT)
        return {"views": (paint.weight, views_loss(self.surface, self.points, paint.batch, random))}

    def painted_points(self, views: Tensor) -> Points:
        """The points that `views` colour, and those coloured like their neighbours."""
        paint, sides = self.config.paint, self.sides()
        weight = view_weights(sides, paint.cosine, paint.power, paint.rim)
        points = points_of(views, sides, weight)
        if not len(points):
            return points
        painted = points_of(views, sides, weight * (1 - kept_share(self.surface, sides)))
        return join(painted, fill_unseen(self.surface, sides, weight, points, self.config.seed))

    def differentiate(self, guidance: Guidance, part: int, clock: Callable[[], float]) -> StepRecord:
        distils = self.views is None or self.config.paint.sds > 0
        return super().differentiate(guidance if distils else Silent(), part, clock)

    def learn(
        self, rendering: MeshRendering, d_rgb: Tensor, losses: dict[str, tuple[float, Tensor]], last: bool
    ) -> None:
        super().learn(rendering, d_rgb if self.views is None else d_rgb * self.config.paint.sds, losses, last)


class Silent:
    """A guidance whose gradient is zero."""

    def __call__(self, image: Tensor, views: Views, part: int, progress: float) -> GuidanceOutput:
        return GuidanceOutput(torch.zeros_like(image), image.new_zeros(()), {})

    def tensors(self) -> dict[str, Tensor]:
        return {}


def painted_views(surface: PaintedSurface, sides: Sides, painter: Painter, config: RunConfig) -> Tensor:
    """(B, H, H, 3) the sides of a surface repainted, their colours matched to one another and to what is kept."""
    paint = config.paint
    original, kept = render_sides(surface, sides, config), kept_share(surface, sides)
    views = repaint_sides(painter, original, sides, kept, config)
    weight = view_weights(sides, paint.cosine, paint.power, paint.rim)
    return match_colors(views.to(original), sides, weight, original, kept)


def repaint_sides(painter: Painter, original: Tensor, sides: Sides, kept: Tensor, config: RunConfig) -> Tensor:
    """(B, H, H, 3) on the CPU: the sides `original` (B, H, H, 3) repainted, except where `kept` (B, H, H): all in one
    picture, or each alone with its own noise."""
    paint, columns = config.paint, config.paint.views // 2
    mask = kept if bool(kept.any()) else None
    if paint.together:
        depth = tiled(sides.depth, columns)
        stays = None if mask is None else tiled(mask, columns)
        whole = tiled(original, columns), depth_picture(depth, depth > 0)
        return untiled(repaint(painter, *whole, paint, config.seed, stays), columns)
    depth, views = depth_picture(sides.depth, sides.seen), []
    for i in range(paint.views):
        one = slice(i, i + 1)
        stays = None if mask is None else mask[one]
        views.append(repaint(painter, original[one], depth[one], paint, later_seed(config.seed, i), stays))
    return torch.cat(views)


def render_sides(surface: PaintedSurface, sides: Sides, config: RunConfig) -> Tensor:
    """(B, H, H, 3) the sides as they look now, unlit, over one flat colour."""
    count, device = len(sides.depth), sides.depth.device
    color = generator(config.seed, 1, Stream.PAINT).uniform(DARKEST, 1, 3)
    background = sent(color, device, torch.float32).expand(count, 3)
    unlit = torch.tensor([0.0, 0, 0, 1, 0, 0], device=device).expand(count, 6)
    size = sides.depth.shape[-1]
    return render_mesh(surface, sides.cameras, unlit, background, resolution=size, samples=2).rgb
