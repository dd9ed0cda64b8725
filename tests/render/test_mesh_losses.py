"""Regularisers of surfaces: known values, gradients, the direction in which they pull."""

import math

import numpy as np
import pytest
import torch
import trimesh
from torch.autograd import gradcheck

from dreamfusion_ngp.render.mesh_losses import consistency_loss, laplacian_loss, sign_change_loss
from dreamfusion_ngp.scene.surface import vertex_normals


def tensors(mesh, dtype=torch.float64):
    return torch.tensor(np.array(mesh.vertices), dtype=dtype), torch.tensor(np.array(mesh.faces), dtype=torch.int32)


def smoothness(x, faces):
    return consistency_loss(vertex_normals(x, faces), faces)


def test_consistency_of_a_tetrahedron():
    """Normals at the corners of a regular one point along them: the angle between two has cosine -1/3."""
    x = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    faces = torch.tensor([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]], dtype=torch.int32)
    assert float(smoothness(x, faces)) == pytest.approx(4 / 3)


def test_consistency_falls_with_the_squared_angle():
    losses = [float(smoothness(*tensors(trimesh.creation.icosphere(subdivisions=k)))) for k in (2, 3, 4)]
    assert losses[0] / losses[1] == pytest.approx(4, rel=0.1) and losses[1] / losses[2] == pytest.approx(4, rel=0.1)


def test_laplacian_of_an_octahedron():
    """Each corner's neighbours have their middle at the centre: distance 1."""
    x, faces = tensors(trimesh.creation.icosphere(subdivisions=0))
    octahedron = torch.cat([torch.eye(3), -torch.eye(3)]).double()
    sides = [[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2], [1, 0, 5], [3, 1, 5], [4, 3, 5], [0, 4, 5]]
    assert float(laplacian_loss(octahedron, torch.tensor(sides).int())) == pytest.approx(1.0)
    # An icosahedron's five neighbours of a corner lie at cosine 1 / sqrt(5).
    assert float(laplacian_loss(x, faces)) == pytest.approx((1 - 1 / math.sqrt(5)) ** 2)


def test_both_smooth_a_dented_ball():
    x, faces = tensors(trimesh.creation.icosphere(subdivisions=3))
    generator = torch.Generator().manual_seed(0)
    rough = x * (1 + 0.02 * torch.randn(len(x), 1, generator=generator, dtype=torch.float64))
    for loss in (smoothness, laplacian_loss):
        moved = rough.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(moved, faces), moved)
        step = rough - 1e-3 * gradient / gradient.abs().max()
        assert float(loss(step, faces)) < float(loss(rough, faces))
        assert float(loss(x, faces)) < float(loss(rough, faces))


def test_sign_change():
    value = torch.tensor([1.0, -2.0, 3.0, 0.0], dtype=torch.float64)
    edges = torch.tensor([[0, 1], [0, 2], [1, 3], [2, 3]])  # crossed: 0-1, 2-3; 0 counts as outside

    def entropy(logit, truth):
        p = 1 / (1 + math.exp(-logit))
        return -math.log(p if truth else 1 - p)

    want = entropy(1, False) + entropy(-2, True) + entropy(3, False) + entropy(0, True)
    assert float(sign_change_loss(value, edges)) == pytest.approx(want / 2)
    assert float(sign_change_loss(value.abs() + 1, edges)) == 0.0


def test_gradcheck():
    x, faces = tensors(trimesh.creation.icosphere(subdivisions=1))
    generator = torch.Generator().manual_seed(2)
    x = (x + 0.1 * torch.rand(x.shape, generator=generator, dtype=torch.float64)).requires_grad_()
    assert gradcheck(lambda v: smoothness(v, faces), x) and gradcheck(lambda v: laplacian_loss(v, faces), x)
    value = torch.randn(20, generator=generator, dtype=torch.float64, requires_grad=True)
    edges = torch.randint(0, 20, (40, 2), generator=generator)
    assert gradcheck(lambda s: sign_change_loss(s, edges), value)


def test_nothing():
    none = torch.zeros(0, 3, requires_grad=True)
    faces = torch.zeros(0, 3, dtype=torch.int32)
    total = smoothness(none, faces) + laplacian_loss(none, faces)
    total = total + sign_change_loss(torch.ones(4), torch.zeros(0, 2, dtype=torch.int64))
    assert float(total) == 0 and torch.autograd.grad(total, none)[0].shape == (0, 3)
