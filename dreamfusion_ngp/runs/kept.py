"""The texels of an imported mesh that stay as they are: those that the kept views see well."""

from __future__ import annotations

import numpy as np
import torch

from ..base.errors import UsageError
from ..config.schema import TextureConfig
from ..ops.rasterise import rasterise
from ..render.mesh import NEAREST
from ..scene.cameras import clip_matrices
from ..scene.imported import NAMED_VIEWS, ImportedMesh, view_check
from ..scene.surface import vertex_normals

LOOK = 768  # pixels a side of the views that decide what is kept
RIM = 3  # pixels beside a depth discontinuity, where nothing counts as clearly visible
CLOSE = 0.01  # world units: depth tolerance of the visibility test
Texels = tuple[np.ndarray, np.ndarray]  # (T, T) triangles, -1 for none, and (T, T, 3) places on them


def kept_views(text: str) -> tuple[str, ...]:
    """The view names in a text such as "front,left". Raises UsageError for unknown ones."""
    names = tuple(name for name in (part.strip().lower() for part in text.split(",")) if name)
    for name in names:
        if name not in NAMED_VIEWS:
            raise UsageError(f"views to keep are of {', '.join(NAMED_VIEWS)}, got {name[:40]!r}")
    return names


@torch.no_grad()
def kept_texels(
    mesh: ImportedMesh,
    texels: Texels,
    views: tuple[str, ...],
    config: TextureConfig,
    vertices: torch.Tensor,
    faces: torch.Tensor,
) -> torch.Tensor:
    """(T, T) in [0, 1]: 1 where one of the views sees a texel at a cosine of at least `keep_cosine`, away from depth
    discontinuities, falling to 0 over `keep_feather`."""
    face, place = (torch.from_numpy(v) for v in texels)
    kept, inside = torch.zeros(face.shape), face >= 0
    if not views or not inside.any():
        return kept
    corners = faces[face[inside].long()].long()
    weight = place[inside][..., None].float()
    x = (vertices[corners] * weight).sum(1)
    normal = torch.nn.functional.normalize((vertex_normals(vertices, faces)[corners] * weight).sum(1), dim=-1)
    named, cameras = view_check(mesh)
    best = torch.zeros(len(x))
    for i, view in enumerate(named):
        if view.name in views:
            best = torch.maximum(best, seen_well(vertices, faces, x, normal, cameras[i : i + 1], config))
    kept[inside] = best
    return kept


def seen_well(vertices, faces, x, normal, camera, config: TextureConfig) -> torch.Tensor:
    """(N,) in [0, 1]: how well a camera sees points x (N, 3) of the mesh, as `kept_texels` has it."""
    matrix = clip_matrices(camera, NEAREST, 10.0)[0]

    def clip(points: torch.Tensor) -> torch.Tensor:
        return torch.cat([points, torch.ones_like(points[:, :1])], 1) @ matrix.T

    fragments = rasterise(clip(vertices)[None], faces, (LOOK, LOOK))
    corners = vertices[faces[fragments.face[0].long().clamp(min=0)].long()]
    shown = (corners * fragments.barycentric[0][..., None]).sum(2)
    toward = camera.position[0] - x
    depth = (camera.position[0] - shown).norm(dim=-1)
    depth = torch.where(fragments.face[0] >= 0, depth, 1e3)[None, None]
    nearest = -torch.nn.functional.max_pool2d(-depth, 2 * RIM + 1, 1, RIM)
    furthest = torch.nn.functional.max_pool2d(depth, 2 * RIM + 1, 1, RIM)
    at = clip(x)
    grid = (at[:, :2] / at[:, 3:])[None, None] * torch.tensor([1.0, -1.0])

    def look_up(values: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.grid_sample(values, grid, mode="nearest", align_corners=False)[0, 0, 0]

    # A point next to the silhouette of a nearer surface, or on a silhouette itself, is not clearly visible.
    slope = 2 * RIM / LOOK / float(camera.focal) * 2.0  # depth change of a slanted surface over the window, world units
    distance = toward.norm(dim=-1)
    clear = (look_up(nearest) > distance - CLOSE - 4 * slope) & (look_up(furthest) < distance + CLOSE + 4 * slope)
    visible = (look_up(depth) > distance - CLOSE) & clear
    cosine = (normal * toward).sum(-1) / distance
    low = config.keep_cosine - config.keep_feather
    return ((cosine - low) / max(config.keep_feather, 1e-6)).clamp(0, 1) * visible
