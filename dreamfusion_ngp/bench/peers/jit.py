"""The hash-grid encoding on just-in-time compilers: Dr.Jit's own, and one written for JAX. On the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..cases import CHECKED, LeftOut, Peer, Problem
from ..timing import trims


class DrjitGrid:
    """drjit.nn.HashGridEncoding with our table: the same convention, but it rounds the rows of a dense level up to a
    different multiple, so tables are copied level by level."""

    def __init__(self, p: Problem):
        import drjit as dr
        from drjit.nn import HashGridEncoding

        if p.layout.smoothstep:
            raise LeftOut("no smoothstep")
        if not dr.has_backend(dr.JitBackend.LLVM):
            raise LeftOut("no LLVM library was found")
        from drjit.llvm.ad import ArrayXf, Float

        self.dr, self.array, self.shape, layout = dr, ArrayXf, p.model.table.shape, p.layout
        dr.set_thread_count(torch.get_num_threads())
        trims["drjit"] = dr.flush_malloc_cache
        self.grid: Any = HashGridEncoding(
            Float,
            3,
            n_levels=layout.levels,
            n_features_per_level=layout.features,
            hashmap_size=1 << layout.log2_table,
            base_resolution=layout.base_resolution,
            per_level_scale=p.growth,
            align_corners=False,
        )
        theirs = [int(self.grid.level_offset(level)) for level in range(layout.levels + 1)]
        self.spans = [
            (layout.offset[i], theirs[i], min(layout.offset[i + 1] - layout.offset[i], theirs[i + 1] - theirs[i]))
            for i in range(layout.levels)
        ]
        table = torch.zeros(theirs[-1], layout.features)
        for ours, start, rows in self.spans:
            table[start : start + rows] = p.model.table.detach()[ours : ours + rows]
        self.grid.set_params(Float(table.flatten().numpy()))

    def columns(self, values: Tensor):
        """(N, K) -> Dr.Jit's K arrays of N."""
        arrays = self.array(values.T.contiguous().numpy())
        self.dr.eval(arrays)
        return arrays

    def table_of(self, flat: Tensor) -> Tensor:
        """Their parameters in the order of our table."""
        theirs, out = flat.view(-1, self.shape[1]), torch.zeros(self.shape)
        for ours, start, rows in self.spans:
            out[ours : ours + rows] = theirs[start : start + rows]
        return out

    def forward(self, x):
        y = self.grid(x)
        self.dr.eval(y)
        self.dr.sync_thread()
        return y

    def backward(self, x, grad_y):
        dr, data = self.dr, self.grid.data
        dr.enable_grad(data)
        dr.set_grad(data, 0)
        y = self.grid(x)
        dr.set_grad(y, grad_y)
        dr.enqueue(dr.ADMode.Backward, y)
        dr.traverse(dr.ADMode.Backward)
        grad = dr.grad(data)
        dr.eval(grad)
        dr.sync_thread()
        return grad


def drjit_encode(p: Problem) -> Peer:
    import numpy as np

    peer = DrjitGrid(p)
    x = peer.columns(p.unit)
    return Peer(
        lambda: peer.forward(x), lambda: torch.from_numpy(np.array(peer.forward(peer.columns(p.unit[:CHECKED])))).T
    )


def drjit_encode_backward(p: Problem) -> Peer:
    import numpy as np

    peer = DrjitGrid(p)
    x, grad_y = peer.columns(p.unit), peer.columns(p.grad_y)

    def few():
        grad = peer.backward(peer.columns(p.unit[:CHECKED]), peer.columns(p.grad_y[:CHECKED]))
        return peer.table_of(torch.from_numpy(np.array(grad)))

    return Peer(lambda: peer.backward(x, grad_y), few)


def jax_functions(layout):
    """(forward, backward), compiled at the first call: gathers, and in backward the scatter-add that XLA makes of
    them."""
    import jax  # pyright: ignore[reportMissingImports]
    import jax.numpy as jnp  # pyright: ignore[reportMissingImports]
    import numpy as np

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
                x, y, z = (w[:, axis] if bit[axis] else 1 - w[:, axis] for axis in range(3))
                total = total + (x * y * z)[:, None] * table[first + row]
            features.append(total)
        return jnp.concatenate(features, 1)

    return jax.jit(encode), jax.jit(lambda table, u, g: jax.vjp(lambda t: encode(t, u), table)[1](g)[0])


def _arrays(*tensors: Tensor):
    import jax.numpy as jnp  # pyright: ignore[reportMissingImports]

    return [jnp.asarray(t.detach().numpy()) for t in tensors]


def jax_encode(p: Problem) -> Peer:
    import numpy as np

    forward, _ = jax_functions(p.layout)
    table, u = _arrays(p.model.table, p.unit)
    return Peer(
        lambda: forward(table, u).block_until_ready(), lambda: torch.from_numpy(np.array(forward(table, u[:CHECKED])))
    )


def jax_encode_backward(p: Problem) -> Peer:
    import numpy as np

    _, backward = jax_functions(p.layout)
    table, u, grad_y = _arrays(p.model.table, p.unit, p.grad_y)
    return Peer(
        lambda: backward(table, u, grad_y).block_until_ready(),
        lambda: torch.from_numpy(np.array(backward(table, u[:CHECKED], grad_y[:CHECKED]))),
    )
