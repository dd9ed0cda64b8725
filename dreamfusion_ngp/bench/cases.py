"""What is timed: every op at ray-ordered samples, and whole steps; each with its counts and its float64 twin."""

from __future__ import annotations

from dataclasses import dataclass, field as default
from typing import Callable

import torch
from torch import Tensor

from ..cameras import camera_rays
from ..config import CameraConfig, FieldConfig, LightConfig, RenderConfig
from ..fields import HashField
from ..ops.adam import adam_step
from ..ops.composite import composite
from ..ops.field import field, field_density, recycle_gradient
from ..ops.hashgrid import hashgrid_encode
from ..ops.march import march
from ..ops.shade import shade
from ..render import Occupancy, flat_background, render
from ..rng import Stream, generator
from ..views import sample_views
from . import counts

CHECKED = 4096  # samples that are computed in float64 as well
STEPS = 32      # samples on a ray
ADAM = dict(lr=1e-3, beta1=0.9, beta2=0.99, eps=1e-15)


@dataclass
class Case:
    """One line of the table. call: ours. sample, truth: the results for the first CHECKED samples in float32 and
    float64. peers: name -> (call, sample or None)."""

    op: str
    size: int
    call: Callable
    counts: dict | None = None
    sample: Callable | None = None
    truth: Callable | None = None
    peers: dict[str, tuple[Callable, Callable | None]] = default(default_factory=dict)


