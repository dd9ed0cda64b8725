"""Surfaces: the Chamfer distance to the true toy, loose pieces, and whether an exported mesh is closed."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...base.errors import ExportError
from ...config.schema import FieldConfig
from ...export.isosurface import CLIP, Mesh, compact, marching_cubes, outer_shells
from ...scene.isolevel import LEVEL, iso_level, sample_grid
from ...scene.solid import points_on_faces
from ...toybox.world.shapes import PARAMETERS, distance
from .volume import coarse_poses, fill_cavities, pieces, refine

RESOLUTION = 96  # cells per axis of the grids that surfaces are taken from
POINTS = 4096  # on each surface
COARSE_POINTS = 512  # of them in the first search
CANDIDATES = 5  # of the first search, refined with all points
SHARPNESS = 150.0  # of a toy's density: it falls by e within 1 / SHARPNESS world units
LEAF = 64  # points in a leaf of a tree: scipy's default of 10 takes twice to three times as long per query
CRUMB = 4  # cells; a smaller piece is not a floater but grid noise


@dataclass(frozen=True)
class Surface:
    """Points (POINTS, 3) in world units, evenly spread over the outer surface of a solid; pieces, share: see
    `volume.pieces`."""

    points: np.ndarray
    pieces: int
    share: float


def sample_faces(mesh: Mesh, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) points on a mesh, uniform by area and stratified: one in every n-th part of the faces' total area; and
    (n,) the index of each point's face."""
    face, weight = points_on_faces(mesh.vertices, mesh.faces, n, np.random.default_rng(seed))
    a, b, c = (weight[:, i : i + 1] * mesh.vertices[mesh.faces[face, i]] for i in range(3))
    return a + b + c, face


def sample_surface(mesh: Mesh, n: int) -> np.ndarray:
    """(n, 3) points on a mesh, as `sample_faces`."""
    return sample_faces(mesh, n)[0]


def outer_surface(density, bound: float, level: float | None = None, device="cpu") -> Surface:
    """The outer surface of the solid where a density (points (N, 3) -> (N,) per world unit) exceeds `level` (None: the
    rule of the mesh export). All pieces count, except walls of closed cavities and anything inside them. Raises
    ExportError for an empty or not finite field."""
    grid = sample_grid(density, bound, RESOLUTION, device)
    level = iso_level(grid, 2 * bound / RESOLUTION) if level is None else level
    solid = grid > level
    filled = fill_cavities(solid)
    count, share = pieces(filled, CRUMB)
    grid = np.where(filled & ~solid, level * math.exp(CLIP), grid)
    mesh, *_ = outer_shells(marching_cubes(grid, level, bound), keep_all=True)
    return Surface(sample_surface(mesh, POINTS), count, share)


@functools.cache
def toy_surface(name: str) -> Surface:
    """The outer surface of the toy `name` in its canonical proportions."""

    def density(x):
        d = distance(name, tuple(x[None, :, i] for i in range(3)), torch.zeros(1, PARAMETERS))[0]
        return LEVEL * torch.exp((-SHARPNESS * d).clamp(-30, 30))

    return outer_surface(density, FieldConfig.bound, LEVEL)


def turned(points: np.ndarray, yaw: float, scale: float) -> np.ndarray:
    """Points (N, 3) turned by `yaw` degrees about +Y (from +Z towards +X) and scaled about the origin."""
    c, s = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    return scale * points @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])


def tree_of(points: np.ndarray) -> Any:
    """A scipy KDTree of points (N, 3); for scipy's annotations a query may give one number."""
    from scipy.spatial import KDTree

    return KDTree(points, leafsize=LEAF)


def chamfer(a: np.ndarray, b: np.ndarray, tree: Any = None) -> float:
    """Symmetric Chamfer distance of two point sets (N, 3), (M, 3), in their unit: the mean distance of a point to the
    nearest one of the other set, averaged over both directions (not squared). tree: of `a`, if there is one."""
    tree = tree_of(a) if tree is None else tree
    return float(tree_of(b).query(a)[0].mean() + tree.query(b)[0].mean()) / 2


def best_chamfer(points: np.ndarray, toy: np.ndarray) -> tuple[float, float, float]:
    """(distance, yaw, scale): the least Chamfer distance between surface points and those of a toy, turned by `yaw`
    degrees and scaled within volume.SCALES; the same search as for the IoU."""

    def fit(a, b):
        tree = tree_of(a)
        return lambda yaw, scale: -chamfer(a, turned(b, yaw, scale), tree)

    coarse, fine = fit(points[:: len(points) // COARSE_POINTS], toy[:: len(toy) // COARSE_POINTS]), fit(points, toy)
    value, yaw, scale = max(refine(fine, *pose) for pose in coarse_poses(coarse, CANDIDATES))
    return -value, float((yaw + 180) % 360 - 180), float(scale)


def read_mesh(path: Path) -> Mesh:
    """The triangles of a mesh file; vertices that texture seams have split are merged. Raises ExportError where it
    cannot be read."""
    import trimesh

    try:
        loaded: Any = trimesh.load(path, force="mesh", process=False)
        vertices, faces = np.asarray(loaded.vertices, dtype=np.float64), np.asarray(loaded.faces, dtype=np.int64)
    except (OSError, ValueError, IndexError, KeyError, AttributeError) as error:
        raise ExportError(f"{path} cannot be read: {str(error).strip().splitlines()[0]}") from None
    if not len(faces):
        raise ExportError(f"{path} holds no triangles")
    unique, index = np.unique(vertices, axis=0, return_inverse=True)
    return compact(Mesh(unique, index.reshape(-1)[faces]))
