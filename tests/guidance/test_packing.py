"""Packing pixels into channels, and the maps that say where a pixel is."""

import math

import pytest
import torch

from dreamfusion_ngp.guidance.packing import POSITIONS, pack, packing_factor, position_maps, unpack


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
@pytest.mark.parametrize("extra", [0, POSITIONS])
def test_channels_tell_the_factor_and_unpack_undoes_pack(factor, extra):
    channels = 3 * factor**2 + extra
    assert packing_factor(channels) == factor
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    packed = pack(image, channels)
    assert packed.shape == (2, channels, 16 // factor, 16 // factor) and packed.dtype == image.dtype
    assert torch.equal(unpack(packed[:, : 3 * factor**2]), image)
    if extra:
        assert torch.equal(packed[:1, -POSITIONS:], position_maps(16 // factor))


def test_the_maps_say_where_a_pixel_is():
    """The definition at a hand-picked pixel: column 3 of 8 lies at x = -1/8, row 6 at y = 5/8."""
    maps = position_maps(8)[0]
    x, y, pi = -1 / 8, 5 / 8, math.pi
    a, b = math.sqrt(3), math.sqrt(2)
    expected = [a * x, a * y, b * math.cos(pi * x), b * math.cos(pi * y), b * math.sin(pi * x), b * math.sin(pi * y)]
    assert torch.allclose(maps[:, 6, 3], torch.tensor(expected), atol=1e-6)
    assert maps.mean((1, 2)).abs().max() < 1e-6 and (maps.var((1, 2)) - 1).abs().max() < 0.05, "as the noise is"


def test_packing_keeps_half_precision():
    assert pack(torch.zeros(1, 3, 8, 8, dtype=torch.bfloat16), 12 + POSITIONS).dtype == torch.bfloat16
