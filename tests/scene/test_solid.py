"""Signed distances to triangles: exact solids, holes, meshes that are inside out, open sheets."""

import numpy as np
import pytest
import trimesh

from dreamfusion_ngp.scene.solid import Solid, sample_triangles

BOUND = 0.75
X = np.random.default_rng(1).uniform(-BOUND, BOUND, (20_000, 3))


def solid(mesh, faces=None):
    return Solid(mesh.vertices, mesh.faces if faces is None else faces, BOUND, samples=1 << 16)


@pytest.fixture(scope="module")
def ball():
    return trimesh.creation.icosphere(4, 0.4)


def test_distances_to_a_ball(ball):
    true = 0.4 - np.linalg.norm(X, axis=1)
    found, row = solid(ball).nearest(X)
    assert np.sqrt(np.mean((found - true) ** 2)) < 1e-3 and np.mean((found > 0) != (true > 0)) < 1e-3
    assert row.shape == (len(X),)


def test_volume_and_distances_of_a_torus():
    mesh = trimesh.creation.torus(0.35, 0.12)
    true = 0.12 - np.hypot(np.hypot(X[:, 0], X[:, 1]) - 0.35, X[:, 2])
    found, _ = solid(mesh).nearest(X)
    assert np.sqrt(np.mean((found - true) ** 2)) < 2e-3  # 32 x 32 sections
    assert np.mean(found > 0) == pytest.approx(np.mean(true > 0), rel=0.02)


@pytest.mark.parametrize("kept", [0.9, 0.6])
def test_holes_are_closed(ball, kept):
    """A tenth or two fifths of the triangles are missing, here and there."""
    faces = ball.faces[np.random.default_rng(0).random(len(ball.faces)) < kept]
    true = 0.4 - np.linalg.norm(X, axis=1)
    found, _ = solid(ball, faces).nearest(X)
    assert np.mean((found > 0) != (true > 0)) < 2e-3


def test_a_missing_cap_is_closed_smoothly(ball):
    faces = ball.faces[ball.triangles_center[:, 1] < 0.3]
    mesh = solid(ball, faces)
    assert mesh.winding(np.array([[0.0, -0.1, 0.0]]))[0] > 0.8
    assert mesh.winding(np.array([[0.0, 0.6, 0.0]]))[0] < 0.2
    true = 0.4 - np.linalg.norm(X, axis=1)
    wrong = (mesh.nearest(X)[0] > 0) != (true > 0)
    assert wrong.mean() < 0.01
    assert X[wrong & (np.abs(true) > 2e-3), 1].min() > 0.1  # the cap alone


def test_inside_out_is_turned_round(ball):
    found, turned = (solid(ball, faces).nearest(X)[0] for faces in (ball.faces, ball.faces[:, ::-1]))
    assert np.mean((found > 0) != (turned > 0)) < 1e-3


def test_a_sheet_holds_nothing():
    square = trimesh.Trimesh([[-0.5, 0, -0.5], [0.5, 0, -0.5], [0.5, 0, 0.5], [-0.5, 0, 0.5]], [[0, 2, 1], [0, 3, 2]])
    found, _ = solid(square).nearest(X)
    assert (np.abs(X[found > 0, 1]) < 2 * 2 * BOUND / 96).all()


def test_samples_are_even_by_area(ball):
    box = trimesh.creation.box(extents=(3.0, 2.0, 1.0))
    found = sample_triangles(box.vertices, box.faces, 22_000, 0)
    share = np.bincount(found.face, minlength=12) / 22_000
    assert np.abs(share - box.area_faces / box.area).max() < 1e-3
    assert found.area * 22_000 == pytest.approx(box.area)
    corners = (box.vertices[box.faces[found.face]] * found.barycentric[..., None]).sum(1)
    assert np.allclose(corners, found.position) and np.allclose(found.normal, box.face_normals[found.face])


def test_triangles_without_area_have_no_sample():
    mesh = trimesh.creation.box()
    faces = np.concatenate([np.array([[0, 0, 1]]), mesh.faces, np.array([[2, 2, 2]])])
    found = sample_triangles(mesh.vertices, faces, 1000, 0)
    assert found.face.min() >= 1 and found.face.max() <= 12 and np.isfinite(found.normal).all()
