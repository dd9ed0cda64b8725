"""Others' rasterisers see the ball that ours sees: the same picture's gradients, where they are installed."""

import pytest
import torch

from dreamfusion_ngp.bench.cases import LeftOut
from dreamfusion_ngp.bench.mesh_cases import Ball
from dreamfusion_ngp.bench.peers import rasterisers

CPU = torch.device("cpu")


def test_mitsubas_gradient_on_colours_is_ours():
    """Of all colours together: each sample's weight lands on the corners of the triangle that it hits."""
    pytest.importorskip("mitsuba")
    ball = Ball(64, CPU, triangles=2000)
    try:
        peer = rasterisers.mitsuba_raster(ball)
    except LeftOut as why:
        pytest.skip(str(why))
    _, colors = peer.call()
    wanted = ball.step(torch.float64, CPU)()[1][0].sum(0)
    torch.testing.assert_close(torch.tensor(colors).reshape(-1, 3).sum(0).double(), wanted, rtol=0.01, atol=0)
    assert "noise" in peer.note


def test_an_old_llvm_is_said_instead_of_ending_the_process(monkeypatch):
    drjit = pytest.importorskip("drjit")
    monkeypatch.setattr(drjit, "has_backend", lambda backend: True)
    monkeypatch.setattr(drjit.detail, "llvm_version", lambda: (14, 0, 6))
    with pytest.raises(LeftOut, match="no LLVM library from 17 on"):
        rasterisers.mitsuba_raster(Ball(16, CPU, triangles=100))


def test_deodr_draws_the_ball():
    pytest.importorskip("deodr")
    peer = rasterisers.deodr_raster(Ball(32, CPU, triangles=500))
    assert peer.call() is None
