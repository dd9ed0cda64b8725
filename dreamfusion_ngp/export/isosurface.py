"""Extracts a closed triangle mesh from a density field: sampling, iso-level, marching cubes, components, decimation.

Arrays are numpy on the host. Grids are indexed [x, y, z]; vertices are world units, +Y up, the front faces +Z.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..base.errors import ExportError
from ..scene.isolevel import iso_level, sample_grid

CLIP = 4.0  # marching cubes sees log(density / level) within +-CLIP
NUDGE = 0.02  # and never closer to 0 than this, which avoids slivers around grid points


@dataclass(frozen=True)
class Mesh:
    """vertices: (V, 3) float64 world units. faces: (F, 3) int64, counter-clockwise seen from outside."""

    vertices: np.ndarray
    faces: np.ndarray


def extract_mesh(
    density,
    bound: float,
    *,
    resolution: int = 128,
    faces: int = 20000,
    keep_all: bool = False,
    smooth: int = 0,
    level: float | None = None,
    device="cpu",
) -> tuple[Mesh, dict]:
    """The surface of a density field as a closed mesh with outward faces, and statistics of it.

    density: callable, points (N, 3) float32 -> (N,) density per world unit. resolution: samples per axis of [-bound,
    bound]^3. faces: budget; 0 keeps all. keep_all: keep every separate piece, not only the largest. smooth:
    iterations of Taubin smoothing (volume-preserving). level: density of the surface; None: by `iso_level`. Walls of
    closed cavities are dropped, as they are invisible. Where the field reaches a side of the cube, the mesh is closed
    there.
    Raises ExportError for an empty or not finite field.
    """
    grid = sample_grid(density, bound, resolution, device)
    voxel = 2 * bound / resolution
    level = iso_level(grid, voxel) if level is None else level
    stats = {"level": level, "resolution": resolution, "touches_bound": touches_bound(grid, level)}
    mesh = marching_cubes(grid, level, bound)
    finished, figures = finish(mesh, faces=faces, keep_all=keep_all, smooth=smooth, smallest=voxel**3)
    return finished, stats | figures


def finish(mesh: Mesh, *, faces: int, keep_all: bool, smooth: int, smallest: float) -> tuple[Mesh, dict]:
    """The outer shells of a closed mesh, smoothed and simplified as in `extract_mesh`, and statistics. smallest: least
    volume of the pieces that keep_all keeps."""
    mesh, pieces, lost = outer_shells(mesh, keep_all, smallest)
    extracted = len(mesh.faces)
    if smooth:
        mesh = taubin(mesh, smooth)
    if faces:
        mesh = decimate(mesh, faces)
    return mesh, {
        "pieces": pieces,
        "left_out": lost,
        "faces_extracted": extracted,
        "faces": len(mesh.faces),
        "vertices": len(mesh.vertices),
        "volume": signed_volume(mesh),
        "watertight": is_closed(mesh),
    }


def touches_bound(grid: np.ndarray, level: float) -> float:
    """Share of the cells on the cube's sides that are inside the solid: well above 0 means that the object is cut off,
    or fog."""
    sides = np.ones(grid.shape, dtype=bool)
    sides[1:-1, 1:-1, 1:-1] = False
    return float((grid[sides] > level).mean())


def marching_cubes(grid: np.ndarray, level: float, bound: float) -> Mesh:
    """Lewiner's marching cubes on log(density / level): the log of a trained field is far closer to linear than its
    density."""
    from skimage.measure import marching_cubes as lewiner

    value = np.log(np.maximum(grid, level * math.exp(-CLIP)) / level)
    value = np.where(np.abs(value) < NUDGE, np.where(value > 0, NUDGE, -NUDGE), value).clip(-CLIP, CLIP)
    if not (value > 0).any():
        raise ExportError(f"the scene is empty: no surface at a density of {level:.3f}")
    closed = np.pad(value.astype(np.float32), 1, constant_values=-CLIP)
    vertices, faces, _, _ = lewiner(closed, 0.0, gradient_direction="ascent")  # "ascent": the field is positive inside
    voxel = 2 * bound / len(grid)
    return Mesh((vertices.astype(np.float64) - 0.5) * voxel - bound, faces.astype(np.int64))


def outer_shells(mesh: Mesh, keep_all: bool, smallest: float = 0.0) -> tuple[Mesh, int, float]:
    """The piece that encloses most (keep_all: every one of at least `smallest` volume), the number of pieces before,
    and the share of the enclosed volume that is left out.

    A cavity's wall encloses a negative volume, so it is never kept.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    f, n = mesh.faces, len(mesh.vertices)
    edges = coo_matrix((np.ones(2 * len(f), dtype=bool), (f[:, [0, 1]].ravel(), f[:, [1, 2]].ravel())), shape=(n, n))
    _, vertex_piece = connected_components(edges, directed=False)
    piece = vertex_piece[f[:, 0]]
    volume = np.bincount(piece, weights=face_volumes(mesh), minlength=vertex_piece.max() + 1)
    kept = volume >= smallest if keep_all else np.zeros(len(volume), dtype=bool)
    kept[volume.argmax()] = True
    solid = volume > 0
    lost = volume[solid & ~kept].sum() / max(volume[solid].sum(), 1e-30)
    return compact(Mesh(mesh.vertices, f[kept[piece]])), int(solid.sum()), float(lost)


