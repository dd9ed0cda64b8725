"""Surfaces whose distances, areas and pieces are known from formulas."""

import math

import numpy as np
import pytest
import torch
from support.analytic import ball, solid, toy, union

from dreamfusion_ngp.base.errors import ExportError
from dreamfusion_ngp.evaluation.figures import geometry
from dreamfusion_ngp.evaluation.metrics.surface import (
    best_chamfer,
    chamfer,
    outer_surface,
    read_mesh,
    sample_surface,
    toy_surface,
    turned,
)
from dreamfusion_ngp.export.isosurface import Mesh, is_closed
from dreamfusion_ngp.export.meshes import export_mesh
from dreamfusion_ngp.toybox.world.shapes import CLASSES

BOUND = 0.75


def shell(radius, n=4096, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, 3))
    return radius * x / np.linalg.norm(x, axis=1, keepdims=True)


def test_chamfer_of_points_and_spheres_by_hand():
    assert chamfer(np.array([[0.0, 0, 0]]), np.array([[3.0, 4, 0]])) == 5.0
    a, b = np.array([[0.0, 0, 0], [1, 0, 0]]), np.array([[0.0, 0, 0]])
    assert chamfer(a, b) == pytest.approx((0.5 + 0.0) / 2)
    # Concentric spheres: the gap, and a little for points that do not lie opposite each other.
    assert chamfer(shell(0.3), shell(0.4, seed=1)) == pytest.approx(0.1, abs=0.004)


def test_points_are_spread_by_area():
    """Two squares of areas 1 and 9 get a tenth and nine tenths of the points, each evenly."""
    corners = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    small, large = (np.c_[size * corners, np.full(4, z)] for size, z in ((1, 0.0), (3, 1.0)))
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    points = sample_surface(Mesh(np.concatenate([small, large]), np.concatenate([faces, faces + 4])), 5000)
    on_large = points[:, 2] > 0.5
    assert abs(on_large.sum() - 4500) <= 1
    assert np.allclose(points[on_large, :2].mean(0), 1.5, atol=0.05) and points[on_large, :2].max() <= 3
    assert np.allclose(points[on_large, :2].var(0), 9 / 12, rtol=0.06)


def test_a_turn_takes_the_front_towards_plus_x():
    assert np.allclose(turned(np.array([[0.0, 1, 2]]), 90, 0.5), [[1, 0.5, 0]], atol=1e-12)


def test_the_best_pose_is_found():
    points = toy_surface("duck").points
    distance, yaw, scale = best_chamfer(turned(points, 137.0, 0.8), points)
    assert distance < 0.002 and abs(yaw - 137) < 1.5 and scale == pytest.approx(0.8, rel=0.01)
    # A sphere that is larger than the largest scale allows: the gap that is left.
    distance, _, scale = best_chamfer(shell(0.7), shell(0.4, seed=1))
    assert scale == pytest.approx(1.4) and distance == pytest.approx(0.14, abs=0.01)


def test_what_a_wrong_shape_costs():
    right = geometry("chair", toy("chair"), BOUND)
    wrong = geometry("chair", toy("snowman"), BOUND)
    assert right["chamfer"] < 0.01 and abs(right["chamfer_yaw"]) < 3 and wrong["chamfer"] > 0.04
    moved = geometry("sphere", solid(ball((0.0, 0.1, 0.0), 0.38)), BOUND)
    # A sphere shifted by s: the nearest point of the other lies |s cos| off to first order, on average s / 2.
    assert moved["chamfer"] == pytest.approx(0.05, abs=0.006)


@pytest.mark.parametrize("name", CLASSES)
def test_every_toy_is_one_piece(name):
    surface = toy_surface(name)
    assert (surface.pieces, surface.share) == (1, 0.0) and surface.points.shape == (4096, 3)


def test_floaters_have_their_share_of_the_volume():
    centre, far = ball((0.0, 0.0, 0.0), 0.38), ball((0.55, 0.55, 0.55), 0.15)
    surface = outer_surface(solid(union(centre, far)), BOUND)
    assert surface.pieces == 2 and surface.share == pytest.approx(0.15**3 / (0.15**3 + 0.38**3), rel=0.05)
    inside = (np.linalg.norm(surface.points - 0.55, axis=1) < 0.2).mean()
    assert inside == pytest.approx(0.15**2 / (0.15**2 + 0.38**2), rel=0.05)


def test_what_a_closed_cavity_hides_does_not_count():
    def hollow(x):
        return torch.minimum((x.norm(dim=-1) - 0.38).abs() - 0.05, x.norm(dim=-1) - 0.1)

    surface = outer_surface(solid(hollow), BOUND)
    assert surface.pieces == 1
    assert np.allclose(np.linalg.norm(surface.points, axis=1), 0.43, atol=0.01)


def test_an_exported_mesh_is_read_back_closed(tmp_path):
    """Texture seams split its vertices; that opens nothing. A missing triangle does."""
    path = export_mesh(toy("mug"), lambda x: torch.full((len(x), 3), 0.5), BOUND, tmp_path, resolution=48, texture=64)[
        "paths"
    ]["glb"]
    mesh = read_mesh(path)
    assert is_closed(mesh) and not is_closed(Mesh(mesh.vertices, mesh.faces[1:]))
    assert geometry("mug", toy("mug"), BOUND, mesh=Mesh(mesh.vertices, mesh.faces[1:]))["watertight"] is False


def test_what_is_no_mesh_is_a_clear_error(tmp_path):
    (tmp_path / "mesh.glb").write_bytes(b"no mesh")
    with pytest.raises(ExportError, match="cannot be read"):
        read_mesh(tmp_path / "mesh.glb")
    with pytest.raises(ExportError, match="not finite"):
        outer_surface(lambda x: torch.full((len(x),), math.nan), BOUND)
