"""Polygons of OBJ and PLY as triangles: those of a concave one lie inside of it."""

import numpy as np
import pytest
from support.mesh_files import read

from dreamfusion_ngp.importer.polygons import triangulated

L = [(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)]
ARROW = [(0, 0), (2, -1), (0.5, 0), (2, 1)]
COMB = [(0, 0), (7, 0), (7, 3), (6, 3), (6, 1), (5, 1), (5, 3), (4, 3), (4, 1), (1, 1), (1, 3), (0, 3)]
RING = [(0, 0), (3, 0), (3, 3), (0, 3), (0, 0), (1, 1), (1, 2), (2, 2), (2, 1), (1, 1)]  # with a slit to its hole


def area(polygon) -> float:
    x, y = np.array(polygon, float).T
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def tilted(polygon, turn: np.ndarray) -> np.ndarray:
    return np.concatenate([polygon, np.zeros((len(polygon), 1))], 1) @ turn.T


@pytest.mark.parametrize("polygon", [L, ARROW, COMB, RING])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_no_triangle_leaves_its_polygon(polygon, backwards, seed):
    """From every corner on, in any direction: areas, all on one side, add up to that of the polygon."""
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    for start in range(len(polygon)):
        order = np.roll(polygon, start, 0)[:: -1 if backwards else 1]
        corner = tilted(order, turn)
        places, _ = triangulated(corner, np.array([len(order)]))
        a, b, c = (corner[places[:, k]] for k in range(3))
        normal = np.cross(b - a, c - a)
        assert (normal @ normal.sum(0) > -1e-9).all()
        assert np.linalg.norm(normal, axis=1).sum() / 2 == pytest.approx(area(polygon))
        assert sorted(set(places.ravel().tolist())) == list(range(len(order))) or polygon is RING


def test_convex_polygons_stay_fans_and_all_stay_in_order():
    pentagon = [(np.cos(k), np.sin(k)) for k in np.arange(5) * 2 * np.pi / 5]
    polygons = [pentagon, [*ARROW[1:], ARROW[0]], pentagon[:3], L, pentagon]
    corner = np.concatenate([tilted(one, np.eye(3)) for one in polygons])
    places, polygon = triangulated(corner, np.array([5, 4, 3, 6, 5]))
    assert polygon.tolist() == [0] * 3 + [1] * 2 + [2] + [3] * 4 + [4] * 3
    assert places[:3].tolist() == [[0, 1, 2], [0, 2, 3], [0, 3, 4]] and places[5].tolist() == [9, 10, 11]
    assert places[3:5].tolist() == [[6, 7, 8], [6, 8, 5]]


def test_what_crosses_itself_or_is_huge_stays_a_fan(monkeypatch):
    star = [(np.cos(k), np.sin(k)) for k in np.arange(5) * 4 * np.pi / 5]
    saw = [(k, k % 2) for k in range(40)] + [(40, 9), (0, 9)]
    for polygon in (star, saw):
        monkeypatch.setattr("dreamfusion_ngp.importer.polygons.MOST_CORNERS", 20)
        places, _ = triangulated(tilted(polygon, np.eye(3)), np.array([len(polygon)]))
        assert len(places) == len(polygon) - 2
    assert (places[:, 0] == 0).all()


def test_an_obj_and_a_ply_with_a_concave_face(tmp_path):
    rows = "".join(f"v {x} {y} 0\n" for x, y in L)
    turned = [2, 3, 4, 5, 0, 1]  # of which the fan leaves the polygon
    obj = read(tmp_path, (rows + "f " + " ".join(str(k + 1) for k in turned) + "\n").encode(), "l.obj")
    head = "ply\nformat ascii 1.0\nelement vertex 6\nproperty float x\nproperty float y\nproperty float z\n"
    head += "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    rows = "".join(f"{x} {y} 0\n" for x, y in L)
    ply = read(tmp_path, (head + rows + "6 " + " ".join(str(k) for k in turned) + "\n").encode(), "l.ply")
    for mesh in (obj, ply):
        a, b, c = (mesh.vertices[mesh.faces[:, k]].astype(np.float64) for k in range(3))
        assert np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2 == pytest.approx(3 / 4, rel=1e-5)