def compact(mesh: Mesh) -> Mesh:
    """The mesh without the vertices that no face uses."""
    used, faces = np.unique(mesh.faces, return_inverse=True)
    return Mesh(mesh.vertices[used], faces.reshape(-1, 3))


def decimate(mesh: Mesh, faces: int) -> Mesh:
    """Quadric edge collapse (Garland and Heckbert 1997) to about `faces` faces. Where that would open the mesh, less
    aggressively, then not at all."""
    import fast_simplification

    if len(mesh.faces) <= faces:
        return mesh
    for aggression in (7, 3):
        vertices, triangles = fast_simplification.simplify(
            mesh.vertices, mesh.faces.astype(np.int32), target_count=faces, agg=aggression
        )[:2]
        simpler = compact(Mesh(np.asarray(vertices, dtype=np.float64), np.asarray(triangles, dtype=np.int64)))
        if is_closed(simpler) and np.isfinite(simpler.vertices).all() and signed_volume(simpler) > 0:
            return simpler
    return mesh


def taubin(mesh: Mesh, iterations: int) -> Mesh:
    """Taubin's smoothing (1995): Laplacian steps that alternately shrink and grow, which preserves the volume."""
    from scipy.sparse import coo_matrix, diags

    f, n = mesh.faces, len(mesh.vertices)
    ones = np.ones(3 * len(f))
    neighbours = coo_matrix((ones, (f.ravel(), np.roll(f, -1, 1).ravel())), shape=(n, n)).tocsr()
    neighbours = neighbours.maximum(neighbours.T)
    average = diags(1 / np.asarray(neighbours.sum(1)).ravel()) @ neighbours
    vertices = mesh.vertices
    for _ in range(iterations):
        for factor in (0.5, -0.53):
            vertices = vertices + factor * (average @ vertices - vertices)
    return Mesh(vertices, f)


def face_volumes(mesh: Mesh) -> np.ndarray:
    """(F,) signed volumes of the tetrahedra between the faces and the origin."""
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    return np.einsum("ij,ij->i", a, np.cross(b, c)) / 6


def signed_volume(mesh: Mesh) -> float:
    """Enclosed volume; positive when faces point outwards."""
    return float(face_volumes(mesh).sum())


def is_closed(mesh: Mesh) -> bool:
    """Whether every edge belongs to exactly two faces that run along it in opposite directions."""
    f, n = mesh.faces, len(mesh.vertices)
    start, end = f.ravel(), np.roll(f, -1, 1).ravel()
    forward, backward = np.sort(start * n + end), np.sort(end * n + start)
    return bool(len(f)) and bool((forward == backward).all()) and bool((np.diff(forward) > 0).all())


def vertex_normals(mesh: Mesh) -> np.ndarray:
    """(V, 3) unit normals, the faces' weighted by their area; up where the faces cancel."""
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    normal = np.cross(b - a, c - a)
    total = np.stack(
        [
            np.bincount(mesh.faces.ravel(), weights=np.repeat(normal[:, i], 3), minlength=len(mesh.vertices))
            for i in range(3)
        ],
        -1,
    )
    size = np.linalg.norm(total, axis=1, keepdims=True)
    return np.where(size > 1e-20, total / np.maximum(size, 1e-20), [0.0, 1.0, 0.0])
