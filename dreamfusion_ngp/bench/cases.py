"""What is timed of the hash grid and of the field, at ray-ordered samples; each with its counts and its float64
twin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from dataclasses import field as default

import torch
from torch import Tensor

from ..config.schema import FieldConfig, RenderConfig
from ..ops.adam import adam_step
from ..ops.field import field, field_density, recycle_gradient
from ..ops.hashgrid import hashgrid_encode
from ..ops.shade import shade
from ..scene.fields import HashField
from . import counts

CHECKED = 4096  # samples that are computed in float64 as well
STEPS = 32  # samples on a ray
ADAM = dict(lr=1e-3, beta1=0.9, beta2=0.99, eps=1e-15)


class LeftOut(Exception):
    """A peer, or a size, does not take part; the message says why."""


@dataclass
class Peer:
    """call: what is timed. sample: its result for the samples that are computed in float64 as well. chunk: samples that
    it works on at a time, where that is not all. note: anything else that belongs beside its time."""

    call: Callable
    sample: Callable | None = None
    chunk: int | None = None
    note: str | None = None


@dataclass
class Case:
    """One line of the table. call: ours. sample, truth: the results for the first CHECKED samples in float32 and
    float64. precision: of the table that is read. peers: name -> how to prepare it."""

    op: str
    size: int
    call: Callable
    counts: dict | None = None
    sample: Callable | None = None
    truth: Callable | None = None
    precision: torch.dtype = torch.float32
    peers: dict[str, Callable[[], Peer]] = default(default_factory=dict)


def needed_bytes(resolution: int, config: FieldConfig) -> float:
    """About what the cases of one size hold at most: encodings, their gradients and a result, and the rest of a
    sample, with that of a step."""
    return resolution**2 * STEPS * (3 * 4 * config.levels * config.features + 250)


class Problem:
    """A network, and samples of one view of resolution^2 parallel rays: 32 samples along each, behind the surface of a
    ball, pixel after pixel."""

    def __init__(self, resolution: int, config: FieldConfig, device: torch.device):
        random = torch.Generator().manual_seed(0)
        self.device, self.resolution, self.n = device, resolution, resolution**2 * STEPS
        axis = ((torch.arange(resolution) + 0.5) / resolution - 0.5) * 0.8
        down, right = torch.meshgrid(axis, axis, indexing="ij")
        depth = (0.36 - right**2 - down**2).sqrt()[..., None] - RenderConfig().step * torch.arange(STEPS)
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

    @property
    def growth(self) -> float:
        """Ratio of the resolutions of two successive levels."""
        layout = self.layout
        return (layout.finest_resolution / layout.base_resolution) ** (1 / max(1, layout.levels - 1))

    def cast(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """A copy in float32 where it is, or in float64 on the CPU: the kernels' float64 is there alone."""
        return tensor.detach().to("cpu" if dtype == torch.float64 else self.device, dtype, copy=True)

    def network(self, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        return [
            self.cast(p, dtype).requires_grad_()
            for p in (self.model.table, self.model.w1, self.model.b1, self.model.w2, self.model.b2)
        ]

    def named(self) -> dict:
        return self.model._arguments()[1]

    def shaded_loss(self, h: Tensor, rgb_raw: Tensor, grad_h: Tensor, rows: slice, shading=shade) -> Tensor:
        """A loss with a gradient in density, lit colour and normal, as rendering has."""
        d_sigma, d_rgb, d_normal = (c[rows].to(h) for c in self.cotangents)
        sigma, rgb, normal = shading(
            h,
            rgb_raw,
            grad_h,
            self.x[rows].to(h),
            self.ray[rows].to(h.device),
            self.light.to(h.device),
            self.resolution**2,
            density=self.config.density,
        )
        return ((sigma * d_sigma).sum() + (rgb * d_rgb).sum() + 0.1 * (normal * d_normal).sum()) / len(h)


def encode_cases(p: Problem) -> list[Case]:
    few, table = slice(0, CHECKED), p.network()[0]

    def encode(dtype):
        return lambda: hashgrid_encode(p.cast(p.unit[few], dtype), p.cast(table, dtype), p.layout)

    def backward(dtype):
        args = (p.cast(p.grad_y[few], dtype), p.cast(p.unit[few], dtype), *p.layout.arguments, None)
        return lambda: torch.ops.dreamfusion_ngp.hashgrid_grad_table(*args)

    return [
        Case(
            "encode forward",
            p.n,
            lambda: hashgrid_encode(p.unit, table.detach(), p.layout),
            counts.encode_forward(p.n, p.layout),
            encode(torch.float32),
            encode(torch.float64),
        ),
        Case(
            "encode backward",
            p.n,
            lambda: torch.ops.dreamfusion_ngp.hashgrid_grad_table(p.grad_y, p.unit, *p.layout.arguments, None),
            counts.encode_backward(p.n, p.layout),
            backward(torch.float32),
            backward(torch.float64),
        ),
    ]


def field_gradient(p: Problem, dtype: torch.dtype, shadow: Tensor | None = None) -> Tensor:
    """The gradient of the table from a shaded step of the first samples."""
    network, few = p.network(dtype), slice(0, CHECKED)
    p.shaded_loss(*field(p.cast(p.x[few], dtype), *network, p.layout, **p.named() | {"shadow": shadow}), few).backward()
    return network[0].grad


class FieldStep:
    """Field, Lambert shading, backward (the normals' path with it) and Adam on all parameters. half: lookups read a
    float16 copy of the table, which is written after each step."""

    def __init__(self, p: Problem, half: bool = False):
        self.p, self.network, self.step = p, p.network(), 0
        self.moments = [(torch.zeros_like(t), torch.zeros_like(t)) for t in self.network]
        self.nonfinite = torch.zeros(1, dtype=torch.int64, device=p.device)
        self.named = p.named() | {"shadow": self.network[0].detach().half() if half else None}

    def __call__(self) -> None:
        p = self.p
        p.shaded_loss(*field(p.x, *self.network, p.layout, **self.named), slice(None)).backward()
        self.step += 1
        for tensor, (first, second) in zip(self.network, self.moments, strict=True):
            adam_step(tensor.data, tensor.grad, first, second, self.nonfinite, **ADAM, step=self.step)
            recycle_gradient(tensor)
        if self.named["shadow"] is not None:
            self.named["shadow"].copy_(self.network[0].detach())


def backward_of(p: Problem, tensors: list[Tensor], shadow: Tensor | None) -> Callable:
    """The backward op of the field: (gradient of the table, of the weights). tensors: cotangents, points, network."""
    blob = p.named()["blob"]
    kind = ("none", "gaussian", "cone").index(blob[0])
    settings = (
        p.named()["level_weight"].to(tensors[0]),
        *p.layout.arguments,
        p.config.bound,
        kind,
        blob[1] if kind else 0.0,
        blob[2] if kind else 1.0,
        p.config.tensor_cores,
        shadow,
        None,
    )
    return lambda: torch.ops.dreamfusion_ngp.field_backward(*tensors, *settings)


def field_pair(p: Problem, network: list[Tensor], half: bool) -> list[Case]:
    """Field forward, backward, and the step; half: reading a float16 copy of the table. The truth never does."""
    few, K = slice(0, CHECKED), (p.n, p.layout, p.hidden)
    precision, shadow = (torch.float16, network[0].half()) if half else (torch.float32, None)
    entry = 2 if half else 4

    def forward(dtype, shadow=None):
        named = p.named() | {"shadow": shadow}
        return lambda: torch.cat(
            [
                t.reshape(-1)
                for t in field(p.cast(p.x[few], dtype), *[p.cast(t, dtype) for t in network], p.layout, **named)
            ]
        )

    def backward(dtype, shadow=None):
        cut = [p.cast(t[few], dtype) for t in (*p.cotangents, p.x)] + [p.cast(t, dtype) for t in network]
        return lambda: backward_of(p, cut, shadow)()[0]

    parameters = sum(t.numel() for t in network)
    forward_counts, backward_counts = counts.field_forward(*K, entry), counts.field_backward(*K, entry)
    return [
        Case(
            "field forward",
            p.n,
            lambda: field(p.x, *network, p.layout, **p.named() | {"shadow": shadow}),
            forward_counts,
            forward(torch.float32, shadow),
            forward(torch.float64),
            precision,
        ),
        Case(
            "field backward",
            p.n,
            backward_of(p, [*p.cotangents, p.x, *network], shadow),
            backward_counts,
            backward(torch.float32, shadow),
            backward(torch.float64),
            precision,
        ),
        Case(
            "field step",
            p.n,
            FieldStep(p, half),
            counts.added(forward_counts, backward_counts, counts.adam(parameters)),
            lambda: field_gradient(p, torch.float32, shadow),
            lambda: field_gradient(p, torch.float64),
            precision,
        ),
    ]


def field_cases(p: Problem, half: bool = False) -> list[Case]:
    network = [t.detach() for t in p.network()]
    found = [density_case(p, network), *field_pair(p, network, False), shade_case(p, network), adam_case(network)]
    return found + (field_pair(p, network, True) if half else [])


def tensor_core_peers(case: Case, p: Problem) -> dict[str, Callable[[], Peer]]:
    """The same case of the field with its products on tensor cores; nothing for other cases and tables."""

    def prepare() -> Peer:
        other = Problem(p.resolution, replace(p.config, tensor_cores=True), p.device)
        return next(Peer(c.call, c.sample) for c in field_cases(other) if c.op == case.op)

    return {"tensor cores": prepare} if case.op.startswith("field ") and case.precision == torch.float32 else {}


def density_case(p: Problem, network: list[Tensor]) -> Case:
    def few(dtype):
        def call() -> Tensor:
            x = p.cast(p.x[:CHECKED], dtype)
            named = {**p.named(), "level_weight": p.named()["level_weight"].to(x.device)}
            return field_density(x, *[p.cast(t, dtype) for t in network], p.layout, **named)

        return call

    return Case(
        "field density",
        p.n,
        lambda: field_density(p.x, *network, p.layout, **p.named()),
        counts.field_density(p.n, p.layout, p.hidden),
        few(torch.float32),
        few(torch.float64),
    )


def shade_case(p: Problem, network: list[Tensor]) -> Case:
    inputs = [t.requires_grad_() for t in field(p.x, *network, p.layout, **p.named())]

    def both(inputs, rows) -> Tensor:
        """The gradients of density, colour and normal."""
        p.shaded_loss(*inputs, rows).backward()
        found = [t.grad for t in inputs]
        for tensor in inputs:
            tensor.grad = None
        return found

    def few(dtype):
        cut = [p.cast(t[:CHECKED], dtype).requires_grad_() for t in inputs]
        return torch.cat([g.reshape(-1) for g in both(cut, slice(0, CHECKED))])

    return Case(
        "shade forward + backward",
        p.n,
        lambda: both(inputs, slice(None)),
        None,
        lambda: few(torch.float32),
        lambda: few(torch.float64),
    )


def adam_case(network: list[Tensor]) -> Case:
    device, parameters = network[0].device, sum(t.numel() for t in network)
    random = torch.Generator().manual_seed(1)
    moved, grad, first, second = (torch.rand(parameters, generator=random).to(device) for _ in range(4))
    nonfinite = torch.zeros(1, dtype=torch.int64, device=device)
    start = torch.rand(4, CHECKED, generator=random)

    def few(dtype, device):
        tensors = start.to(device, dtype).clone()
        adam_step(*tensors, torch.zeros(1, dtype=torch.int64, device=device), **ADAM, step=9)
        return tensors

    return Case(
        "adam",
        parameters,
        lambda: adam_step(moved, grad, first, second, nonfinite, **ADAM, step=9),
        counts.adam(parameters),
        lambda: few(torch.float32, device),
        lambda: few(torch.float64, "cpu"),
    )
