"""Topological defects of an imported mesh: holes, non-manifold edges, flipped and degenerate faces.

Vertices at the same position count as one: formats with one index for all attributes split them at seams, and STL
shares none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .imported import ImportedMesh, used_vertices

CELLS = 1 << 19


@dataclass(frozen=True)
class TopologyReport:
    """Counts. pieces: sets of faces connected by edges of two faces. holes: chains of boundary edges. boundary_edges:
    edges of one face. non_manifold_edges: of three or more. flipped: faces oriented against the majority of their
    piece. inside_out: faces of closed pieces whose volume is negative. one_sided: faces of pieces that cannot be
    oriented (a Moebius strip). degenerate: faces without area. duplicate: faces with the corners of an earlier one, in
    any order; these and faces whose corners coincide are left out of the other counts."""

    faces: int
    vertices: int
    pieces: int
    holes: int
    boundary_edges: int
    non_manifold_edges: int
    flipped: int
    inside_out: int
    one_sided: int
    degenerate: int
    duplicate: int

    def complaints(self) -> list[str]:
        """The defects to repair, a line each; empty for a closed and oriented mesh."""
        boundary = counted(self.boundary_edges, "edge")
        lines = {
            f"{counted(self.holes, 'hole')} ({boundary} of one triangle)": self.boundary_edges,
            f"{counted(self.non_manifold_edges, 'edge')} of more than two triangles": self.non_manifold_edges,
            counted(self.flipped, "flipped triangle"): self.flipped,
            f"{counted(self.inside_out, 'triangle')} of pieces that are inside out": self.inside_out,
            f"{counted(self.one_sided, 'triangle')} of pieces with one side": self.one_sided,
            f"{counted(self.degenerate, 'triangle')} without area": self.degenerate,
            f"{counted(self.duplicate, 'triangle')} twice in the same place": self.duplicate,
        }
        return [line for line, count in lines.items() if count]


def counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def weld(points: np.ndarray, largest: float) -> np.ndarray:
    """(V,) int64, a number for the position of each point (V, 3), whose coordinates are at most `largest`. Points in
    one cell of largest / CELLS, some 16 float32 steps, have one number, so that both sides of a seam with different
    rounding (sin 0 and sin 2 pi) count as one."""
    cell = np.rint(points.astype(np.float64) * (CELLS / largest)).clip(-CELLS, CELLS).astype(np.int64) + CELLS
    key = (cell[:, 0] * (2 * CELLS + 1) + cell[:, 1]) * (2 * CELLS + 1) + cell[:, 2]
    return np.unique(key, return_inverse=True)[1]


def examine_topology(mesh: ImportedMesh) -> TopologyReport:
    """Counts the defects of a mesh. Takes seconds for a million triangles."""
    faces = weld(mesh.vertices, np.abs(mesh.vertices[mesh.faces]).max())[mesh.faces]
    a, b, c = (mesh.vertices[mesh.faces[:, k]].astype(np.float64) for k in range(3))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    longest = np.maximum.reduce([((b - a) ** 2).sum(1), ((c - b) ** 2).sum(1), ((a - c) ** 2).sum(1)])
    collapsed = (faces[:, 0] == faces[:, 1]) | (faces[:, 1] == faces[:, 2]) | (faces[:, 2] == faces[:, 0])
    flat = collapsed | (area <= 1e-7 * longest)  # corners on a line, as far as float32 can tell
    repeated = duplicates(faces, ~collapsed)
    solid = np.flatnonzero(~collapsed & ~repeated)
    volume = np.einsum("ij,ij->i", a, np.cross(b, c))[solid] / 6
    edges = Edges(faces[solid])
    piece, flipped, one_sided = orientation(edges)
    open_piece = np.zeros(piece.max(initial=-1) + 1, bool)
    open_piece[piece[edges.face[edges.uses != 2]]] = True
    total = np.bincount(piece, np.where(flipped, -volume, volume), minlength=len(open_piece))
    inverted = (~open_piece & (total < 0))[piece] & ~one_sided
    return TopologyReport(
        faces=len(faces),
        vertices=int(used_vertices(int(faces.max()) + 1, faces).sum()),
        pieces=len(open_piece),
        holes=edges.holes(),
        boundary_edges=int((edges.uses == 1).sum()),
        non_manifold_edges=len(np.unique(edges.number[edges.uses > 2])),
        flipped=int((flipped & ~one_sided).sum()),
        inside_out=int(inverted.sum()),
        one_sided=int(one_sided.sum()),
        degenerate=int(flat.sum()),
        duplicate=int(repeated.sum()),
    )


def duplicates(faces: np.ndarray, among: np.ndarray) -> np.ndarray:
    """(F,) bool: faces with the corners of an earlier one, in any order."""
    rows = np.flatnonzero(among)
    corners = np.sort(faces[rows], axis=1)
    order = np.lexsort(corners.T[::-1])  # stable: the earliest of equals comes first
    same = np.concatenate([[False], (np.diff(corners[order], axis=0) == 0).all(1)]) if len(rows) else np.zeros(0, bool)
    mask = np.zeros(len(faces), bool)
    mask[rows[order[same]]] = True
    return mask


class Edges:
    """The 3 F half-edges of faces (F, 3), sorted so that those of one edge are adjacent.

    low, high: (3F,) the ends of each. face: (3F,) its face. forward: (3F,) bool, whether it runs from low to high.
    number: (3F,) of its edge. uses: (3F,) the number of faces of its edge."""

    def __init__(self, faces: np.ndarray) -> None:
        start, end = faces.ravel(), faces[:, [1, 2, 0]].ravel()
        low, high = np.minimum(start, end), np.maximum(start, end)
        span = int(faces.max(initial=0)) + 1
        key = low * span + high
        order = np.argsort(key, kind="stable")
        key = key[order]
        first = np.concatenate([[True], np.diff(key) != 0]) if len(key) else np.zeros(0, bool)
        self.faces = len(faces)
        self.low, self.high, self.face = low[order], high[order], order // 3
        self.forward = (start < end)[order]
        self.number = np.cumsum(first) - 1
        self.uses = np.bincount(self.number, minlength=0)[self.number] if len(key) else np.zeros(0, np.int64)

    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For edges of two faces: (one face, other face, whether they are consistently oriented, with opposite
        half-edges)."""
        at = np.flatnonzero(self.uses == 2)[::2]
        return self.face[at], self.face[at + 1], self.forward[at] != self.forward[at + 1]

    def holes(self) -> int:
        """The number of connected chains of boundary edges."""
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components

        lone = self.uses == 1
        ends, index = np.unique(np.stack([self.low[lone], self.high[lone]]), return_inverse=True)
        if not len(ends):
            return 0
        low, high = index.reshape(2, -1)
        graph = coo_matrix((np.ones(len(low), np.int8), (low, high)), (len(ends), len(ends)))
        return int(connected_components(graph, directed=False)[0])


