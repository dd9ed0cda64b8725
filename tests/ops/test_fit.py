"""What the gradient of silhouettes is for: pose and shape of a known mesh found again from pictures of its outline."""

import math

import numpy as np
import pytest
import torch
import trimesh

from dreamfusion_ngp.ops.antialias import antialias
from dreamfusion_ngp.ops.rasterise import rasterise
from dreamfusion_ngp.scene.cameras import clip_matrices, orbit

SIZE, SAMPLES = 64, 2
CAMERAS = orbit(range(0, 360, 45), [20, -15, 40, 0, -30, 15, 50, -5], 2.2, 1.2)


def odd_shape():
    """Two balls and a box: no turn but none at all leaves it as it is. Its longest side is about 1."""
    parts = [trimesh.creation.icosphere(subdivisions=2, radius=0.28)]
    parts.append(trimesh.creation.box(extents=(0.5, 0.14, 0.2)))
    parts[-1].apply_translation([0.35, 0.1, 0.0])
    parts.append(trimesh.creation.icosphere(subdivisions=2, radius=0.16))
    parts[-1].apply_translation([0.0, 0.35, 0.18])
    mesh = trimesh.util.concatenate(parts)
    vertices = torch.tensor(np.array(mesh.vertices), dtype=torch.float32)
    return vertices - vertices.mean(0), torch.tensor(np.array(mesh.faces), dtype=torch.int32)


def masks(vertices, faces):
    """(8, SIZE, SIZE) how much of each pixel is covered."""
    homogeneous = torch.cat([vertices, torch.ones_like(vertices[:, :1])], 1)
    position = torch.einsum("bij,vj->bvi", clip_matrices(CAMERAS, 0.1, 10.0), homogeneous)
    high = (SIZE * SAMPLES, SIZE * SAMPLES)
    fragments = rasterise(position, faces, high)
    return antialias((fragments.face >= 0).float()[..., None], position, faces, fragments, samples=SAMPLES)[..., 0]


def turned(vector):
    """(3, 3) rotation about a vector by its length (Rodrigues)."""
    x, y, z = vector.unbind()
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).view(3, 3)
    return torch.linalg.matrix_exp(cross)


def fitted(parameters, vertices_of, faces, truth, steps, rate):
    optimiser = torch.optim.Adam(parameters, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, rate * 0.01)
    for _ in range(steps):
        loss = (masks(vertices_of(), faces) - truth).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return vertices_of().detach()


def test_pose_from_silhouettes():
    """Turned by 20 degrees, moved by a tenth and shrunk to .85, the mesh comes back to within .5 % of its size."""
    vertices, faces = odd_shape()
    truth = masks(vertices, faces)
    turn = torch.tensor([0.2, -0.22, 0.18], requires_grad=True)
    move = torch.tensor([0.08, -0.05, 0.04], requires_grad=True)
    scale = torch.tensor(math.log(0.85), requires_grad=True)

    def placed():
        return scale.exp() * vertices @ turned(turn).T + move

    start = (placed().detach() - vertices).norm(dim=1).mean()
    found = fitted([turn, move, scale], placed, faces, truth, 200, 0.02)
    error = (found - vertices).norm(dim=1)
    size = float((vertices.amax(0) - vertices.amin(0)).max())
    assert float(start) > 0.1 * size and float(error.mean()) < 0.005 * size, float(error.mean()) / size


def test_shape_from_silhouettes():
    """A ball becomes an ellipsoid: three half-axes and a centre from their outlines, each to .5 %."""
    ball = trimesh.creation.icosphere(subdivisions=3)
    unit, faces = torch.tensor(np.array(ball.vertices)).float(), torch.tensor(np.array(ball.faces)).int()
    axes, centre = torch.tensor([0.42, 0.3, 0.24]), torch.tensor([0.05, -0.04, 0.06])
    truth = masks(unit * axes + centre, faces)
    logs, middle = torch.full((3,), math.log(0.33), requires_grad=True), torch.zeros(3, requires_grad=True)
    fitted([logs, middle], lambda: unit * logs.exp() + middle, faces, truth, 200, 0.02)
    assert logs.detach().exp().tolist() == pytest.approx(axes.tolist(), abs=0.005 * 0.84)
    assert middle.tolist() == pytest.approx(centre.tolist(), abs=0.005 * 0.84)


def test_free_vertices_follow_an_outline():
    """Every vertex of a ball on its own, for a box: the outlines fit where they did not."""
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.35)
    start, faces = torch.tensor(np.array(ball.vertices)).float(), torch.tensor(np.array(ball.faces)).int()
    box = trimesh.creation.box(extents=(0.6, 0.45, 0.5))
    corners = torch.tensor(np.array(box.vertices)).float()
    truth = masks(corners, torch.tensor(np.array(box.faces)).int())
    vertices = start.clone().requires_grad_()
    before = float((masks(start, faces) - truth).square().mean())
    found = fitted([vertices], lambda: vertices, faces, truth, 150, 0.004)
    assert float((masks(found, faces) - truth).square().mean()) < 0.15 * before
