"""Topology of a surface: pieces, handles, holes; and how many triangles it needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...export.isosurface import Mesh, decimate
from ...scene.topology import Edges
from .closed_mesh import sample_with_normals
from .surface import tree_of

GENUS = {"mug": 1, "torus": 1, "teapot": 1}  # of the toys in their canonical proportions; of all others 0
BUDGETS = tuple(16000 >> k for k in range(8))  # triangles, halved down to 125
TOLERANCE = 1e-3  # world units: largest mean distance to a simpler surface; a toy is about 1 across
SAMPLES, POINTS = 100_000, 10_000  # points on the simpler surface, on the original


@dataclass(frozen=True)
class Topology:
    """Counts of an orientable surface. pieces: components connected across edges. genus: handles of all pieces
    together, 1 for a torus. holes: loops of edges that do not have two triangles; 0 for a closed surface."""

    pieces: int
    genus: int
    holes: int


def topology(mesh: Mesh) -> Topology:
    """By the Euler characteristic of each piece, V - E + F = 2 - 2 genus - holes. The surface is cut at edges where
    more or fewer than two triangles meet, and at vertices where pieces only touch, which become two. About a second for
    a million triangles."""
    faces, edges = mesh.faces, Edges(mesh.faces)
    if not len(faces):
        return Topology(0, 0, 0)
    at = np.flatnonzero(edges.uses == 2)
    one, other = at[::2], at[1::2]
    here, there = (
        np.concatenate([corner(faces, edges.face[rows], end[rows]) for end in (edges.low, edges.high)])
        for rows in (one, other)
    )
    vertices, vertex = components(3 * len(faces), here, there)
    first = 3 * np.arange(len(faces))
    pieces, _ = components(
        3 * len(faces), np.concatenate([here, first, first + 1]), np.concatenate([there, first + 1, first + 2])
    )
    lone = np.flatnonzero(edges.uses != 2)
    ends = [vertex[corner(faces, edges.face[lone], end[lone])] for end in (edges.low, edges.high)]
    rims, index = np.unique(np.concatenate(ends), return_inverse=True)
    holes = components(len(rims), *index.reshape(2, -1))[0] if len(rims) else 0
    characteristic = vertices - (len(one) + len(lone)) + len(faces)
    return Topology(pieces, (2 * pieces - holes - characteristic) // 2, holes)


def corner(faces: np.ndarray, face: np.ndarray, vertex: np.ndarray) -> np.ndarray:
    """(N,) index, 3 face + place, of the corner of each face (N,) at a vertex (N,)."""
    return 3 * face + (faces[face] == vertex[:, None]).argmax(1)


def components(n: int, a: np.ndarray, b: np.ndarray) -> tuple[int, np.ndarray]:
    """The number of connected components of n nodes with links a, b, and the component of each node."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    return connected_components(coo_matrix((np.ones(len(a), np.int8), (a, b)), (n, n)), directed=False)


def faces_needed(mesh: Mesh) -> int:
    """The fewest triangles, of BUDGETS, to which a closed mesh can be simplified so that the mean distance of its
    points to the simpler surface is within TOLERANCE; its present number if none will do. A rough surface needs
    many."""
    points, _ = sample_with_normals(mesh, POINTS, seed=2)
    fewest = len(mesh.faces)
    for budget in (b for b in BUDGETS if b < len(mesh.faces)):
        simpler = decimate(mesh, budget)
        there, normals = sample_with_normals(simpler, SAMPLES, seed=3)
        nearest = tree_of(there).query(points)[1]
        away = np.abs(((points - there[nearest]) * normals[nearest]).sum(1))
        if len(simpler.faces) > 1.1 * budget or away.mean() > TOLERANCE:
            break
        fewest = len(simpler.faces)
    return fewest
