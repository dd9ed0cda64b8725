"""The state of UVs: overlaps by an exact count of texel centres, against a slow one."""

from dataclasses import replace

import numpy as np
import pytest
from support.imported_meshes import mesh
from support.mesh_files import atlas_uv

from dreamfusion_ngp.scene.imported import Part
from dreamfusion_ngp.scene.uvs import SUBTEXELS, examine_uvs, texel_counts


def with_uv(corners, **options):
    """A mesh of triangles with these UVs (F, 3, 2)."""
    corners = np.asarray(corners, np.float32)
    faces = np.arange(3 * len(corners)).reshape(-1, 3)
    rng = np.random.default_rng(0)
    plain = mesh(rng.random((3 * len(corners), 3)), faces)
    return replace(plain, uv=corners.reshape(-1, 2), uv_faces=faces.astype(np.int32), **options)


def slow_counts(corner, size: int) -> np.ndarray:
    """Each texel centre against each triangle, by signs of whole numbers, repeated over the neighbouring images."""
    counts = np.zeros((size, size), int)
    unit = size * SUBTEXELS
    center = (np.arange(size) * 2 + 1) * (SUBTEXELS // 2)
    for triangle in np.rint(np.asarray(corner, np.float64) * unit).astype(int).tolist():
        (ax, ay), (bx, by), (cx, cy) = triangle
        if (bx - ax) * (cy - ay) - (by - ay) * (cx - ax) < 0:
            triangle = [triangle[0], triangle[2], triangle[1]]
        elif (bx - ax) * (cy - ay) == (by - ay) * (cx - ax):
            continue
        for tile_x in range(-3, 4):
            for tile_y in range(-3, 4):
                x, y = np.meshgrid(center + tile_x * unit, center + tile_y * unit)
                inside = np.ones((size, size), bool)
                for (px, py), (qx, qy) in zip(triangle, triangle[1:] + triangle[:1], strict=True):
                    side = (qx - px) * (y - py) - (qy - py) * (x - px)
                    owns = qy < py or (qy == py and qx < px)
                    inside &= side >= 0 if owns else side > 0
                counts += inside
    return counts


@pytest.mark.parametrize("scale", [0.05, 0.3, 0.99])
def test_counts_are_those_of_the_slow_way(scale):
    rng = np.random.default_rng(0)
    corner = rng.random((40, 1, 2)) * 3 - 1 + rng.random((40, 3, 2)) * scale
    corner[:5] = np.round(corner[:5] * 16) / 16  # corners and edges on texel borders, and through centres
    corner[5:10] = np.round(corner[5:10] * 32) / 32
    assert np.array_equal(texel_counts(corner, 16), slow_counts(corner, 16))


def test_neighbours_share_no_texel():
    """A grid of random points, its triangles, some of them thin: every texel exactly once."""
    from scipy.spatial import Delaunay

    rng = np.random.default_rng(0)
    points = np.concatenate([rng.random((300, 2)), [[0, 0], [0, 1], [1, 0], [1, 1]]])
    points = np.concatenate([points, np.round(rng.random((200, 2)) * 64) / 64])
    corner = points[Delaunay(points).simplices]
    fixed = np.rint(corner * 64 * SUBTEXELS)
    ab, ac = fixed[:, 1] - fixed[:, 0], fixed[:, 2] - fixed[:, 0]
    straight = np.sign(ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0])
    counts = texel_counts(corner, 64)
    assert (counts == 1).mean() > 0.999 if (straight <= 0).any() else (counts == 1).all()


def test_a_good_atlas():
    report = examine_uvs(with_uv(atlas_uv(12).reshape(-1, 3, 2)), 0)
    assert (report.faces, report.missing, report.outside, report.degenerate, report.tiled) == (12, 0, 0, 0, 0)
    assert report.overlap == 0 and report.size == 1024 and report.mirrored == 12
    assert report.coverage == pytest.approx(12 * 0.32 / 16, abs=5e-3)
    assert report.complaints() == []


def test_overlaps():
    triangle = [[0.1, 0.1], [0.9, 0.1], [0.1, 0.9]]
    moved = [[0.1, 0.1], [0.5, 0.1], [0.1, 0.5]]
    assert examine_uvs(with_uv([triangle, triangle]), 0).overlap == 1
    report = examine_uvs(with_uv([triangle, moved]), 0)
    assert report.overlap == pytest.approx(0.25, abs=0.002)
    assert report.complaints()[0].startswith("25.") and report.complaints()[0].endswith("is used more than once")
    mirrored = [moved[0], moved[2], moved[1]]
    report = examine_uvs(with_uv([triangle, mirrored]), 0)
    assert report.mirrored == 1 and report.overlap == pytest.approx(0.25, abs=0.002)


def test_the_image_is_repeated():
    triangle = np.array([[0.1, 0.1], [0.6, 0.1], [0.1, 0.6]])
    report = examine_uvs(with_uv([triangle, triangle + np.array([3, -2])]), 0)
    assert report.overlap == 1 and report.outside == 1
    report = examine_uvs(with_uv([triangle + 0.7]), 0)
    assert report.overlap == 0 and report.outside == 1 and report.coverage == pytest.approx(0.125, abs=0.002)
    report = examine_uvs(with_uv([triangle * 2.5]), 0)
    assert report.tiled == 1 and "larger than the texture" in report.complaints()[0]


def test_rounding_at_the_border_is_not_outside():
    assert examine_uvs(with_uv([[[-1e-6, 0], [1.0000001, 0], [0, 1]]]), 0).outside == 0


def test_missing_and_degenerate():
    found = with_uv([[[0.1, 0.1]] * 3, [[0, 0], [0.5, 0.5], [1, 1]], [[0, 0], [1, 0], [0, 1]]])
    assert examine_uvs(found, 0).degenerate == 2
    found.uv_faces[2] = -1
    report = examine_uvs(found, 0)
    assert report.missing == 1 and report.coverage == 0 and report.overlap == 0


def test_copies_of_a_part_do_not_count_against_it():
    triangle = [[0.1, 0.1], [0.9, 0.1], [0.1, 0.9]]
    parts = (Part("a"), Part("b", copy_of=0))
    found = with_uv([triangle, triangle], parts=parts, face_part=np.array([0, 1], np.int32))
    report = examine_uvs(found, 0)
    assert report.faces == 1 and report.overlap == 0


def test_a_million_triangles_that_fill_the_texture_end_soon(monkeypatch):
    """The map becomes smaller; counts stay right."""
    monkeypatch.setattr("dreamfusion_ngp.scene.uvs.MAX_ROWS", 100_000)
    triangle = np.array([[0, 0], [1, 0], [0, 1.0]])
    report = examine_uvs(with_uv(np.repeat(triangle[None], 500, 0)), 0)
    assert report.size == 128 and report.overlap == 1 and report.coverage == pytest.approx(0.5, abs=0.01)