class Problem:
    """A network, and samples of one view of resolution^2 parallel rays: 32 samples along each, behind the surface of a
    ball, pixel after pixel."""

    def __init__(self, resolution: int, config: FieldConfig, device: torch.device):
        random = torch.Generator().manual_seed(0)
        self.device, self.resolution, self.n = device, resolution, resolution ** 2 * STEPS
        axis = ((torch.arange(resolution) + 0.5) / resolution - 0.5) * 0.8
        down, right = torch.meshgrid(axis, axis, indexing="ij")
        depth = (0.36 - right ** 2 - down ** 2).sqrt()[..., None] - RenderConfig().step * torch.arange(STEPS)
        points = torch.stack([right[..., None].expand_as(depth), down[..., None].expand_as(depth), depth], -1)
        self.x = points.reshape(-1, 3).contiguous().to(device)
        self.unit = (self.x / config.bound + 1) / 2
        self.ray = (torch.arange(self.n, dtype=torch.int32) // STEPS).to(device)
        self.model = HashField(config, 0).to(device)
        self.layout, self.hidden, self.config = self.model.layout, config.hidden, config
        with torch.no_grad():  # as in the middle of a run: the initial table is nearly zero
            self.model.table.copy_(0.1 * torch.randn(self.model.table.shape, generator=random))
        self.light = torch.tensor([[0.5, 1.5, 2.0, 0.1, 0.9, 0.0]], device=device)
        self.grad_y = torch.randn(self.n, self.layout.width, generator=random).to(device)
        self.cotangents = [torch.randn(s, generator=random).to(device) for s in ((self.n,), (self.n, 3), (self.n, 3))]

    def cast(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """A copy in float32 where it is, or in float64 on the CPU: the kernels' float64 is there alone."""
        return tensor.detach().to("cpu" if dtype == torch.float64 else self.device, dtype, copy=True)

    def network(self, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        return [self.cast(p, dtype).requires_grad_() for p in
                (self.model.table, self.model.w1, self.model.b1, self.model.w2, self.model.b2)]

    def named(self) -> dict:
        return self.model._arguments()[1]

    def shaded_loss(self, h: Tensor, rgb_raw: Tensor, grad_h: Tensor, rows: slice, shading=shade) -> Tensor:
        """A loss with a gradient in density, lit colour and normal, as rendering has."""
        d_sigma, d_rgb, d_normal = (c[rows].to(h) for c in self.cotangents)
        sigma, rgb, normal = shading(h, rgb_raw, grad_h, self.x[rows].to(h), self.ray[rows].to(h.device),
                                     self.light.to(h.device), self.resolution ** 2, density=self.config.density)
        return ((sigma * d_sigma).sum() + (rgb * d_rgb).sum() + 0.1 * (normal * d_normal).sum()) / len(h)


def encode_cases(p: Problem) -> list[Case]:
    few, table = slice(0, CHECKED), p.network()[0]

    def encode(dtype):
        return lambda: hashgrid_encode(p.cast(p.unit[few], dtype), p.cast(table, dtype), p.layout)

    def backward(dtype):
        args = (p.cast(p.grad_y[few], dtype), p.cast(p.unit[few], dtype), *p.layout.arguments, None)
        return lambda: torch.ops.dreamfusion_ngp.hashgrid_grad_table(*args)

    return [
        Case("encode forward", p.n, lambda: hashgrid_encode(p.unit, table.detach(), p.layout),
             counts.encode_forward(p.n, p.layout), encode(torch.float32), encode(torch.float64)),
        Case("encode backward", p.n,
             lambda: torch.ops.dreamfusion_ngp.hashgrid_grad_table(p.grad_y, p.unit, *p.layout.arguments, None),
             counts.encode_backward(p.n, p.layout), backward(torch.float32), backward(torch.float64)),
    ]


def field_gradient(p: Problem, dtype: torch.dtype, rows: slice) -> Tensor:
    """The gradient of the table from a shaded step."""
    network = p.network(dtype)
    p.shaded_loss(*field(p.cast(p.x[rows], dtype), *network, p.layout, **p.named()), rows).backward()
    return network[0].grad


class FieldStep:
    """Field, Lambert shading, backward (the normals' path with it) and Adam on all parameters."""

    def __init__(self, p: Problem):
        self.p, self.network, self.step = p, p.network(), 0
        self.moments = [(torch.zeros_like(t), torch.zeros_like(t)) for t in self.network]
        self.nonfinite = torch.zeros(1, dtype=torch.int64, device=p.device)

    def __call__(self) -> None:
        p = self.p
        p.shaded_loss(*field(p.x, *self.network, p.layout, **p.named()), slice(None)).backward()
        self.step += 1
        for tensor, (first, second) in zip(self.network, self.moments):
            adam_step(tensor.data, tensor.grad, first, second, self.nonfinite, **ADAM, step=self.step)
            recycle_gradient(tensor)


def field_cases(p: Problem) -> list[Case]:
    few, network, K = slice(0, CHECKED), [t.detach() for t in p.network()], (p.n, p.layout, p.hidden)
    h, rgb_raw, grad_h = (t.requires_grad_() for t in field(p.x, *network, p.layout, **p.named()))
    parameters = sum(t.numel() for t in network)
    first, second, grad = torch.zeros_like(network[0]), torch.zeros_like(network[0]), torch.zeros_like(network[0])
    nonfinite, moved = torch.zeros(1, dtype=torch.int64, device=p.device), network[0].clone()

    def forward(dtype):
        return lambda: torch.cat([t.reshape(-1) for t in field(
            p.cast(p.x[few], dtype), *[p.cast(t, dtype) for t in network], p.layout, **p.named())])

    def backward():
        blob = p.named()["blob"]
        kind = ("none", "gaussian", "cone").index(blob[0])
        return torch.ops.dreamfusion_ngp.field_backward(
            *p.cotangents, p.x, *network, p.named()["level_weight"], *p.layout.arguments, p.config.bound, kind,
            blob[1] if kind else 0.0, blob[2] if kind else 1.0, None, None)

    def shade_both():
        p.shaded_loss(h, rgb_raw, grad_h, slice(None)).backward()
        h.grad = rgb_raw.grad = grad_h.grad = None

    step_counts = counts.added(counts.field_forward(*K), counts.field_backward(*K), counts.adam(parameters))
    return [
        Case("field density", p.n, lambda: field_density(p.x, *network, p.layout, **p.named()),
             counts.field_density(*K)),
        Case("field forward", p.n, lambda: field(p.x, *network, p.layout, **p.named()), counts.field_forward(*K),
             forward(torch.float32), forward(torch.float64)),
        Case("field backward", p.n, backward, counts.field_backward(*K)),
        Case("shade forward + backward", p.n, shade_both),
        Case("adam", parameters, lambda: adam_step(moved, grad, first, second, nonfinite, **ADAM, step=9),
             counts.adam(parameters)),
        Case("field step", p.n, FieldStep(p), step_counts, lambda: field_gradient(p, torch.float32, few),
             lambda: field_gradient(p, torch.float64, few)),
    ]


class Scene:
    """A field, an occupancy grid around its blob, one view and the samples of its rays."""

    def __init__(self, resolution: int, config: FieldConfig, device: torch.device):
        self.config = RenderConfig(resolution=resolution, budget=max(1 << 12, 48 * resolution ** 2))
        self.field = HashField(config, 0).to(device)
        self.occupancy = Occupancy(self.config, config.bound).to(device)
        edge = self.occupancy.resolution
        cell = torch.arange(edge ** 3, device=device)
        axes = torch.stack([cell // edge ** 2, cell // edge % edge, cell % edge], -1)
        inside = (((axes + 0.5) / edge * 2 - 1) * self.occupancy.bound).norm(dim=-1) < 0.4
        weights = 2 ** torch.arange(8, device=device)
        self.occupancy.bits.copy_((inside.view(-1, 8).long() * weights).sum(-1).to(torch.uint8))
        views = sample_views(CameraConfig(), LightConfig(), 1, 1.0, generator(0, 0, Stream.VIEWS))
        self.cameras, self.shading = views.cameras.to(device), views.shading.to(device)
        self.origins, self.directions = camera_rays(self.cameras, resolution)
        self.samples = self.march()
        self.n = int(self.samples.info[0])
        self.x, self.ray, self.t = (v[:self.n].contiguous() for v in
                                    (self.samples.x, self.samples.ray_id, self.samples.t))

    def march(self):
        c = self.config
        return march(self.origins, self.directions, self.occupancy.bits, resolution=self.occupancy.resolution,
                     bound=self.occupancy.bound, near=c.near, step=c.step, budget=c.budget, seed=0, stream=0)

    def step(self) -> None:
        """Render and differentiate, without guidance: what the field costs in a training step."""
        r = render(self.field, self.occupancy, self.cameras, self.shading, flat_background(torch.ones(1, 3)),
                   self.config, density="exp", seed=0)
        (r.rgb.square().mean() + r.orientation.mean() + r.opacity.mean()).backward()
        self.field.zero_grad(set_to_none=True)


def scene_cases(s: Scene) -> list[Case]:
    rays = len(s.origins)
    shaded = [v.detach().requires_grad_() for v in
              shade(*(v.detach() for v in s.field(s.x)), s.x, s.ray, s.shading, rays, density="exp")]

    def composite_both():
        outputs = composite(*shaded, s.t, s.samples.offsets, s.directions, s.config.step)
        sum(out.sum() for out in outputs if out.requires_grad).backward()
        for tensor in shaded:
            tensor.grad = None

    return [Case("march", rays, s.march), Case("composite forward + backward", rays, composite_both),
            Case("step without guidance", s.n, s.step)]
