"""A closed surface with control points: the limit of Loop subdivision of a triangulated sphere whose vertices move
(CLIP-Mesh, Mohammad Khalid et al. 2022, section 3.1)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..config.schema import FieldConfig, MeshConfig
from .fields import HashField
from .surface import Surface, bumped
from .tetra_surface import detail_config


def icosphere(level: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) float64 on the unit sphere and faces (F, 3) int64, counter-clockwise from outside: an icosahedron
    whose triangles are cut in four `level` times."""
    g = (1 + math.sqrt(5)) / 2
    x = [[-1, g, 0], [1, g, 0], [-1, -g, 0], [1, -g, 0], [0, -1, g], [0, 1, g], [0, -1, -g], [0, 1, -g]]
    x += [[g, 0, -1], [g, 0, 1], [-g, 0, -1], [-g, 0, 1]]
    cap = [[0, 11, 5], [0, 5, 1], [0, 1, 7], [0, 7, 10], [0, 10, 11], [1, 5, 9], [5, 11, 4], [11, 10, 2], [10, 7, 6]]
    cup = [[7, 1, 8], [3, 9, 4], [3, 4, 2], [3, 2, 6], [3, 6, 8], [3, 8, 9], [4, 9, 5], [2, 4, 11], [6, 2, 10]]
    vertices, faces = np.array(x, np.float64), np.array([*cap, *cup, [8, 6, 7], [9, 8, 1]])
    for _ in range(level):
        ends, _, middle = edges_of(faces)
        vertices = np.concatenate([vertices, vertices[ends].mean(1)])
        faces = cut_in_four(faces, middle + vertices.shape[0] - len(ends))
    return vertices / np.linalg.norm(vertices, axis=1, keepdims=True), faces


def edges_of(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For a closed mesh: ends (E, 2) of the edges, the corners (E, 2) opposite to them, and the edge numbers (F, 3)
    from each corner of a face to the next."""
    directed = np.stack([faces, np.roll(faces, -1, 1)], -1).reshape(-1, 2)
    ends, row = np.unique(np.sort(directed, 1), axis=0, return_inverse=True)
    row = row.reshape(-1)
    opposite = np.roll(faces, -2, 1).reshape(-1)[np.argsort(row, kind="stable")].reshape(-1, 2)
    return ends, opposite, row.reshape(-1, 3)


def cut_in_four(faces: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """(4 F, 3): each face split in four at the midpoints of its edges, vertices (F, 3)."""
    (a, b, c), (ab, bc, ca) = faces.T, middle.T
    quarters = [np.stack(corners, 1) for corners in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))]
    return np.concatenate(quarters)


def neighbours(count: int, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(count, count) float64, 1 where two vertices share an edge; and the number of neighbours (count,) of each."""
    ends = edges_of(faces)[0]
    adjacency = np.zeros((count, count))
    adjacency[ends[:, 0], ends[:, 1]] = adjacency[ends[:, 1], ends[:, 0]] = 1.0
    return adjacency, adjacency.sum(1)


def loop_weight(valence: np.ndarray) -> np.ndarray:
    """Loop's beta (Loop 1987): the weight of each neighbour of a vertex in one subdivision step."""
    return (0.625 - (0.375 + 0.25 * np.cos(2 * np.pi / valence)) ** 2) / valence


def loop_step(count: int, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One step of Loop subdivision: a matrix (count + E, count) from the vertices to the finer ones, and the new
    faces."""
    near, valence = neighbours(count, faces)
    beta = loop_weight(valence)
    ends, opposite, middle = edges_of(faces)
    old = near * beta[:, None] + np.diag(1 - valence * beta)
    new, row = np.zeros((len(ends), count)), np.arange(len(ends))[:, None]
    new[row, ends], new[row, opposite] = 0.375, 0.125
    return np.concatenate([old, new]), cut_in_four(faces, middle + count)


def loop_limit(count: int, faces: np.ndarray) -> np.ndarray:
    """(count, count): matrix from vertices to their positions on the limit surface."""
    near, valence = neighbours(count, faces)
    weight = 1 / (valence + 0.375 / loop_weight(valence))
    return near * weight[:, None] + np.diag(1 - valence * weight)


class ControlSurface(Surface):
    """control: (V, 3) points in world units, at first on a sphere. The triangles are fixed, so it has no holes. Colours
    come from a hash grid in space, as for the other surfaces here, so there are no UV seams; so does the height of its
    relief, `bump` world units times the first output, whose gradient tilts the normals."""

    limit: Tensor
    faces: Tensor
    control_faces: Tensor

    def __init__(self, config: MeshConfig, colors: FieldConfig, seed: int):
        super().__init__()
        self.bound, self.bump = colors.bound, config.bump
        vertices, faces = icosphere(config.sphere_level)
        matrix, fine = np.eye(len(vertices)), faces
        for _ in range(config.subdivisions):
            step, fine = loop_step(len(matrix), fine)
            matrix = step @ matrix
        matrix = loop_limit(len(matrix), fine) @ matrix
        self.control = torch.nn.Parameter(torch.tensor(vertices * config.sphere_radius, dtype=torch.float32))
        self.detail = HashField(detail_config(colors, config), seed)
        for name, value in (("limit", matrix.astype(np.float32)), ("faces", fine), ("control_faces", faces)):
            value = value if name == "limit" else value.astype(np.int32)
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(value)), persistent=False)

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.limit @ self.control, self.faces

    def parameter_groups(self) -> dict[str, list[torch.nn.Parameter]]:
        return {**self.detail.parameter_groups(), "offset": [self.control]}

    def refresh(self) -> None:
        self.detail.refresh()

    def paint(self, x: Tensor, face: Tensor, barycentric: Tensor) -> Tensor:
        return self.color(x.detach())

    def look(self, x: Tensor, face: Tensor, barycentric: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
        if not self.bump:
            return self.paint(x, face, barycentric), normal
        _, color, gradient = self.detail(x.detach())
        return torch.sigmoid(color), bumped(normal, self.bump * gradient)

    def color(self, x: Tensor) -> Tensor:
        """(N, 3) display-referred colours in [0, 1] at world points x (N, 3)."""
        return torch.sigmoid(self.detail(x)[1])

    def slope(self, x: Tensor) -> Tensor:
        """(N, 3) gradient of the relief's height at world points x (N, 3)."""
        return self.bump * self.detail(x)[2]
