"""Closed meshes: the enclosed solid as a density, and the distance of the surface from the true toy's."""

from __future__ import annotations

import numpy as np
import torch

from ...export.isosurface import Mesh, outer_shells
from ...scene.isolevel import LEVEL, cell_centres
from ...toybox.world.shapes import PARAMETERS, distance
from .surface import sample_faces, sample_surface, toy_surface, tree_of, turned
from .volume import fill_cavities, labelled

SAMPLES = 200_000  # points of a surface to which distances are measured
POINTS = 20_000  # points of a surface from which distances are measured
COARSE = 64  # cells per axis of the grid that tells inside from outside, away from the surface
SHARPNESS = 150.0  # of the density: it falls by e within 1 / SHARPNESS world units
PROJECTIONS = 4  # steps of Newton's method that put a point on a toy's surface


def sample_with_normals(mesh: Mesh, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) points on a mesh, as `surface.sample_faces`, and the unit normals of their faces."""
    points, face = sample_faces(mesh, n, seed)
    a, b, c = (mesh.vertices[mesh.faces[face, i]] for i in range(3))
    normal = np.cross(b - a, c - a)
    return points, normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)


class MeshDensity:
    """The solid of a closed mesh as a density for the metrics of fields: LEVEL exp(SHARPNESS s), s the signed distance
    to the surface in world units, positive inside.

    Near the surface s is the distance to the plane of the nearest of SAMPLES points on it; further off, a grid gives
    its sign: cells are inside unless a path through cells away from the surface leads out.
    """

    def __init__(self, mesh: Mesh, bound: float):
        self.points, self.normals = sample_with_normals(mesh, SAMPLES)
        self.bound, self.tree = bound, tree_of(self.points)
        self.cell = 2 * bound / COARSE
        axis = cell_centres(bound, COARSE)
        centres = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
        self.reach = self.cell  # beyond it, a point's cell is away from the surface
        furthest = 2 * self.reach + self.cell  # of the centre of a cell with a point within 2 reach: more than enough
        away = self.tree.query(centres, distance_upper_bound=furthest)[0].reshape((COARSE,) * 3)
        self.close, free = np.isfinite(away), ~(away < self.reach)
        regions = labelled(np.pad(free, 1, constant_values=True))
        self.inside = (free & (regions != regions[0, 0, 0])[1:-1, 1:-1, 1:-1]) & fill_cavities(~free)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(N,) density per world unit at points (N, 3)."""
        points = x.detach().cpu().numpy().astype(np.float64)
        cell = tuple(((points / self.bound + 1) * (COARSE / 2)).astype(int).clip(0, COARSE - 1).T)
        signed = np.where(self.inside[cell], 1.0, -1.0)
        asked = np.flatnonzero(self.close[cell] | (np.abs(points) > self.bound).any(1))
        distance, index = self.tree.query(points[asked], distance_upper_bound=2 * self.reach)
        near = np.isfinite(distance)
        row, at = asked[near], index[near]
        signed[row] = -((points[row] - self.points[at]) * self.normals[at]).sum(1)
        return torch.from_numpy(LEVEL * np.exp((SHARPNESS * signed).clip(-30, 30))).float()


def toy_distance_and_normal(name: str, points: np.ndarray, yaw: float, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """(N,) distances of points (N, 3) to the toy's surface, negative inside, and (N, 3) the unit normals there, in
    world units, of the toy turned by `yaw` degrees and scaled. To first order in the distance."""
    local = torch.tensor(turned(points, -yaw, 1 / scale), dtype=torch.float64, requires_grad=True)
    d = distance(name, tuple(local[None, :, i] for i in range(3)), torch.zeros(1, PARAMETERS, dtype=torch.float64))[0]
    (gradient,) = torch.autograd.grad(d.sum(), local)
    length = gradient.norm(dim=1, keepdim=True).clamp(min=1e-12)
    normal = turned((gradient / length).numpy(), yaw, 1.0)
    return scale * (d.detach() / length[:, 0]).numpy(), normal


def surface_error(mesh: Mesh, name: str, yaw: float, scale: float) -> tuple[float, float]:
    """(chamfer, angle) of a mesh's outer surface and that of the toy, turned by `yaw` degrees and scaled: the mean
    distance of a point of either to the other surface, in world units, both ways averaged; the mean angle in degrees
    between the mesh's normals and the toy's at the same place."""
    outside, *_ = outer_shells(mesh, keep_all=True)
    points, normals = sample_with_normals(outside, POINTS, seed=1)
    to_toy, theirs = toy_distance_and_normal(name, points, yaw, scale)
    angle = np.degrees(np.arccos((normals * theirs).sum(1).clip(-1, 1)))
    toy = turned(toy_surface(name).points, yaw, scale)
    for _ in range(PROJECTIONS):
        away, normal = toy_distance_and_normal(name, toy, yaw, scale)
        toy = toy - away[:, None] * normal
    to_mesh = tree_of(sample_surface(outside, SAMPLES)).query(toy)[0]
    return float(np.abs(to_toy).mean() + to_mesh.mean()) / 2, float(angle.mean())
