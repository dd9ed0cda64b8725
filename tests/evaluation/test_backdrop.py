"""Backgrounds behind toys: planes are exact, patterns nearly so, and true silhouettes stand out from all of them."""

import numpy as np
import pytest
import torch

from dreamfusion_ngp.evaluation.backdrop import BORDER, backdrop, basis, border, foreground
from dreamfusion_ngp.evaluation.judge import SIZE
from dreamfusion_ngp.evaluation.pictures import FLAT
from dreamfusion_ngp.scene.cameras import orbit
from dreamfusion_ngp.toybox.prior.loss import backgrounds, random_colors
from dreamfusion_ngp.toybox.world.shapes import PARAMETERS
from dreamfusion_ngp.toybox.world.tracer import shade, silhouette, trace


def covered(picture: torch.Tensor) -> torch.Tensor:
    """With a black square in the middle."""
    out = picture.clone()
    out[:, 20:40, 20:40] = 0
    return out


def test_a_plane_goes_on_behind_the_toy():
    ramp = torch.linspace(0.3, 1, 64)[None, None, :, None].expand(2, 64, 64, 3)
    torch.testing.assert_close(backdrop(covered(ramp)), ramp, atol=1e-3, rtol=0)


def test_a_pattern_goes_on_behind_the_toy():
    control = torch.rand(3, 16, generator=torch.Generator().manual_seed(3))
    pattern = (0.3 + 0.6 * control @ basis(64)[:, 3:].T).view(1, 3, 64, 64).permute(0, 2, 3, 1)
    found = backdrop(covered(pattern))
    assert (found - pattern).abs().max() < 0.1
    assert not foreground(pattern).any(), "a background alone is no toy"


@pytest.mark.parametrize("name", ["airplane", "torus"])
def test_a_toy_stands_out_from_any_background(name):
    random, n = np.random.default_rng(5), 12
    buffer = trace(name, torch.zeros(n, PARAMETERS), orbit(np.arange(n) * 30, 15, 1.5, 1.2), SIZE)
    unlit = torch.tensor(FLAT).expand(n, -1)
    pictures = shade(buffer, random_colors(np.arange(n) % 11, random), unlit, backgrounds(n, SIZE, random))
    found, truth = foreground(pictures.clamp(0, 1)), silhouette(buffer)
    overlap = (found & truth).sum((1, 2)) / (found | truth).sum((1, 2))
    assert overlap.min() > 0.75 and overlap.median() > 0.93


def test_the_border_is_at_the_edges():
    edge = border(64)
    assert edge[:BORDER].all() and edge[:, -BORDER:].all() and int(edge.sum()) == 64**2 - (64 - 2 * BORDER) ** 2
