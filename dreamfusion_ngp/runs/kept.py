"""The texels of an imported mesh that stay as they are: those that the kept views see well."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from ..base.errors import UsageError
from ..config.schema import TextureConfig
from ..importer.bake import Texels
from ..ops.rasterise import rasterise
from ..render.mesh import NEAREST
from ..scene.cameras import Cameras, clip_matrices
from ..scene.imported import NAMED_VIEWS, ImportedMesh, view_check
from ..scene.surface import is_behind, vertex_normals

LOOK = 768  # pixels a side of the views that decide what is kept
RIM = 3  # pixels beside a depth discontinuity, where nothing counts as clearly visible
CLOSE = 0.01  # world units: depth tolerance of the visibility test


def kept_views(text: str) -> tuple[str, ...]:
    """The view names in a text such as "front,left". Raises UsageError for unknown ones."""
    names = tuple(name for name in (part.strip().lower() for part in text.split(",")) if name)
    for name in names:
        if name not in NAMED_VIEWS:
            raise UsageError(f"views to keep are of {', '.join(NAMED_VIEWS)}, got {name[:40]!r}")
    return names


@torch.no_grad()
def kept_texels(mesh: ImportedMesh, texels: Texels, views: tuple[str, ...], config: TextureConfig) -> torch.Tensor:
    """(T, T) in [0, 1]: 1 where one of the views sees a texel at a cosine of at least `keep_cosine`, away from depth
    discontinuities, falling to 0 over `keep_feather`. Of a part with copies, wherever one of them is seen."""
    face, place = (torch.from_numpy(v) for v in texels)
    kept, inside = torch.zeros(face.shape), face >= 0
    if not views or not inside.any():
        return kept
    weight = place[inside][..., None].float()
    vertices, faces = (torch.from_numpy(np.ascontiguousarray(v)) for v in (mesh.vertices, mesh.faces))
    normals = vertex_normals(vertices, faces)
    named, cameras = view_check(mesh)
    looks = [Look(vertices, faces, cameras[i : i + 1]) for i, view in enumerate(named) if view.name in views]
    best = torch.zeros(len(weight))
    for rows, corner in standing(mesh, face[inside].numpy()):
        corners = torch.from_numpy(corner.astype(np.int64))
        x = (vertices[corners] * weight[rows]).sum(1)
        normal = torch.nn.functional.normalize((normals[corners] * weight[rows]).sum(1), dim=-1)
        for look in looks:
            best[rows] = torch.maximum(best[rows], look.seen_well(x, normal, config))
    kept[inside] = best
    return kept


def standing(mesh: ImportedMesh, face: np.ndarray) -> Iterator[tuple[slice | np.ndarray, np.ndarray]]:
    """The places where triangles `face` (N,) stand: their own, then those of each copy. Each as the rows of `face` and
    their vertices (R, 3) there, in the same order of corners."""
    yield slice(None), mesh.faces[face]
    for rows, first, corners in mesh.copies():
        among = np.flatnonzero((face >= first.start) & (face < first.stop))
        yield among, mesh.faces[face[among] - first.start + rows.start][:, corners]


class Look:
    """What a camera sees of a mesh, vertices (V, 3) and faces (F, 3), in LOOK x LOOK pixels. side: -1 where that is the
    back of a sheet, or of a solid that is inside out."""

    def __init__(self, vertices: torch.Tensor, faces: torch.Tensor, camera: Cameras):
        self.camera, self.matrix = camera, clip_matrices(camera, NEAREST, 10.0)[0]
        fragments = rasterise(self.clip(vertices)[None], faces, (LOOK, LOOK))
        corner = faces[fragments.face[0].long().clamp(min=0)].long()
        shown = (vertices[corner] * fragments.barycentric[0][..., None]).sum(2)
        depth = (camera.position[0] - shown).norm(dim=-1)
        self.depth = torch.where(fragments.face[0] >= 0, depth, 1e3)[None, None]
        normal = (vertex_normals(vertices, faces)[corner] * fragments.barycentric[0][..., None]).sum(2)
        behind = is_behind(*(v.flatten(0, 1) for v in (normal, vertices[corner], camera.position[0] - shown)))
        self.side = torch.where(behind, -1.0, 1.0).view(1, 1, LOOK, LOOK)
        self.nearest = -torch.nn.functional.max_pool2d(-self.depth, 2 * RIM + 1, 1, RIM)
        self.furthest = torch.nn.functional.max_pool2d(self.depth, 2 * RIM + 1, 1, RIM)

    def clip(self, points: torch.Tensor) -> torch.Tensor:
        return torch.cat([points, torch.ones_like(points[:, :1])], 1) @ self.matrix.T

    def seen_well(self, x: torch.Tensor, normal: torch.Tensor, config: TextureConfig) -> torch.Tensor:
        """(N,) in [0, 1]: how well points x (N, 3) with unit normals (N, 3) are seen, as `kept_texels` has it."""
        at = self.clip(x)
        grid = (at[:, :2] / at[:, 3:])[None, None] * torch.tensor([1.0, -1.0])

        def look_up(values: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.grid_sample(values, grid, mode="nearest", align_corners=False)[0, 0, 0]

        # A point next to the silhouette of a nearer surface, or on a silhouette itself, is not clearly visible.
        slope = 2 * RIM / LOOK / float(self.camera.focal) * 2.0  # depth change of a slanted surface over the window
        toward = self.camera.position[0] - x
        distance, reach = toward.norm(dim=-1), CLOSE + 4 * slope  # world units
        clear = (look_up(self.nearest) > distance - reach) & (look_up(self.furthest) < distance + reach)
        visible = (look_up(self.depth) > distance - CLOSE) & clear
        cosine = (normal * toward).sum(-1) / distance * look_up(self.side)
        low = config.keep_cosine - config.keep_feather
        return ((cosine - low) / max(config.keep_feather, 1e-6)).clamp(0, 1) * visible
