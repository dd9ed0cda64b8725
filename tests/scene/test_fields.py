"""The field: initial state, coarse-to-fine, queries; the background network and random backgrounds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dreamfusion_ngp.config.schema import FieldConfig
from dreamfusion_ngp.scene.fields import CHUNK, Background, HashField, random_background

SMALL = FieldConfig(
    levels=4,
    base_resolution=4,
    finest_resolution=32,
    log2_table=12,
    hidden=16,
    blob=("cone", 6.0, 0.3),
    density="exp",
    density_bias=0.0,
)


def points(n, seed=0):
    return torch.tensor(np.random.default_rng(seed).uniform(-0.7, 0.7, (n, 3)), dtype=torch.float32)


def test_same_seed_same_field_other_seed_other_field():
    a, b, c = HashField(SMALL, 3), HashField(SMALL, 3), HashField(SMALL, 4)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.table, c.table)


def test_initial_field_is_the_blob():
    field = HashField(SMALL, 0)
    x = points(500)
    h, rgb_raw, grad_h = field(x)
    blob = 6.0 * (1 - x.norm(dim=-1) / 0.3)
    assert (h - blob).abs().max() < 0.05
    away = x.norm(dim=-1) > 0.1
    direction = torch.nn.functional.normalize(grad_h, dim=-1)
    assert (direction + torch.nn.functional.normalize(x, dim=-1))[away].abs().max() < 0.05, "density falls off outwards"
    assert (torch.sigmoid(rgb_raw) - 0.5).abs().max() < 0.05, "colour starts at grey"


@pytest.mark.parametrize("activation", ["exp", "softplus"])
def test_density_agrees_with_forward_and_the_shade_op(activation):
    from dreamfusion_ngp.ops.shade import shade

    field = HashField(replace(SMALL, density=activation), 0)
    x = points(300)
    h, rgb_raw, grad_h = field(x)
    view = torch.tensor([[0.0, 1.0, 1.0, 0.1, 0.9, 0.0]])
    sigma, *_ = shade(h, rgb_raw, grad_h, x, torch.zeros(300, dtype=torch.int32), view, 1, density=activation)
    torch.testing.assert_close(field.density(x), sigma.detach(), rtol=1e-5, atol=1e-6)


def test_chunked_queries_equal_one_query():
    field = HashField(SMALL, 0)
    x = points(CHUNK + 7)
    torch.testing.assert_close(field.density(x), field.activate(field(x)[0]).detach(), rtol=1e-5, atol=1e-6)
    assert field.albedo(x).shape == (CHUNK + 7, 3)
    assert not field.density(x[:5]).requires_grad


def test_coarse_to_fine_fades_levels_in():
    field = HashField(replace(SMALL, coarse_to_fine=(2, 0.5)), 0)
    assert field.level_weight.tolist() == [1.0, 1.0, 0.0, 0.0]
    for progress, weights in ((0.25, [1, 1, 1, 0]), (0.375, [1, 1, 1, 0.5]), (0.5, [1, 1, 1, 1]), (1.0, [1, 1, 1, 1])):
        given = field.schedule(progress)
        assert given["level_weight"].tolist() == pytest.approx(weights)
        field.bind({name: torch.from_numpy(value) for name, value in given.items()})
        assert field.level_weight.tolist() == pytest.approx(weights)
    assert HashField(SMALL, 0).level_weight.tolist() == [1.0] * 4


def test_inactive_levels_do_not_matter_and_get_no_gradient():
    field = HashField(replace(SMALL, coarse_to_fine=(2, 0.5)), 0)
    x = points(200)
    before = field(x)[0].detach()
    fine = field.layout.offset[2]
    field(x)[0].sum().backward()
    assert field.table.grad[fine:].abs().max() == 0 and field.table.grad[:fine].abs().max() > 0
    with torch.no_grad():
        field.table[fine:] += 1.0
    assert torch.equal(field(x)[0].detach(), before)


def test_background_is_a_colour_and_trains():
    network = Background(SMALL, 0)
    d = torch.nn.functional.normalize(points(100), dim=-1)
    color = network(d)
    assert color.shape == (100, 3) and (color > 0).all() and (color < 1).all()
    color.square().mean().backward()
    assert all(p.grad.abs().max() > 0 for p in network.parameters())


def test_random_background_has_a_quarter_of_greys_and_covers_the_cube():
    colors = random_background(4000, np.random.default_rng(0))
    grey = (colors[:, 0] == colors[:, 1]) & (colors[:, 1] == colors[:, 2])
    assert abs(grey.float().mean() - 0.25) < 0.03  # 4 standard deviations
    assert (colors.mean(0) - 0.5).abs().max() < 0.02 and colors.min() >= 0 and colors.max() <= 1
