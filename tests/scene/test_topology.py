"""Holes, flipped and degenerate faces, counted on meshes whose faults are known."""

import numpy as np
import pytest
from support.imported_meshes import mesh
from support.mesh_files import BODY, BOX, box

from dreamfusion_ngp.scene.topology import Edges, examine_topology, weld

BODY_VERTICES = box(*BODY) / 5


def report(faces, vertices=BODY_VERTICES):
    return examine_topology(mesh(vertices, faces))


def counts(faces, vertices=BODY_VERTICES) -> dict:
    """The counts that are not 0, but for those of faces, vertices and pieces."""
    found = vars(report(faces, vertices))
    return {key: one for key, one in found.items() if one and key not in ("faces", "vertices", "pieces")}


def test_a_closed_box_has_no_faults():
    found = report(BOX)
    assert counts(BOX) == {} and found.complaints() == [] and (found.faces, found.vertices, found.pieces) == (12, 8, 1)


def test_seams_and_unshared_vertices_are_no_holes():
    vertices = BODY_VERTICES[BOX].reshape(-1, 3)
    vertices[::2] += np.float32(1e-8)  # as of sin 2 pi
    assert counts(np.arange(36).reshape(-1, 3), vertices) == {}


def test_holes():
    assert counts(BOX[2:]) == {"holes": 1, "boundary_edges": 4}
    assert counts(BOX[[k for k in range(12) if k not in (0, 1, 2, 3)]]) == {"holes": 2, "boundary_edges": 8}
    assert report(BOX[1:]).complaints() == ["1 hole (3 edges of one triangle)"]


@pytest.mark.parametrize("turned", [[0], [3, 4], [2, 3, 6, 7, 10], list(range(6)), list(range(1, 12))])
def test_flipped_faces_are_those_that_are_fewer(turned):
    faces = BOX.copy()
    faces[turned] = faces[turned][:, [0, 2, 1]]
    found = counts(faces)
    fewer = min(len(turned), 12 - len(turned))
    assert found.pop("flipped") == fewer
    assert found == ({"inside_out": 12} if len(turned) > 6 else {}) or len(turned) == 6


def test_a_box_inside_out():
    assert counts(BOX[:, ::-1]) == {"inside_out": 12}
    two = np.concatenate([BOX, BOX[:, ::-1] + 8])
    assert counts(two, np.concatenate([BODY_VERTICES, BODY_VERTICES + 2])) == {"inside_out": 12}


def test_edges_of_more_than_two_faces():
    fin = np.array([[0, 1, 8]])
    assert counts(np.concatenate([BOX, fin]), [*BODY_VERTICES, [9, 9, 9]]) == {
        "non_manifold_edges": 1,
        "holes": 1,
        "boundary_edges": 2,
    }


def test_degenerate_and_duplicate_faces():
    faces = [*BOX.tolist(), [0, 0, 1], [2, 2, 2], BOX[3].tolist(), BOX[4][[1, 2, 0]].tolist(), BOX[5][::-1].tolist()]
    assert counts(faces) == {"degenerate": 2, "duplicate": 3}
    line = np.array([[0, 0, 0], [0.3, 0.1, 0], [0.6, 0.2, 0]])
    assert counts([[0, 1, 2]], line)["degenerate"] == 1


def test_a_moebius_strip_has_one_side():
    n = 12
    t = np.arange(n) / n * 2 * np.pi
    rim = [
        np.stack([np.cos(t) * (1 + s * np.cos(t / 2)), np.sin(t) * (1 + s * np.cos(t / 2)), s * np.sin(t / 2)], -1)
        for s in (-0.3, 0.3)
    ]
    low, high = np.arange(n), np.arange(n) + n
    after_low, after_high = np.append(low[1:], high[0]), np.append(high[1:], low[0])
    faces = np.concatenate([np.stack([low, after_low, high], -1), np.stack([after_low, after_high, high], -1)])
    found = counts(faces, np.concatenate(rim))
    assert found["one_sided"] == 2 * n and found["holes"] == 1 and "flipped" not in found


def test_all_faces_degenerate():
    assert counts([[0, 0, 1], [3, 3, 3]]) == {"degenerate": 2}


def test_counts_do_not_depend_on_the_order_of_faces_or_corners():
    rng = np.random.default_rng(0)
    faces = np.concatenate([BOX[2:], BOX[3:4], [[0, 1, 8]]])
    vertices = [*BODY_VERTICES, [9, 9, 9]]
    wanted = counts(faces, vertices)
    for _ in range(5):
        mixed = np.array([np.roll(face, rng.integers(3)) for face in rng.permutation(faces)])
        assert counts(mixed, vertices) == wanted


def test_welding_joins_what_is_at_one_place():
    points = np.array(
        [[0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [0.1, 0.2, 0.30001], [-0.0, 0, 0], [0, 0, -1e-12], [0.5, 0.5, 0.5]]
    )
    number = weld(points, 0.5)
    assert number[0] == number[1] != number[2] and number[3] == number[4] and len(set(number.tolist())) == 4


def test_a_grid_of_many_faces_against_a_slow_count():
    """Random triangles with shared vertices: edges counted by a dictionary."""
    rng = np.random.default_rng(1)
    faces = rng.integers(0, 40, (300, 3))
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])]
    faces = np.unique(np.sort(faces, axis=1), axis=0)
    uses = {}
    for face in faces.tolist():
        for a, b in ((0, 1), (1, 2), (2, 0)):
            uses[tuple(sorted((face[a], face[b])))] = uses.get(tuple(sorted((face[a], face[b]))), 0) + 1
    edges = Edges(faces)
    assert (edges.uses == 1).sum() == sum(one == 1 for one in uses.values())
    assert len(np.unique(edges.number[edges.uses > 2])) == sum(one > 2 for one in uses.values())
