"""Others' implementations of the same ops on the same samples, and where it can be had on the same table.

torch is always here. The others take part where they are installed; none is needed.
"""

from __future__ import annotations

import importlib.util
import math
from typing import Callable

import torch
from torch import Tensor

from ..ops import reference
from .cases import CHECKED, Problem

MOST_SAMPLES = 150_000  # the torch compositions need some tens of kB a sample
CHUNK = 1 << 15         # samples that the composed step differentiates twice at a time, to fit into memory

Peers = dict[str, tuple[Callable, Callable | None]]


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def peers_of(op: str, p: Problem) -> Peers:
    """Those that are installed and have this op at this size."""
    found: Peers = {}
    if p.n > MOST_SAMPLES:
        return found
    if op == "encode forward":
        table = p.model.table.detach()
        found["torch"] = (lambda: reference.hashgrid_encode(p.unit, table, p.layout),
                          lambda: reference.hashgrid_encode(p.unit[:CHECKED], table, p.layout))
    if op == "encode backward":
        found["torch"] = torch_encode_backward(p)
    if op == "field step":
        found["torch, composed"] = (ComposedStep(p), lambda: composed_gradient(p))
    if op in ("encode forward", "encode backward"):
        for package, make in (("drjit", drjit_encode), ("jax", jax_encode), ("tinycudann", tcnn_encode)):
            if installed(package) and (made := make(p, op)) is not None:
                found[package] = made
    return found


def torch_encode_backward(p: Problem):
    """Autograd through the reference; its forward is left out of the time."""
    def prepared(rows: slice):
        table = p.model.table.detach().clone().requires_grad_()
        y = reference.hashgrid_encode(p.unit[rows], table, p.layout)
        return lambda: torch.autograd.grad(y, table, p.grad_y[rows], retain_graph=True)[0]

    return prepared(slice(None)), lambda: prepared(slice(0, CHECKED))()


class ComposedStep:
    """The field step as it is composed from torch: a torch hash grid, nn.Linear, normals by autograd.grad with
    create_graph=True, a second differentiation by backward, torch.optim.Adam."""

    def __init__(self, p: Problem):
        self.p = p
        self.table, *weights = p.network()
        self.hidden, self.out = torch.nn.Linear(p.layout.width, p.hidden), torch.nn.Linear(p.hidden, 4)
        with torch.no_grad():
            for parameter, value in zip((*self.hidden.parameters(), *self.out.parameters()), weights):
                parameter.copy_(value)
        self.to = [self.table, *self.hidden.to(p.device).parameters(), *self.out.to(p.device).parameters()]
        self.optimizer = torch.optim.Adam(self.to, lr=1e-3, betas=(0.9, 0.99), eps=1e-15)

    def differentiate(self, rows: slice) -> None:
        p = self.p
        x = p.x[rows].detach().requires_grad_()
        e = reference.hashgrid_encode((x + p.config.bound) / (2 * p.config.bound), self.table, p.layout)
        o = self.out(torch.relu(self.hidden(e)))
        h = o[:, 0] + reference._blob(x, p.named()["blob"])[0]
        grad_h, = torch.autograd.grad(h.sum(), x, create_graph=True)
        p.shaded_loss(h, o[:, 1:], grad_h, rows, reference.shade).backward()

    def __call__(self) -> None:
        for first in range(0, self.p.n, CHUNK):
            self.differentiate(slice(first, first + CHUNK))
        self.optimizer.step()
        self.optimizer.zero_grad()


def composed_gradient(p: Problem) -> Tensor:
    step = ComposedStep(p)
    step.differentiate(slice(0, CHECKED))
    return step.table.grad