def orientation(edges: Edges) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(F,) the piece of each face, (F,) bool whether it is oriented against the majority of its piece, (F,) bool
    whether its piece cannot be oriented.

    Each face has two nodes, as it is and flipped; faces that agree across an edge link equal nodes, others unequal
    ones. A piece that can be oriented splits into two mirrored components; one that cannot is a single component.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = edges.faces
    if not n:
        return np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(0, bool)
    one, other, agree = edges.pairs()
    shift = np.where(agree, 0, n)
    rows, columns = np.concatenate([one, one + n]), np.concatenate([other + shift, (other + shift + n) % (2 * n)])
    graph = coo_matrix((np.ones(len(rows), np.int8), (rows, columns)), (2 * n, 2 * n))
    _, label = connected_components(graph, directed=False)
    as_is, flipped = label[:n], label[n:]
    _, piece = np.unique(np.minimum(as_is, flipped), return_inverse=True)
    first = as_is < flipped  # whether a face, unflipped, is in the first of the two components
    count = np.bincount(piece, minlength=1)
    minority = 2 * np.bincount(piece, first, minlength=1) < count  # whether the faces of `first` are the minority
    tie = 2 * np.bincount(piece, first, minlength=1) == count
    against = np.where((minority | tie)[piece], first, ~first)
    return piece, against & (as_is != flipped), as_is == flipped
