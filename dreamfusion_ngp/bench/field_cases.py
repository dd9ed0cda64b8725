"""Cases of the field: its ops, shading, a whole step, Adam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..ops.adam import adam_step
from ..ops.field import field, field_density, recycle_gradient
from . import counts
from .cases import CHECKED, Case, Network, Peer, Problem, gradient

ADAM: dict[str, Any] = dict(lr=1e-3, beta1=0.9, beta2=0.99, eps=1e-15)


def field_gradient(p: Problem, dtype: torch.dtype, shadow: Tensor | None = None) -> Tensor:
    """The gradient of the table from a shaded step of the first samples."""
    network, few = p.network(dtype), slice(0, CHECKED)
    p.shaded_loss(*field(p.cast(p.x[few], dtype), *network, p.layout, **p.named(shadow=shadow)), few).backward()
    return gradient(network[0])


class FieldStep:
    """Field, Lambert shading, backward (through the normals too) and Adam on all parameters. half: lookups read a
    float16 copy of the table, which is written after each step."""

    def __init__(self, p: Problem, half: bool = False):
        self.p, self.network, self.step = p, p.network(), 0
        self.moments = [(torch.zeros_like(t), torch.zeros_like(t)) for t in self.network]
        self.nonfinite = torch.zeros(1, dtype=torch.int64, device=p.device)
        self.named = p.named(shadow=self.network[0].detach().half() if half else None)

    def __call__(self) -> None:
        p = self.p
        p.shaded_loss(*field(p.x, *self.network, p.layout, **self.named), slice(None)).backward()
        self.step += 1
        for tensor, (first, second) in zip(self.network, self.moments, strict=True):
            adam_step(tensor.data, gradient(tensor), first, second, self.nonfinite, **ADAM, step=self.step)
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


def field_pair(p: Problem, network: Network, half: bool) -> list[Case]:
    """Field forward, backward, and the step; half: reading a float16 copy of the table. The truth never does."""
    few, K = slice(0, CHECKED), (p.n, p.layout, p.hidden)
    precision, shadow = (torch.float16, network[0].half()) if half else (torch.float32, None)
    entry = 2 if half else 4

    def forward(dtype, shadow=None):
        named = p.named(shadow=shadow)

        def call() -> Tensor:
            cast = [p.cast(t, dtype) for t in network]
            return torch.cat([t.reshape(-1) for t in field(p.cast(p.x[few], dtype), *cast, layout=p.layout, **named)])

        return call

    def backward(dtype, shadow=None):
        cut = [p.cast(t[few], dtype) for t in (*p.cotangents, p.x)] + [p.cast(t, dtype) for t in network]
        return lambda: backward_of(p, cut, shadow)()[0]

    parameters = sum(t.numel() for t in network)
    forward_counts, backward_counts = counts.field_forward(*K, entry), counts.field_backward(*K, entry)
    return [
        Case(
            "field forward",
            p.n,
            lambda: field(p.x, *network, p.layout, **p.named(shadow=shadow)),
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
    table, w1, b1, w2, b2 = (t.detach() for t in p.network())
    network = table, w1, b1, w2, b2
    cases = [density_case(p, network), *field_pair(p, network, False), shade_case(p, network), adam_case(network)]
    return cases + (field_pair(p, network, True) if half else [])


def tensor_core_peers(case: Case, p: Problem) -> dict[str, Callable[[], Peer]]:
    """The same case of the field with its matrix products on tensor cores; {} for other cases and tables."""

    def prepare() -> Peer:
        other = Problem(p.resolution, replace(p.config, tensor_cores=True), p.device)
        return next(Peer(c.call, c.sample) for c in field_cases(other) if c.op == case.op)

    return {"tensor cores": prepare} if case.op.startswith("field ") and case.precision == torch.float32 else {}


def density_case(p: Problem, network: Network) -> Case:
    def few(dtype):
        def call() -> Tensor:
            x = p.cast(p.x[:CHECKED], dtype)
            named = p.named(level_weight=p.named()["level_weight"].to(x.device))
            return field_density(x, *[p.cast(t, dtype) for t in network], layout=p.layout, **named)

        return call

    return Case(
        "field density",
        p.n,
        lambda: field_density(p.x, *network, p.layout, **p.named()),
        counts.field_density(p.n, p.layout, p.hidden),
        few(torch.float32),
        few(torch.float64),
    )


def shade_case(p: Problem, network: Network) -> Case:
    inputs = [t.requires_grad_() for t in field(p.x, *network, p.layout, **p.named())]

    def both(inputs: Sequence[Tensor], rows: slice) -> list[Tensor]:
        """The gradients of density, colour and normal."""
        p.shaded_loss(*inputs, rows=rows).backward()
        gradients = [gradient(t) for t in inputs]
        for tensor in inputs:
            tensor.grad = None
        return gradients

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


def adam_case(network: Network) -> Case:
    device, parameters = network[0].device, sum(t.numel() for t in network)
    random = torch.Generator().manual_seed(1)
    moved, grad, first, second = (torch.rand(parameters, generator=random).to(device) for _ in range(4))
    nonfinite = torch.zeros(1, dtype=torch.int64, device=device)
    start = torch.rand(4, CHECKED, generator=random)

    def few(dtype, device):
        tensors = start.to(device, dtype).clone()
        adam_step(*tensors, nonfinite=torch.zeros(1, dtype=torch.int64, device=device), **ADAM, step=9)
        return tensors

    return Case(
        "adam",
        parameters,
        lambda: adam_step(moved, grad, first, second, nonfinite, **ADAM, step=9),
        counts.adam(parameters),
        lambda: few(torch.float32, device),
        lambda: few(torch.float64, "cpu"),
    )
