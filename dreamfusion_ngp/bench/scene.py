"""Cases of rays: marching, compositing, and a step without guidance; with float64 twins."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..base.rng import Stream, generator
from ..config.schema import CameraConfig, FieldConfig, LightConfig, RenderConfig
from ..ops.composite import composite
from ..ops.march import march
from ..ops.shade import shade
from ..render.volume import flat_background, render
from ..scene.cameras import camera_rays
from ..scene.fields import HashField
from ..scene.occupancy import Occupancy
from ..scene.views import sample_views
from .cases import CHECKED, Case


class Scene:
    """A field, an occupancy grid around its blob, one view and the samples of its rays."""

    def __init__(self, resolution: int, config: FieldConfig, device: torch.device):
        self.config = RenderConfig(resolution=resolution, budget=max(1 << 12, 48 * resolution**2))
        self.field = HashField(config, 0).to(device)
        self.occupancy = Occupancy(self.config, config.bound).to(device)
        edge = self.occupancy.resolution
        cell = torch.arange(edge**3, device=device)
        axes = torch.stack([cell // edge**2, cell // edge % edge, cell % edge], -1)
        inside = (((axes + 0.5) / edge * 2 - 1) * self.occupancy.bound).norm(dim=-1) < 0.4
        weights = 2 ** torch.arange(8, device=device)
        self.occupancy.bits.copy_((inside.view(-1, 8).long() * weights).sum(-1).to(torch.uint8))
        views = sample_views(CameraConfig(), LightConfig(), 1, 1.0, generator(0, 0, Stream.VIEWS))
        self.cameras, self.shading = views.cameras.to(device), views.shading.to(device)
        self.origins, self.directions = camera_rays(self.cameras, resolution)
        self.samples = self.march()
        self.n = int(self.samples.info[0])
        self.x, self.ray, self.t = (
            v[: self.n].contiguous() for v in (self.samples.x, self.samples.ray_id, self.samples.t)
        )
        self.shaded = [
            v.detach().requires_grad_()
            for v in shade(
                *(v.detach() for v in self.field(self.x)),
                x=self.x,
                ray_id=self.ray,
                view=self.shading,
                rays_per_view=len(self.origins),
                density=self.field.activation,
            )
        ]

    def march(self, dtype: torch.dtype = torch.float32, device: torch.device | None = None):
        c = self.config
        origins, directions, bits = (
            v.to(device or v.device) for v in (self.origins, self.directions, self.occupancy.bits)
        )
        return march(
            origins.to(dtype),
            directions.to(dtype),
            bits,
            resolution=self.occupancy.resolution,
            bound=self.occupancy.bound,
            near=c.near,
            step=c.step,
            budget=c.budget,
            seed=0,
            stream=0,
        )

    def step(self) -> None:
        """Render and differentiate without guidance: the cost of the field in a training step."""
        r = render(
            self.field,
            self.occupancy,
            self.cameras,
            self.shading,
            flat_background(torch.ones(1, 3)),
            self.config,
            seed=0,
        )
        (r.rgb.square().mean() + r.orientation.mean() + r.opacity.mean()).backward()
        self.field.zero_grad(set_to_none=True)


def sums_of_rays(ray: Tensor, t: Tensor, rays: int) -> Tensor:
    """(rays,) float64: the sum of the distances of a ray's samples, which a missing or extra sample changes."""
    return torch.zeros(rays, dtype=torch.float64, device=t.device).index_add_(0, ray.long(), t.double())


def march_sums(s: Scene, dtype: torch.dtype) -> Tensor:
    samples = s.march(dtype, torch.device("cpu") if dtype == torch.float64 else None)
    n = int(samples.info[0])
    return sums_of_rays(samples.ray_id[:n], samples.t[:n], len(s.origins))


def sum_of(outputs: Sequence[Tensor]) -> Tensor:
    """(): the sum of all numbers, tensor by tensor."""
    first, *others = (out.sum() for out in outputs)
    return sum(others, first)


def composite_check(s: Scene, dtype: torch.dtype, outputs: Callable[..., Sequence[Tensor]]) -> Tensor:
    """For rays in the middle of the view: the results of compositing, and the gradients of their sum with respect to
    density, colour and normal. outputs: (sigma, rgb, normal, t, offsets, directions) -> tensors."""
    first = max(0, (len(s.origins) - CHECKED) // 2)
    rays = slice(first, first + CHECKED)
    offsets = s.samples.offsets[first : first + CHECKED + 1]
    rows, device = slice(int(offsets[0]), int(offsets[-1])), "cpu" if dtype == torch.float64 else s.x.device
    inputs = [v[rows].detach().to(device, dtype).requires_grad_() for v in s.shaded]
    results = outputs(
        *inputs, s.t[rows].to(device, dtype), (offsets - offsets[0]).to(device), s.directions[rays].to(device, dtype)
    )
    gradients = torch.autograd.grad(sum_of(results), inputs)
    return torch.cat([v.detach().reshape(-1) for v in (*results, *gradients)])


def scene_cases(s: Scene) -> list[Case]:
    rays = len(s.origins)

    def outputs(*inputs):
        return composite(*inputs, step=s.config.step)

    def composite_both():
        sum_of(outputs(*s.shaded, s.t, s.samples.offsets, s.directions)).backward()
        for tensor in s.shaded:
            tensor.grad = None

    return [
        Case("march", rays, s.march, None, lambda: march_sums(s, torch.float32), lambda: march_sums(s, torch.float64)),
        Case(
            "composite forward + backward",
            rays,
            composite_both,
            None,
            lambda: composite_check(s, torch.float32, outputs),
            lambda: composite_check(s, torch.float64, outputs),
        ),
        Case("step without guidance", s.n, s.step),
    ]
