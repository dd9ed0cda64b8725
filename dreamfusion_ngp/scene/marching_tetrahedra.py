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


def marching_tetrahedra(position: Tensor, value: Tensor, band: Band) -> tuple[Tensor, Tensor]:
    """The surface between the inside, where `value` > 0, and the outside.

    position: (P, 3), value: (P,), of the points of `band`; differentiable. On an edge with ends a, b the vertex is (x_a
    s_b - x_b s_a) / (s_b - s_a) (Shen et al. 2021, DMTet, equation 3). Returns vertices (V, 3) and faces (F, 3) int32,
    counter-clockwise as seen from outside; closed, except where the band ends. The order depends on the band alone.
    """
    inside = value > 0
    ends = inside[band.edges]
    crossed = ends[:, 0] != ends[:, 1]
    vertex = torch.cumsum(crossed, 0) - 1  # of an edge that is crossed
    a, b = band.edges[crossed].unbind(1)
    s_a, s_b = value[a], value[b]
    difference = s_b - s_a  # the signs differ and 0 counts as outside, so it is 0 only by underflow
    safe = torch.where(
        difference.abs() < FLATTEST, torch.full_like(difference, FLATTEST).copysign(difference), difference
    )
    vertices = (position[a] * s_b[:, None] - position[b] * s_a[:, None]) / safe[:, None]
    vertices = torch.where((difference.abs() < FLATTEST)[:, None], (position[a] + position[b]) / 2, vertices)
    weights = torch.tensor([1, 2, 4, 8], device=value.device)
    case = (inside[band.tetrahedra] * weights).sum(1)
    table, counts = TABLE.to(value.device), COUNTS.to(value.device)
    cut = (counts[case] > 0).nonzero()[:, 0]
    edges = band.tetrahedron_edges[cut][:, None].expand(-1, 2, -1).gather(2, table[case[cut]])  # (C, 2, 3)
    there = torch.arange(2, device=value.device) < counts[case[cut]][:, None]
    return vertices, vertex[edges[there]].int()