# Dr.Jit: the same convention. It rounds the rows of a dense level up to another multiple, so tables are copied level by
# level.
def drjit_encode(p: Problem, op: str):
    import drjit as dr
    import numpy as np
    from drjit.nn import HashGridEncoding

    if p.device.type != "cpu" or p.layout.smoothstep or not dr.has_backend(dr.JitBackend.LLVM):
        return None
    from drjit.llvm.ad import ArrayXf, Float

    dr.set_thread_count(torch.get_num_threads())
    layout = p.layout
    growth = (layout.finest_resolution / layout.base_resolution) ** (1 / max(1, layout.levels - 1))
    peer = HashGridEncoding(Float, 3, n_levels=layout.levels, n_features_per_level=layout.features,
                            hashmap_size=1 << layout.log2_table, base_resolution=layout.base_resolution,
                            per_level_scale=growth, align_corners=False)
    theirs = [int(peer.level_offset(level)) for level in range(layout.levels + 1)]
    spans = [(layout.offset[i], theirs[i], min(layout.offset[i + 1] - layout.offset[i], theirs[i + 1] - theirs[i]))
             for i in range(layout.levels)]
    table = torch.zeros(theirs[-1], layout.features)
    for ours, start, rows in spans:
        table[start:start + rows] = p.model.table.detach()[ours:ours + rows]
    peer.set_params(Float(table.flatten().numpy()))

    def column_major(values: Tensor):
        found = ArrayXf(values.T.contiguous().numpy())
        dr.eval(found)
        return found

    def forward(x):
        y = peer(x)
        dr.eval(y)
        dr.sync_thread()
        return y

    def backward(x, grad_y):
        dr.enable_grad(peer.data)
        dr.set_grad(peer.data, 0)
        y = peer(x)
        dr.set_grad(y, grad_y)
        dr.enqueue(dr.ADMode.Backward, y)
        dr.traverse(dr.ADMode.Backward)
        grad = dr.grad(peer.data)
        dr.eval(grad)
        dr.sync_thread()
        return grad

    def table_of(grad) -> Tensor:
        flat, out = torch.from_numpy(np.array(grad)).view(-1, layout.features), torch.zeros(p.model.table.shape)
        for ours, start, rows in spans:
            out[ours:ours + rows] = flat[start:start + rows]
        return out

    x, few = column_major(p.unit), p.unit[:CHECKED]
    if op == "encode forward":
        return lambda: forward(x), lambda: torch.from_numpy(np.array(forward(column_major(few)))).T
    grad_y = column_major(p.grad_y)
    return (lambda: backward(x, grad_y),
            lambda: table_of(backward(column_major(few), column_major(p.grad_y[:CHECKED]))))


def jax_encode(p: Problem, op: str):
    """Gathers and, in backward, the scatter-add that XLA makes of them; compiled once. On the CPU."""
    if p.device.type != "cpu":
        return None
    import jax
    import jax.numpy as jnp
    import numpy as np

    layout = p.layout

    def encode(table, u):
        features = []
        for level in range(layout.levels):
            first, rows = layout.offset[level], layout.offset[level + 1] - layout.offset[level]
            position = jnp.clip(u, 0, 1) * np.float32(layout.scale[level]) + np.float32(0.5)
            cell = jnp.floor(position)
            f, cell = position - cell, cell.astype(jnp.uint32)
            w = f * f * (3 - 2 * f) if layout.smoothstep else f
            total = 0.0
            for corner in range(8):
                bit = [corner & 1, corner >> 1 & 1, corner >> 2]
                i, j, k = (cell[:, axis] + np.uint32(bit[axis]) for axis in range(3))
                r = np.uint32(layout.resolution[level])
                if layout.resolution[level] ** 3 <= rows:
                    row = (i + j * r + k * r * r) % np.uint32(rows)
                else:
                    row = (i ^ (j * np.uint32(2654435761)) ^ (k * np.uint32(805459861))) % np.uint32(rows)
                weight = math.prod(w[:, axis] if bit[axis] else 1 - w[:, axis] for axis in range(3))
                total = total + weight[:, None] * table[first + row]
            features.append(total)
        return jnp.concatenate(features, 1)

    forward = jax.jit(encode)
    backward = jax.jit(lambda table, u, g: jax.vjp(lambda t: encode(t, u), table)[1](g)[0])
    table, u, grad_y = (jnp.asarray(t.detach().cpu().numpy()) for t in (p.model.table, p.unit, p.grad_y))
    if op == "encode forward":
        return (lambda: forward(table, u).block_until_ready(),
                lambda: torch.from_numpy(np.array(forward(table, u[:CHECKED]))))
    return (lambda: backward(table, u, grad_y).block_until_ready(),
            lambda: torch.from_numpy(np.array(backward(table, u[:CHECKED], grad_y[:CHECKED]))))


def tcnn_encode(p: Problem, op: str):
    """tiny-cuda-nn's encoding in float32; needs a CUDA device."""
    if p.device.type != "cuda" or p.layout.smoothstep:
        return None
    import tinycudann

    layout = p.layout
    growth = (layout.finest_resolution / layout.base_resolution) ** (1 / max(1, layout.levels - 1))
    encoding = tinycudann.Encoding(3, {
        "otype": "HashGrid", "n_levels": layout.levels, "n_features_per_level": layout.features,
        "log2_hashmap_size": layout.log2_table, "base_resolution": layout.base_resolution, "per_level_scale": growth,
    }, dtype=torch.float32)
    if encoding.params.numel() == p.model.table.numel():
        encoding.params.data.copy_(p.model.table.detach().flatten())
    if op == "encode forward":
        def forward():
            with torch.no_grad():
                return encoding(p.unit)
        return forward, lambda: forward()[:CHECKED]
    y = encoding(p.unit)
    return lambda: torch.autograd.grad(y, encoding.params, p.grad_y, retain_graph=True)[0], None
