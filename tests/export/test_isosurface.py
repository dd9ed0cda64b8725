"""Sampling, the iso-level rule, and closed meshes with outward faces."""

import math

import numpy as np
import pytest
import torch
from support.analytic import ball, solid, toy, union

from dreamfusion_ngp.base.errors import ExportError, UsageError
from dreamfusion_ngp.export.isosurface import (
    Mesh,
    decimate,
    extract_mesh,
    is_closed,
    marching_cubes,
    outer_shells,
    signed_volume,
    taubin,
    vertex_normals,
)
from dreamfusion_ngp.scene.isolevel import CREST, LEVEL, iso_level, query, sample_grid
from dreamfusion_ngp.toybox.world.shapes import CLASSES

BOUND = 0.75


def area(mesh):
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    return np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2


@pytest.fixture(scope="module")
def sphere():
    return extract_mesh(solid(ball((0.1, -0.05, 0.2), 0.4)), BOUND, resolution=64, faces=0)


def test_a_sphere_has_its_volume_area_and_place(sphere):
    mesh, stats = sphere
    assert stats["volume"] == pytest.approx(4 / 3 * math.pi * 0.4**3, rel=0.01)
    assert area(mesh) == pytest.approx(4 * math.pi * 0.4**2, rel=0.01)
    distance = np.linalg.norm(mesh.vertices - [0.1, -0.05, 0.2], axis=1)
    assert np.abs(distance - 0.4).max() < 0.1 * 1.5 / 64
    assert stats["level"] == LEVEL and stats["pieces"] == 1 and stats["touches_bound"] == 0


def test_faces_and_normals_point_outwards(sphere):
    mesh, stats = sphere
    assert stats["watertight"] and is_closed(mesh)
    inside_out = Mesh(mesh.vertices, mesh.faces[:, ::-1])
    assert signed_volume(mesh) > 0 > signed_volume(inside_out)
    outward = mesh.vertices - [0.1, -0.05, 0.2]
    cosine = (vertex_normals(mesh) * outward).sum(1) / np.linalg.norm(outward, axis=1)
    assert cosine.min() > 0.97


def test_is_closed_sees_a_missing_a_doubled_and_a_turned_face(sphere):
    mesh, _ = sphere
    f = mesh.faces
    assert not is_closed(Mesh(mesh.vertices, f[1:]))
    assert not is_closed(Mesh(mesh.vertices, np.concatenate([f, f[:1]])))
    assert not is_closed(Mesh(mesh.vertices, np.concatenate([f[:1, ::-1], f[1:]])))
    assert not is_closed(Mesh(mesh.vertices, f[:0]))


@pytest.mark.parametrize("name", CLASSES)
def test_every_toy_becomes_a_closed_mesh_within_the_face_budget(name):
    mesh, stats = extract_mesh(toy(name), BOUND, resolution=72, faces=4000)
    assert stats["watertight"] and stats["volume"] > 0.02
    assert 3000 < stats["faces"] <= 4000
    full = marching_cubes(sample_grid(toy(name), BOUND, 72), LEVEL, BOUND)
    assert stats["volume"] == pytest.approx(signed_volume(outer_shells(full, False)[0]), rel=0.01)
    assert np.isfinite(mesh.vertices).all() and mesh.faces.max() == len(mesh.vertices) - 1


def test_a_noisy_field_becomes_a_closed_mesh():
    random = np.random.default_rng(0)
    grid = np.exp(random.normal(0, 2, (24, 24, 24))).astype(np.float32)
    mesh = marching_cubes(grid, 1.0, BOUND)
    start, end = mesh.faces.ravel(), np.roll(mesh.faces, -1, 1).ravel()
    n = len(mesh.vertices)
    assert (np.sort(start * n + end) == np.sort(end * n + start)).all()
    assert signed_volume(mesh) > 0


def test_a_solid_cut_by_the_cube_is_closed_there():
    mesh, stats = extract_mesh(solid(ball((0.0, 0.0, 0.0), 0.8)), BOUND, resolution=32)
    assert stats["watertight"] and stats["touches_bound"] > 0.05
    assert np.abs(mesh.vertices).max() <= BOUND * (1 + 1 / 32)
    _, stats = extract_mesh(lambda x: torch.full((len(x),), 50.0), BOUND, resolution=16)
    assert stats["watertight"] and stats["touches_bound"] == 1.0
    assert stats["volume"] == pytest.approx(1.5**3, rel=0.06)


def test_a_thin_field_gets_a_lower_level_that_shows_it():
    def density(x):
        return 0.3 * torch.sigmoid(-100 * ball((0.0, 0.0, 0.0), 0.5)(x))

    _, stats = extract_mesh(density, BOUND, resolution=48)
    assert stats["level"] == pytest.approx(CREST * 0.3, rel=0.01)
    assert stats["volume"] == pytest.approx(4 / 3 * math.pi * 0.5**3, rel=0.05)


