"""Marching tetrahedra: the surface where values at the corners of tetrahedra change sign, with gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from .lattice import PAIRS, Band

FLATTEST = 1e-8  # smallest difference of the values at the ends of an edge


def _triangles(inside: int) -> list[list[tuple[int, int]]]:
    """The one or two triangles of a tetrahedron (0, 1, 2, 3) of positive volume, whose inside corners are the bits of
    `inside`: vertices as edges (inside, outside), counter-clockwise as seen from outside."""
    within = [k for k in range(4) if inside >> k & 1]
    without = [k for k in range(4) if not inside >> k & 1]
    if len(within) in (0, 4):
        return []
    if len(within) == 2:
        (a, b), (c, d) = within, without
        polygon = [(a, c), (a, d), (b, d), (b, c)]
    else:
        polygon = [(i, o) for i in within for o in without]
    corner = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    p = torch.stack([(corner[i] + corner[o]) / 2 for i, o in polygon])
    outwards = corner[without].mean(0) - corner[within].mean(0)
    if float(torch.linalg.cross(p[1] - p[0], p[2] - p[0]) @ outwards) < 0:
        polygon.reverse()
    return [[polygon[0], polygon[k], polygon[k + 1]] for k in range(1, len(polygon) - 1)]


def _table() -> tuple[Tensor, Tensor]:
    """(16, 2, 3) int64 edges, as rows of PAIRS, and (16,) the number of triangles."""
    number = {frozenset(pair): k for k, pair in enumerate(map(tuple, PAIRS.tolist()))}
    table, counts = torch.zeros(16, 2, 3, dtype=torch.int64), torch.zeros(16, dtype=torch.int64)
    for inside in range(16):
        triangles = _triangles(inside)
        counts[inside] = len(triangles)
        for t, triangle in enumerate(triangles):
            table[inside, t] = torch.tensor([number[frozenset(edge)] for edge in triangle])
    return table, counts


TABLE, COUNTS = _table()
ALL_INSIDE = 0x01010101


def marching_tetrahedra(position: Tensor, value: Tensor, band: Band) -> tuple[Tensor, Tensor]:
    """The surface between the inside, where `value` > 0, and the outside.

    position: (P, 3), value: (P,), of the points of `band`; differentiable. On an edge with ends a, b the vertex is (x_a
    s_b - x_b s_a) / (s_b - s_a) (Shen et al. 2021, DMTet, equation 3). Returns vertices (V, 3) and faces (F, 3) int32,
    counter-clockwise as seen from outside; closed, except where the band ends. The order depends on the band alone.
    """
    inside = (value > 0).view(torch.uint8)
    ends = inside.index_select(0, band.edges.flatten()).view(-1, 2)
    crossed = ends[:, 0] != ends[:, 1]
    vertex = torch.cumsum(crossed, 0) - 1  # of an edge that is crossed
    a, b = band.edges.index_select(0, crossed.nonzero()[:, 0]).unbind(1)
    s_a, s_b = value.index_select(0, a), value.index_select(0, b)
    x_a, x_b = position.index_select(0, a), position.index_select(0, b)
    difference = s_b - s_a  # the signs differ and 0 counts as outside, so it is 0 only by underflow
    safe = torch.where(
        difference.abs() < FLATTEST, torch.full_like(difference, FLATTEST).copysign(difference), difference
    )
    vertices = (x_a * s_b[:, None] - x_b * s_a[:, None]) / safe[:, None]
    vertices = torch.where((difference.abs() < FLATTEST)[:, None], (x_a + x_b) / 2, vertices)
    # Four corners are bytes of one number: twice as fast as a sum over int64.
    corners = inside.index_select(0, band.tetrahedra.flatten()).view(torch.int32)
    cut = ((corners != 0) & (corners != ALL_INSIDE)).nonzero()[:, 0]
    corners = corners[cut]
    case = (corners | corners >> 7 | corners >> 14 | corners >> 21) & 15  # one bit a corner
    table, counts = TABLE.to(value.device)[case], COUNTS.to(value.device)[case]
    edges = band.tetrahedron_edges.index_select(0, cut)[:, None].expand(-1, 2, -1).gather(2, table)  # (C, 2, 3)
    there = torch.arange(2, device=value.device) < counts[:, None]
    return vertices, vertex[edges[there]].int()
