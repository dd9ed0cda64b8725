"""Volume rendering: ray marching, shading, compositing."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..base.rng import Stream, kernel_stream
from ..config.schema import RenderConfig
from ..ops.composite import composite
from ..ops.march import Samples, march
from ..ops.shade import shade
from ..scene.cameras import Cameras, camera_rays
from ..scene.field import Field
from ..scene.occupancy import Occupancy


@dataclass(frozen=True)
class Rendering:
    """B square views of H x W pixels, R = B * H * W rays, view-major.

    rgb: (B, H, W, 3) over the background.  opacity, depth: (B, H, W).  normal: (B, H, W, 3), weighted sum of unit
    normals.  orientation: (R,) per-ray orientation loss.  info: (2,) int64 samples taken, samples dropped by the
    budget.  gradient: (N, 3) the field's grad_h at the samples.  count: (1,) int64, its rows in use.
    """

    rgb: Tensor
    opacity: Tensor
    depth: Tensor
    normal: Tensor
    orientation: Tensor
    info: Tensor
    gradient: Tensor
    count: Tensor


@dataclass(frozen=True)
class Rays:
    """Rays of square views of `size` pixels, view-major, and their samples.  directions: (R, 3) unit vectors."""

    directions: Tensor
    samples: Samples
    size: int

    def cut(self, rows: int) -> Rays:
        """The same rays with sample buffers of `rows` rows, at least as many as are in use."""
        s = self.samples
        return replace(self, samples=s._replace(t=s.t[:rows], ray_id=s.ray_id[:rows], x=s.x[:rows]))

    def clone(self) -> Rays:
        """A copy of the rays and samples."""
        return Rays(self.directions.clone(), Samples(*(v.clone() for v in self.samples)), self.size)

    def rows(self) -> int:
        """Rows of samples to work on: on the CPU those in use; on CUDA all, whose count the host would wait for."""
        return len(self.samples.t) if self.directions.is_cuda else int(self.samples.count)


@torch.no_grad()
def cast(
    occupancy: Occupancy, cameras: Cameras, config: RenderConfig, *, size: int, seed: int, stream: int | Tensor
) -> Rays:
    """The rays of `cameras`, which are on the grid's device, through `size` x `size` pixels, and their samples. seed,
    stream: of the jitter of sample positions; seed -1 puts samples at the centres of their intervals."""
    origins, directions = camera_rays(cameras, size)
    samples = march(
        origins,
        directions,
        occupancy.bits,
        resolution=occupancy.resolution,
        bound=occupancy.bound,
        near=config.near,
        step=config.step,
        budget=config.budget,
        seed=seed,
        stream=stream,
    )
    return Rays(directions, samples, size)


def integrate(field: Field, rays: Rays, shading: Tensor, background, config: RenderConfig) -> Rendering:
    """Field, shading and compositing along `rays`; the other arguments are those of `render`."""
    size, s, count = rays.size, rays.samples, rays.samples.count
    h, rgb_raw, grad_h = field(s.x, count)
    sigma, rgb, normal = shade(
        h, rgb_raw, grad_h, s.x, s.ray_id, shading, size * size, density=field.activation, count=count
    )
    color, opacity, depth, normals, orientation = composite(
        sigma, rgb, normal, s.t, s.offsets, rays.directions, config.step, count=count
    )
    color = color + (1 - opacity)[:, None] * background(rays.directions)

    def image(values, *channels):
        return values.reshape(len(shading), size, size, *channels)

    pictures = image(color, 3), image(opacity), image(depth), image(normals, 3)
    return Rendering(*pictures, orientation, s.info, grad_h, count)


def render(
    field: Field,
    occupancy: Occupancy,
    cameras: Cameras,
    shading: Tensor,
    background,
    config: RenderConfig,
    *,
    resolution: int | None = None,
    seed: int = -1,
    step: int = 0,
) -> Rendering:
    """Render `cameras` with one row of `shading` (B, 6) each (see ops.shade), on the device of the occupancy grid.

    background: callable, ray directions (R, 3) -> colours (R, 3). resolution: pixels a side, default the config's.
    seed, step: of the jitter of sample positions; seed -1 puts samples at the centres of their intervals. Raises
    ValueError for a resolution below 1.
    """
    size = config.resolution if resolution is None else resolution
    if size < 1:
        raise ValueError(f"render: resolution must be at least 1, got {size}")
    device = occupancy.bits.device
    rays = cast(occupancy, cameras.to(device), config, size=size, seed=seed, stream=kernel_stream(step, Stream.MARCH))
    shading = shading.to(device, non_blocking=device.type == "cuda")
    return integrate(field, rays.cut(rays.rows()), shading, background, config)


def flat_background(colors: Tensor):
    """A background with one colour (B, 3) per view."""

    def background(directions: Tensor) -> Tensor:
        here = colors.to(directions, non_blocking=directions.is_cuda)
        return here[:, None].expand(-1, len(directions) // len(colors), -1).flatten(0, 1)

    return background