def test_a_dense_speck_in_a_thin_object_does_not_become_the_object():
    def density(x):
        return 2.0 * (ball((0.0, 0.0, 0.0), 0.5)(x) < 0).float() + 50.0 * (ball((0.0, 0.0, 0.0), 0.06)(x) < 0).float()

    assert extract_mesh(density, BOUND, resolution=48)[1]["volume"] > 0.4


@pytest.mark.parametrize("amount", [0.0, 1e-9, 0.02])
def test_an_empty_field_is_refused_with_the_reason(amount):
    with pytest.raises(ExportError, match="empty: its densest ray has an opacity of 0.0"):
        extract_mesh(lambda x: torch.full((len(x),), amount), BOUND, resolution=16)


def test_the_level_does_not_depend_on_the_resolution():
    levels = [iso_level(sample_grid(toy("chair", most=3.0), BOUND, r), 1.5 / r) for r in (32, 64, 100)]
    assert levels == pytest.approx([CREST * 3.0] * 3, rel=0.05)
    assert {iso_level(sample_grid(toy("chair"), BOUND, r), 1.5 / r) for r in (32, 64, 100)} == {LEVEL}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_field_that_is_not_finite_is_refused(bad):
    def density(x):
        return torch.where(x[:, 0] > 0.7, bad, toy("mug")(x))

    with pytest.raises(ExportError, match="not finite at .* diverged"):
        extract_mesh(density, BOUND, resolution=32)


@pytest.mark.parametrize("resolution", [0, 7, 513, 100000])
def test_a_resolution_out_of_bounds_is_refused_before_anything_is_allocated(resolution):
    with pytest.raises(UsageError, match="between 8 and 512"):
        sample_grid(lambda x: 1 / 0, BOUND, resolution)


def test_the_grid_is_indexed_x_y_z_and_asked_in_bounded_chunks():
    asked = []

    def density(x):
        asked.append(len(x))
        assert x.dtype == torch.float32
        return x[:, 0] + 10 * x[:, 1] + 100 * x[:, 2]

    grid = sample_grid(density, 1.0, 100)
    assert max(asked) <= 1 << 18 and sum(asked) == 100**3
    assert grid[99, 0, 50] == pytest.approx(0.99 - 9.9 + 1.0, abs=1e-4)


def test_query_keeps_the_order_over_chunks():
    points = np.random.default_rng(0).random(((1 << 18) + 7, 3))
    assert np.array_equal(query(lambda x: x[:, 1], points), points[:, 1].astype(np.float32))


TWO = union(ball((-0.3, 0.0, 0.0), 0.3), ball((0.45, 0.0, 0.0), 0.15))


def test_only_the_largest_piece_is_kept_unless_all_are_wanted():
    mesh, stats = extract_mesh(solid(TWO), BOUND, resolution=48)
    assert stats["pieces"] == 2 and mesh.vertices[:, 0].max() < 0.05
    assert stats["left_out"] == pytest.approx(1 / 9, rel=0.05), "an eighth of the other"
    everything, stats = extract_mesh(solid(TWO), BOUND, resolution=48, keep_all=True)
    assert stats["pieces"] == 2 and everything.vertices[:, 0].max() > 0.55 and stats["left_out"] == 0
    assert stats["volume"] == pytest.approx(4 / 3 * math.pi * (0.3**3 + 0.15**3), rel=0.02)


@pytest.mark.parametrize("keep_all", [False, True])
def test_the_wall_of_a_closed_cavity_is_dropped(keep_all):
    hollow = solid(lambda x: (ball((0.0, 0.0, 0.0), 0.4)(x)).abs() - 0.06)
    _, stats = extract_mesh(hollow, BOUND, resolution=64, keep_all=keep_all)
    assert stats["watertight"] and stats["pieces"] == 1
    assert stats["volume"] == pytest.approx(4 / 3 * math.pi * 0.46**3, rel=0.02)


def test_decimation_leaves_a_small_mesh_alone_and_a_large_one_closed(sphere):
    mesh, _ = sphere
    assert decimate(mesh, len(mesh.faces)) is mesh
    small = decimate(mesh, 500)
    assert is_closed(small) and 450 <= len(small.faces) <= 500
    assert signed_volume(small) == pytest.approx(signed_volume(mesh), rel=0.02)


def test_taubin_smoothing_removes_noise_and_keeps_the_volume(sphere):
    mesh, _ = sphere
    noise = np.random.default_rng(0).normal(0, 0.005, mesh.vertices.shape)
    rough = Mesh(mesh.vertices + noise, mesh.faces)
    smooth = taubin(rough, 10)

    def roughness(m):
        return np.linalg.norm(m.vertices - [0.1, -0.05, 0.2], axis=1).std()

    assert roughness(smooth) < 0.5 * roughness(rough)
    assert signed_volume(smooth) == pytest.approx(signed_volume(mesh), rel=0.01)
    assert is_closed(smooth)
