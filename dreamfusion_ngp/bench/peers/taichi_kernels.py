"""The hash-grid encoding and its adjoint in Taichi, on the CPU. Without `from __future__ import annotations`: Taichi
reads the annotations of a kernel as objects. Needs taichi 1.7."""
# pyright: reportInvalidTypeForm=false
# Its annotations are not types.

import contextlib
import os
from functools import lru_cache

os.environ.setdefault("ENABLE_TAICHI_HEADER_PRINT", "False")
os.environ.setdefault("TI_SKIP_VERSION_CHECK", "ON")  # it would check for updates over the network

import taichi as ti  # pyright: ignore[reportMissingImports]
import torch

from ..cases import CHECKED, Peer, Problem

ARRAY = ti.types.ndarray(dtype=ti.f32, ndim=2)
_threads = 0  # number with which Taichi was started


def start() -> None:
    """Call ti.init, which drops all kernels, once per number of threads."""
    global _threads
    if _threads != torch.get_num_threads():
        kernels.cache_clear()
        _threads = torch.get_num_threads()
        with contextlib.redirect_stdout(None):  # it prints a banner
            ti.init(arch=ti.cpu, cpu_max_num_threads=_threads, offline_cache=False, verbose=False, log_level=ti.ERROR)


@ti.func
def cell(u: ARRAY, i: ti.i32, scale: ti.f32, smooth: ti.template()):
    position = ti.Vector([ti.math.clamp(u[i, a], 0.0, 1.0) * scale + 0.5 for a in ti.static(range(3))])
    corner = ti.floor(position)
    f = position - corner
    return ti.cast(corner, ti.u32), (f * f * (3.0 - 2.0 * f) if ti.static(smooth) else f)


@ti.func
def row(c: ti.template(), r: ti.u32, first: ti.i32, rows: ti.u32, hashed: ti.template()):
    index = c[0]
    if ti.static(hashed):  # rows is a power of two
        index = (c[0] ^ (c[1] * ti.u32(2654435761)) ^ (c[2] * ti.u32(805459861))) & (rows - ti.u32(1))
    else:
        index = c[0] + c[1] * r + c[2] * r * r  # below 2 rows
        if index >= rows:
            index -= rows
    return ti.cast(index, ti.i32) + first


@ti.func
def weight(w: ti.template(), bit: ti.template()):
    product = ti.f32(1.0)
    for a in ti.static(range(3)):
        product *= w[a] if ti.static(bit >> a & 1) else 1.0 - w[a]
    return product


@ti.func
def neighbour(c: ti.template(), bit: ti.template()):
    return ti.Vector([c[a] + ti.u32(bit >> a & 1) for a in ti.static(range(3))])


@lru_cache
def kernels(features: int, smooth: bool):
    """(forward, backward) of one level: all threads look up one level at a time, which is compiled once for all of
    them. Additions to the gradient are atomic."""

    @ti.kernel
    def forward(
        u: ARRAY,
        table: ARRAY,
        y: ARRAY,
        scale: ti.f32,
        resolution: ti.u32,
        first: ti.i32,
        rows: ti.u32,
        column: ti.i32,
        hashed: ti.template(),
    ):
        for i in range(u.shape[0]):
            corner, w = cell(u, i, scale, smooth)
            total = ti.Vector.zero(ti.f32, features)
            for bit in ti.static(range(8)):
                at, factor = row(neighbour(corner, bit), resolution, first, rows, hashed), weight(w, bit)
                for k in ti.static(range(features)):
                    total[k] += factor * table[at, k]
            for k in ti.static(range(features)):
                y[i, column + k] = total[k]

    @ti.kernel
    def backward(
        u: ARRAY,
        grad_y: ARRAY,
        grad_table: ARRAY,
        scale: ti.f32,
        resolution: ti.u32,
        first: ti.i32,
        rows: ti.u32,
        column: ti.i32,
        hashed: ti.template(),
    ):
        for i in range(u.shape[0]):
            corner, w = cell(u, i, scale, smooth)
            for bit in ti.static(range(8)):
                at, factor = row(neighbour(corner, bit), resolution, first, rows, hashed), weight(w, bit)
                for k in ti.static(range(features)):
                    ti.atomic_add(grad_table[at, k], factor * grad_y[i, column + k])

    return forward, backward


def for_each_level(kernel, layout, *tensors: torch.Tensor) -> None:
    for level in range(layout.levels):
        first, resolution = layout.offset[level], layout.resolution[level]
        rows = layout.offset[level + 1] - first
        kernel(*tensors, layout.scale[level], resolution, first, rows, level * layout.features, resolution**3 > rows)


def encode(p: Problem) -> Peer:
    start()
    forward, _ = kernels(p.layout.features, p.layout.smoothstep)
    table = p.model.table.detach()

    def call(u=p.unit):
        y = torch.empty(len(u), p.layout.width)
        for_each_level(forward, p.layout, u, table, y)
        return y

    return Peer(call, lambda: call(p.unit[:CHECKED].contiguous()))


def encode_backward(p: Problem) -> Peer:
    start()
    _, backward = kernels(p.layout.features, p.layout.smoothstep)

    def call(u=p.unit, grad_y=p.grad_y):
        grad = torch.zeros(p.model.table.shape)
        for_each_level(backward, p.layout, u, grad_y, grad)
        return grad

    return Peer(call, lambda: call(p.unit[:CHECKED].contiguous(), p.grad_y[:CHECKED].contiguous()))
