"""The problem that all cases share, with ray-ordered samples, and the cases of the hash grid; each case with its counts
and its float64 twin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as default
from typing import Any

import torch
from torch import Tensor

from ..config.schema import FieldConfig, RenderConfig
from ..ops.hashgrid import hashgrid_encode
from ..ops.shade import shade
from ..scene.fields import HashField
from . import counts

CHECKED = 4096  # samples that are also computed in float64
STEPS = 32  # samples per ray


Network = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # table, W1, b1, W2, b2


class LeftOut(Exception):
    """A peer, or a size, does not take part; the message says why."""


@dataclass
class Peer:
    """call: the timed function. sample: its result for the samples that are also computed in float64. chunk: samples
    that it processes at a time, if not all. note: any remark on its time."""

    call: Callable
    sample: Callable | None = None
    chunk: int | None = None
    note: str | None = None


@dataclass
class Case:
    """One line of the table. call: ours. sample, truth: the results for the first CHECKED samples in float32 and
    float64. precision: of the hash table that is read. peers: name -> function that prepares it."""

    op: str
    size: int
    call: Callable
    counts: dict | None = None
    sample: Callable | None = None
    truth: Callable | None = None
    precision: torch.dtype = torch.float32
    peers: dict[str, Callable[[], Peer]] = default(default_factory=dict)


def needed_bytes(resolution: int, config: FieldConfig) -> float:
    """Approximate peak memory of the cases of one size: encodings, their gradients and a result, and the other data of
    the samples, including those of a step."""
    return resolution**2 * STEPS * (3 * 4 * config.levels * config.features + 250)


class Problem:
    """A network, and samples of one view of resolution^2 parallel rays: 32 samples along each, behind the surface of a
    ball, pixel by pixel."""

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
        """A copy in float32 on its device, or in float64 on the CPU, the only device with float64 kernels."""
        return tensor.detach().to("cpu" if dtype == torch.float64 else self.device, dtype, copy=True)

    def network(self, dtype: torch.dtype = torch.float32) -> Network:
        model = self.model
        parameters = (model.table, model.w1, model.b1, model.w2, model.b2)
        table, w1, b1, w2, b2 = (self.cast(p, dtype).requires_grad_() for p in parameters)
        return table, w1, b1, w2, b2

    def named(self, **others: Any) -> dict[str, Any]:
        """The model's keyword arguments of `ops.field`, and others."""
        return self.model._arguments()[1] | others

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


def gradient(leaf: Tensor) -> Tensor:
    """The gradient of a leaf after a backward."""
    assert leaf.grad is not None
    return leaf.grad


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
