"""What is measured of closed meshes, against toys and balls whose measures are known."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial import KDTree
from support.analytic import toy

from dreamfusion_ngp.evaluation.figures import chroma, psnr
from dreamfusion_ngp.evaluation.metrics.closed_mesh import MeshDensity, sample_with_normals, surface_error
from dreamfusion_ngp.evaluation.metrics.surface import turned
from dreamfusion_ngp.evaluation.metrics.volume import volumetric_iou
from dreamfusion_ngp.evaluation.pictures import toy_pictures
from dreamfusion_ngp.export.isosurface import Mesh, extract_mesh
from dreamfusion_ngp.scene.isolevel import LEVEL
from dreamfusion_ngp.toybox.world.shapes import COLORS

BOUND = 0.75


def ball(radius=0.4, subdivisions=4, inside_out=False):
    made = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    faces = np.asarray(made.faces)
    return Mesh(np.asarray(made.vertices), faces[:, ::-1] if inside_out else faces)


def test_density_of_a_ball():
    density = MeshDensity(ball(0.4, 5), BOUND)
    x = torch.zeros(200, 3)
    x[:, 0] = torch.linspace(0, 0.74, 200)
    value = density(x)
    assert ((value > LEVEL) == (x[:, 0] < 0.4)).all()
    near = (x[:, 0] - 0.4).abs() < 0.03
    torch.testing.assert_close(value[near].log(), math.log(LEVEL) + 150 * (0.4 - x[near, 0]), atol=0.2, rtol=0)
    everywhere = (torch.rand(20000, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1) * BOUND
    radius = everywhere.norm(dim=1)
    sure = (radius - 0.4).abs() > 1e-3
    assert torch.equal((density(everywhere) > LEVEL)[sure], (radius < 0.4)[sure])


class Counting:
    """A tree that counts the points of which it is asked."""

    def __init__(self, tree):
        self.tree, self.asked = tree, 0

    def query(self, points, **options):
        self.asked += len(points)
        return self.tree.query(points, **options)


def test_the_surface_is_looked_for_only_where_it_may_be():
    """To the bit what every point's own nearest sample says, and one in six of them is asked."""
    density = MeshDensity(ball(0.4, 5), BOUND)
    density.tree = counted = Counting(density.tree)
    random = torch.Generator().manual_seed(0)
    x = (torch.rand(20000, 3, generator=random, dtype=torch.float64) * 2 - 1) * BOUND
    points = x.numpy()
    distance, index = KDTree(density.points).query(points)
    plane = -((points - density.points[index]) * density.normals[index]).sum(1)
    sign = np.where(np.linalg.norm(points, axis=1) < 0.4, 1.0, -1.0)
    signed = np.where(distance < 2 * density.reach, plane, sign)
    expected = torch.from_numpy(LEVEL * np.exp((150 * signed).clip(-30, 30))).float()
    assert torch.equal(density(x), expected) and counted.asked < 20000 / 6
    beside = torch.tensor([[0.76, 0.0, 0.0], [0.0, -0.9, 0.0]])
    assert (density(beside) < LEVEL).all()


def test_a_closed_cavity_is_filled():
    """As the figures of solids have it."""
    hollow, inner = ball(0.5), ball(0.44, inside_out=True)
    both = Mesh(
        np.concatenate([hollow.vertices, inner.vertices]),
        np.concatenate([hollow.faces, inner.faces + len(hollow.vertices)]),
    )
    x = torch.tensor([[0.0, 0, 0], [0.47, 0, 0], [0, 0.46, 0], [0.3, 0, 0], [0.55, 0, 0]])
    assert (MeshDensity(both, BOUND)(x) > LEVEL).tolist() == [True, True, True, True, False]


def test_a_true_toy_s_mesh_is_near_perfect(name="mug"):
    mesh, _ = extract_mesh(toy(name), BOUND, resolution=160, faces=0)
    chamfer, angle = surface_error(mesh, name, 0.0, 1.0)
    assert chamfer < 1.2e-3 and angle < 3.5
    assert volumetric_iou(MeshDensity(mesh, BOUND), name, BOUND).iou > 0.995
    shifted = Mesh(mesh.vertices + np.array([0.0, 0.02, 0.0]), mesh.faces)
    assert 0.004 < surface_error(shifted, name, 0.0, 1.0)[0] < 0.02
    posed = Mesh(turned(mesh.vertices, 40.0, 0.8), mesh.faces)
    assert surface_error(posed, name, 40.0, 0.8) == pytest.approx((0.8 * chamfer, angle), rel=0.1)
    assert surface_error(posed, name, 0.0, 1.0)[0] > 0.02


def test_a_ball_of_another_size():
    """The sphere toy: distance and angle by hand; a rough one has the angle of its facets."""
    radius = float(np.linalg.norm(extract_mesh(toy("sphere"), BOUND, faces=0)[0].vertices, axis=1).mean())
    chamfer, angle = surface_error(ball(radius + 0.03), "sphere", 0.0, 1.0)
    assert chamfer == pytest.approx(0.03, abs=1.5e-3) and angle < 2
    coarse = surface_error(ball(radius, 1), "sphere", 0.0, 1.0)[1]
    fine = surface_error(ball(radius, 2), "sphere", 0.0, 1.0)[1]
    assert coarse / fine == pytest.approx(2, rel=0.1) and coarse > 5


def test_normals_of_samples_are_those_of_their_faces():
    points, normals = sample_with_normals(ball(0.4, 5), 500)
    assert np.abs(normals - points / np.linalg.norm(points, axis=1, keepdims=True)).max() < 0.05


def test_chroma_is_that_of_the_toy_for_the_toy_itself():
    truth, gray = toy_pictures("duck", COLORS["yellow"]), toy_pictures("duck", (0.5, 0.5, 0.5))
    assert chroma(truth, "duck", "yellow") == pytest.approx(1)
    assert chroma(gray, "duck", "yellow") < 0.5
    pale = replace(truth, albedo=0.5 * truth.albedo + 0.5 * truth.albedo.mean(-1, keepdim=True))
    assert 0.3 < chroma(pale, "duck", "yellow") < 0.8
    assert chroma(truth, "mug", "gray") is None


def test_psnr():
    truth = toy_pictures("duck", COLORS["yellow"], resolution=64).lit
    assert psnr(truth, "duck", "yellow") == pytest.approx(100)
    assert psnr((truth + 0.1), "duck", "yellow") == pytest.approx(20)
    assert psnr(truth, "duck", "blue") < 15
