"""Handles, holes and pieces of surfaces that are known; the triangles that a smooth and a rough one need."""

import numpy as np
import pytest
import torch
from support.analytic import ball, solid, toy, union

from dreamfusion_ngp.evaluation.metrics.topology import GENUS, Topology, faces_needed, topology
from dreamfusion_ngp.export.isosurface import Mesh, decimate, extract_mesh
from dreamfusion_ngp.toybox.world.shapes import CLASSES

BOUND = 0.75


def mesh_of(density, **options):
    return extract_mesh(density, BOUND, resolution=options.pop("resolution", 64), faces=0, keep_all=True, **options)[0]


def ring(centre, axis, major=0.25, minor=0.06):
    def distance(x):
        q = x - torch.tensor(centre)
        along = q[:, axis]
        radial = (q.square().sum(-1) - along.square()).clamp(min=1e-12).sqrt()
        return ((radial - major).square() + along.square()).sqrt() - minor

    return distance


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        (ball((0.0, 0.0, 0.0), 0.4), Topology(1, 0, 0)),
        (ring((0.0, 0.0, 0.0), 1), Topology(1, 1, 0)),
        (union(ball((-0.35, 0.0, 0.0), 0.2), ball((0.35, 0.0, 0.0), 0.2)), Topology(2, 0, 0)),
        (union(ring((-0.2, 0.0, 0.0), 2, 0.2), ring((0.2, 0.0, 0.0), 2, 0.2)), Topology(1, 2, 0)),
        (union(ring((-0.3, 0.0, 0.0), 1, 0.2, 0.05), ring((0.4, 0.0, 0.0), 1, 0.2, 0.05)), Topology(2, 2, 0)),
    ],
    ids=["ball", "torus", "two balls", "figure eight", "two rings"],
)
def test_known_solids(shape, wanted):
    assert topology(mesh_of(solid(shape))) == wanted
    assert topology(decimate(mesh_of(solid(shape)), 2000)) == wanted


def test_a_hole_is_no_handle():
    ball_mesh = mesh_of(solid(ball((0.0, 0.0, 0.0), 0.4)))
    centre = ball_mesh.vertices[ball_mesh.faces].mean(1)
    pierced = Mesh(ball_mesh.vertices, ball_mesh.faces[centre[:, 1] < 0.35])
    assert topology(pierced) == Topology(1, 0, 1)
    tube = Mesh(ball_mesh.vertices, ball_mesh.faces[np.abs(centre[:, 1]) < 0.35])
    assert topology(tube) == Topology(1, 0, 2)


def test_pieces_that_touch_in_a_vertex_are_two():
    tetrahedron = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])
    corners = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    second = np.array([0, 4, 5, 6])[tetrahedron]
    both = Mesh(np.concatenate([corners, -corners[1:]]), np.concatenate([tetrahedron, second]))
    assert topology(both) == Topology(2, 0, 0)
    assert topology(Mesh(corners, tetrahedron[:1])) == Topology(1, 0, 1)
    assert topology(Mesh(corners, tetrahedron[:0])) == Topology(0, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSES)
def test_the_genus_of_every_toy_is_that_of_its_exact_surface(name):
    mesh = extract_mesh(toy(name), BOUND, resolution=128, faces=0)[0]
    assert topology(mesh) == Topology(1, GENUS.get(name, 0), 0)


def test_the_genus_of_the_mug():
    mesh = extract_mesh(toy("mug"), BOUND, resolution=96, faces=0)[0]
    assert topology(mesh) == Topology(1, GENUS["mug"], 0)


def test_a_rough_surface_needs_more_triangles():
    smooth = ball((0.0, 0.0, 0.0), 0.4)

    def rough(x):
        return smooth(x) + 0.012 * (60 * x).sin().sum(-1)

    fine, coarse = (faces_needed(mesh_of(solid(shape), resolution=96)) for shape in (smooth, rough))
    assert fine <= 2000 and coarse >= 2 * fine
    assert faces_needed(extract_mesh(toy("cube"), BOUND, resolution=96)[0]) <= 250
    few = decimate(mesh_of(solid(smooth)), 300)
    assert faces_needed(few) <= len(few.faces)
