"""Regularisers of surfaces, as functions of closed meshes or of values on a lattice."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config.schema import MeshConfig


def directed_edges(faces: Tensor) -> tuple[Tensor, Tensor]:
    """(3 F,) int64 starts and ends of the half-edges of faces (F, 3); in a closed mesh every edge occurs in both
    directions."""
    index = faces.long()
    return index.flatten(), index.roll(-1, 1).flatten()


def consistency_loss(normal: Tensor, faces: Tensor) -> Tensor:
    """Mean over edges of 1 - cos of the normals at their ends: threestudio's normal consistency, as its Magic3D has it.
    normal (V, 3), unit normals of vertices; faces (F, 3) of a closed mesh, where every edge occurs twice."""
    corners = normal.index_select(0, faces.long().flatten()).view(-1, 3, 3)
    return (1 - (corners * corners.roll(-1, 1)).sum(-1)).sum() / max(1, faces.numel())


def laplacian_loss(vertices: Tensor, faces: Tensor) -> Tensor:
    """Mean over vertices of the squared distance to the mean of their neighbours (uniform Laplacian), world units
    squared. vertices (V, 3), faces (F, 3) of a closed mesh."""
    start, end = directed_edges(faces)
    total = torch.zeros_like(vertices).index_add(0, start, vertices[end])
    degree = torch.zeros_like(vertices[:, :1]).index_add(0, start, vertices.new_ones(len(start), 1))
    return ((total / degree.clamp(min=1) - vertices) * (degree > 0)).square().sum() / max(1, len(vertices))


def laplacian_weight(config: MeshConfig, progress: float) -> float:
    """From `laplacian` to `laplacian_end` as 10^(-decay p^2), CLIP-Mesh's schedule in closed form."""
    fall = 10.0 ** (-config.laplacian_decay * progress**2)
    return (
        config.laplacian_end + (config.laplacian - config.laplacian_end) * fall
        if config.laplacian_decay
        else (config.laplacian)
    )


def sign_change_loss(value: Tensor, edges: Tensor) -> Tensor:
    """Mean over edges (E, 2) whose ends differ in sign of the binary cross-entropy of each end's value (P,), as a
    logit, with the sign of the other: fewer edges cross the surface, and loose parts shrink (Munkberg et al. 2022,
    nvdiffrec, equation 2)."""
    a, b = value[edges].unbind(1)
    crossed = (a > 0) != (b > 0)
    a, b = a[crossed], b[crossed]
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    total = entropy(a, (b > 0).to(a), reduction="sum") + entropy(b, (a > 0).to(b), reduction="sum")
    return total / max(1, len(a))
