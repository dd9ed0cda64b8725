"""Regularisers in the loop: their weights, and what smoothness does."""

from dataclasses import replace

import pytest
import torch
from support.tiny_runs import TINY, indifferent, run

from dreamfusion_ngp.config.schema import LossConfig
from dreamfusion_ngp.optimise.volume import VolumeStage
from dreamfusion_ngp.render.losses import (
    entropy_loss,
    entropy_weight,
    opacity_loss,
    orientation_weight,
    smoothness_loss,
)


def test_weights_of_the_regularisers():
    config = LossConfig(orientation=(1e-4, 1e-2), orientation_ramp=1 / 3)
    assert orientation_weight(config, 0.0) == pytest.approx(1e-4)
    assert orientation_weight(config, 1 / 6) == pytest.approx((1e-4 + 1e-2) / 2)
    assert orientation_weight(config, 1.0) == pytest.approx(1e-2)
    assert float(opacity_loss(torch.zeros(4))) == pytest.approx(0.1)
    assert float(entropy_loss(torch.full((4,), 0.5))) == pytest.approx(0.6931, abs=1e-3)
    assert float(entropy_loss(torch.tensor([0.0, 1.0]))) < 2e-3
    late = LossConfig(entropy=0.2, entropy_from=0.6)
    assert [entropy_weight(late, p) for p in (0.0, 0.6, 0.8, 1.0)] == pytest.approx([0.0, 0.0, 0.1, 0.2])
    assert entropy_weight(LossConfig(entropy=0.2, entropy_from=1.0), 0.5) == 0.0


def test_smoothness_is_of_opaque_neighbours_and_leaves_the_opacity_alone():
    up, right = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 0.0])
    normal = up.repeat(1, 4, 4, 1)
    normal[0, 1, 1] = right  # differs from four neighbours by 2
    opacity = torch.ones(1, 4, 4, requires_grad=True)
    assert float(smoothness_loss(normal, opacity)) == pytest.approx(4 * 2 / 16)
    seen = torch.ones(1, 4, 4)
    seen[0, 1, 1] = 0.5
    assert float(smoothness_loss(normal, seen)) == pytest.approx(4 * 2 * 0.5 / 16)
    seen[0, 1, 1] = 0.0
    assert float(smoothness_loss(normal, seen)) == 0.0
    normal.requires_grad_()
    smoothness_loss(normal, opacity).backward()
    assert opacity.grad is None
    assert torch.allclose(normal.grad[0, 1, 1], 2 * 4 * (right - up) / 16)


def test_smoothness_smooths(device):
    """With nothing else to follow, a rough field's normals become alike."""
    config = replace(TINY, loss=LossConfig(orientation=(0.0, 0.0), opacity=0.0, smoothness=1.0))
    state = VolumeStage(config, device)
    with torch.no_grad():
        state.field.table.copy_(torch.rand(state.field.table.shape, generator=torch.manual_seed(0)) - 0.5)
    _, records = run(config, indifferent, state)
    assert sum(r["smoothness"] for r in records[-5:]) < 0.5 * sum(r["smoothness"] for r in records[:5])
