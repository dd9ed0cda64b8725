"""Compositions of torch functions: a hash grid, and a field step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...ops import reference
from ...ops.field import field
from ...ops.hashgrid import GridLayout
from ..cases import CHECKED, Peer, Problem, gradient
from ..timing import free_memory

BYTES = 1300  # approximate memory per sample and level of a composed step
TAP = 1e-2  # world units from the centre to a tap of the finite differences: Stable-DreamFusion's


def torch_grid(layout: GridLayout, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """(points (N, 3), table) -> (N, width), twice differentiable: all levels at once and one index_select for each of
    the eight corners. The reference of the tests gathers level by level, and each of its 128 gathers costs a gradient
    of the table's size: its step takes nine times as long (8192 samples, one thread)."""
    scale, resolution, offset = (
        torch.tensor(v, device=device) for v in (layout.scale, layout.resolution, layout.offset)
    )
    rows = offset.diff()
    hashed = resolution**3 > rows
    stride = torch.stack(
        [
            torch.ones_like(rows),
            torch.where(hashed, 2654435761, resolution),
            torch.where(hashed, 805459861, resolution**2),
        ],
        1,
    )

    def encode(u: Tensor, table: Tensor) -> Tensor:
        position = u.clamp(0, 1)[:, None] * scale[:, None] + 0.5
        cell = position.detach().floor()
        f = position - cell
        upper = f * f * (3 - 2 * f) if layout.smoothstep else f
        weight, low = (1 - upper, upper), cell.long() * stride
        place, total = (low, low + stride), torch.zeros((), device=u.device)
        for corner in range(8):
            bits = corner & 1, corner >> 1 & 1, corner >> 2
            i, j, k = (place[bit][..., axis] for axis, bit in enumerate(bits))
            x, y, z = (weight[bit][..., axis] for axis, bit in enumerate(bits))
            row = offset[:-1] + torch.where(hashed, i ^ j ^ k, i + j + k) % rows
            total = total + (x * y * z)[..., None] * table.index_select(0, row.flatten()).view(*row.shape, -1)
        return total.flatten(1)

    return encode


def torch_encode(p: Problem) -> Peer:
    grid, table = torch_grid(p.layout, p.device), p.model.table.detach()
    return Peer(lambda: grid(p.unit, table), lambda: grid(p.unit[:CHECKED], table))


def torch_encode_backward(p: Problem) -> Peer:
    """Autograd; the forward is left out of the time."""
    grid = torch_grid(p.layout, p.device)

    def prepared(rows: slice):
        table = p.model.table.detach().clone().requires_grad_()
        y = grid(p.unit[rows], table)
        return lambda: torch.autograd.grad(y, table, p.grad_y[rows], retain_graph=True)[0]

    return Peer(prepared(slice(None)), lambda: prepared(slice(0, CHECKED))())


class ComposedStep:
    """The field step in torch: an encoding, nn.Linear, normals, Lambert shading, backward, torch.optim.Adam.

    encode, table: points in [0, 1]^3 (N, 3) -> (N, width), and the parameter behind it; default: `torch_grid`.
    taps: normals by central differences, six more evaluations of the field (Stable-DreamFusion), instead of
    autograd.grad with create_graph=True. The samples are differentiated `chunk` at a time: as many as fit into half of
    the free memory.
    """

    def __init__(self, p: Problem, encode: Callable | None = None, table: Tensor | None = None, taps: bool = False):
        self.p, self.taps = p, taps
        our_table, *weights = p.network()
        self.table = our_table if table is None else table
        grid = torch_grid(p.layout, p.device)
        self.encode = encode or (lambda u: grid(u, self.table))
        self.hidden, self.out = torch.nn.Linear(p.layout.width, p.hidden), torch.nn.Linear(p.hidden, 4)
        with torch.no_grad():
            for parameter, value in zip((*self.hidden.parameters(), *self.out.parameters()), weights, strict=True):
                parameter.copy_(value)
        parameters = [self.table, *self.hidden.to(p.device).parameters(), *self.out.to(p.device).parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=1e-3, betas=(0.9, 0.99), eps=1e-15)
        fits = free_memory(p.device) / 2 / (BYTES * p.layout.levels * (7 if taps else 1))
        self.chunk = p.n
        while self.chunk > max(fits, 1 << 12):
            self.chunk = -(-self.chunk // 2)

    def outputs(self, x: Tensor) -> Tensor:
        """Pre-activation density, blob included, and raw colour, (N, 4)."""
        bound = self.p.config.bound
        o = self.out(torch.relu(self.hidden(self.encode((x + bound) / (2 * bound)).to(x.dtype))))
        return torch.cat([o[:, :1] + reference.blob_density(x, self.p.named()["blob"])[0][:, None], o[:, 1:]], 1)

    def field(self, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """h, rgb_raw, grad_h, as `ops.field` has them."""
        x = self.p.x[rows].detach()
        if not self.taps:
            x.requires_grad_()
        o = self.outputs(x)
        if self.taps:
            steps = TAP * torch.eye(3, device=x.device)
            taps = [(self.outputs(x + s)[:, 0] - self.outputs(x - s)[:, 0]) / (2 * TAP) for s in steps]
            return o[:, 0], o[:, 1:], torch.stack(taps, 1)
        return o[:, 0], o[:, 1:], torch.autograd.grad(o[:, 0].sum(), x, create_graph=True)[0]

    def differentiate(self, rows: slice) -> None:
        self.p.shaded_loss(*self.field(rows), rows, reference.shade).backward()

    def __call__(self) -> None:
        for first in range(0, self.p.n, self.chunk):
            self.differentiate(slice(first, first + self.chunk))
        self.optimizer.step()
        self.optimizer.zero_grad()

    def degrees_from_analytic(self) -> float:
        """Mean angle between these normals and those of `ops.field`."""
        p, few = self.p, slice(0, CHECKED)
        ours = field(p.x[few], *(t.detach() for t in p.network()), layout=p.layout, **p.named())[2]
        cosine = torch.nn.functional.cosine_similarity(self.field(few)[2].detach(), ours, dim=1)
        return float(torch.rad2deg(torch.acos(cosine.clamp(-1, 1))).mean())


def composed_step(p: Problem, make: Callable[[], ComposedStep] | None = None) -> Peer:
    """make: makes a new step; the check uses a separate one, on the table from which ours starts."""
    make = make or (lambda: ComposedStep(p))
    step = make()

    def sample() -> Tensor:
        fresh = make()
        fresh.differentiate(slice(0, CHECKED))
        return gradient(fresh.table)

    if step.taps:  # another estimator: its distance from the analytic gradient is not an error
        return Peer(step, chunk=step.chunk, note=f"normals {make().degrees_from_analytic():.1f} degrees from ours")
    return Peer(step, sample, chunk=step.chunk)
