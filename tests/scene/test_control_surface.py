"""The surface of control points: Loop's rules, and that it is closed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dreamfusion_ngp.config.schema import FieldConfig, MeshConfig
from dreamfusion_ngp.scene.control_surface import ControlSurface, edges_of, icosphere, loop_limit, loop_step
from dreamfusion_ngp.scene.surface import bumped

CONFIG = MeshConfig(sphere_level=1, sphere_radius=0.4, detail_levels=2, detail_finest=16, detail_log2_table=8)


def volume(vertices, faces):
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    return (a * np.cross(b, c)).sum() / 6


@pytest.mark.parametrize("level, count", [(0, 12), (1, 42), (3, 642)])
def test_a_sphere_of_triangles(level, count):
    vertices, faces = icosphere(level)
    assert len(vertices) == count and len(faces) == 2 * count - 4
    assert np.allclose(np.linalg.norm(vertices, axis=1), 1) and volume(vertices, faces) > 2.5
    ends, opposite, _ = edges_of(faces)
    assert len(ends) == 3 * count - 6 and all(len({*e, *o}) == 4 for e, o in zip(ends, opposite, strict=True))


def test_the_limit_is_that_of_subdividing_on_and_on():
    vertices, faces = icosphere(1)
    limit = loop_limit(len(vertices), faces)
    step, fine = loop_step(len(vertices), faces)
    assert np.allclose(limit.sum(1), 1) and np.allclose(step.sum(1), 1) and volume(step @ vertices, fine) > 0
    assert np.allclose((loop_limit(len(step), fine) @ step)[: len(vertices)], limit)
    x, now = vertices, faces
    for _ in range(4):
        matrix, now = loop_step(len(x), now)
        x = matrix @ x
    assert np.abs(x[: len(vertices)] - limit @ vertices).max() < 2e-3


def test_it_is_closed_round_and_moves_with_its_points():
    surface = ControlSurface(replace(CONFIG, subdivisions=1), FieldConfig(bound=0.75), 0)
    vertices, faces = surface()
    assert len(vertices) == 162 and len(faces) == 320 and volume(vertices.detach().numpy(), faces.long().numpy()) > 0
    radius = vertices.norm(dim=1)
    assert float(radius.min()) > 0.3 and float(radius.max()) < 0.4 and float(radius.std()) < 0.01
    with torch.no_grad():
        surface.control += torch.tensor([0.1, 0.0, 0.0])
    torch.testing.assert_close(surface()[0] - vertices, torch.tensor([0.1, 0.0, 0.0]).expand(162, 3))
    x = torch.rand(5, 3) - 0.5
    assert torch.equal(surface.paint(x, torch.zeros(5), torch.zeros(5, 3)), surface.color(x))
    assert {name: len(group) for name, group in surface.parameter_groups().items()} == {
        "grid": 1,
        "mlp": 4,
        "offset": 1,
    }


def test_its_relief_tilts_the_normals_by_the_slope_of_its_height():
    flat, surface = (ControlSurface(replace(CONFIG, bump=bump), FieldConfig(bound=0.75), 0) for bump in (0.0, 0.05))
    with torch.no_grad():
        surface.detail.table.uniform_(-1, 1, generator=torch.manual_seed(0))
    x = torch.rand(200, 3) - 0.5
    normal, face, weights = torch.nn.functional.normalize(x, dim=-1), torch.zeros(200), torch.zeros(200, 3)
    color, same = flat.look(x, face, weights, normal)
    assert torch.equal(color, flat.color(x)) and same is normal
    color, tilted = surface.look(x, face, weights, normal)
    assert torch.equal(color, surface.color(x)) and torch.equal(tilted, bumped(normal, surface.slope(x)))
    step = 1e-3 * torch.eye(3)
    found = torch.stack([0.05 * (surface.detail(x + d)[0] - surface.detail(x - d)[0]) / 2e-3 for d in step], -1)
    error = (found - surface.slope(x)).norm(dim=1) / found.norm(dim=1)
    assert float(error.median()) < 1e-3 and float(error.quantile(0.9)) < 0.3  # some are where a hidden unit sets in
    (pulled,) = torch.autograd.grad(tilted.sum(), surface.detail.table)
    assert float(pulled.abs().max()) > 0
