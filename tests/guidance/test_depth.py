"""Depth as a picture: near is white, the background is black, and there is a gap between it and the object."""

import pytest
import torch

from dreamfusion_ngp.guidance.depth import FARTHEST, depth_picture, tiled, untiled


def ball(height=24, width=24, distance=2.0):
    """(1, H, W) depth of a ball of radius .5 and what it covers."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    inside = 0.25 - (x * x + y * y) * 0.5
    return (distance - inside.clamp(min=0).sqrt())[None], (inside > 0)[None]


def test_near_is_white_and_there_is_a_gap_before_the_background():
    depth, covered = ball()
    found = depth_picture(depth, covered)
    assert found.shape == depth.shape and found.dtype == torch.float32
    assert found[covered].max() == 1 and found[covered].min() == pytest.approx(FARTHEST) and not found[~covered].any()
    order = depth[covered].argsort()
    assert (found[covered][order].diff() <= 1e-6).all()


def test_it_is_an_affine_function_of_the_inverse_depth_of_the_object_alone():
    """As depth estimators give it; the background's numbers say nothing."""
    depth, covered = ball()
    found, again = (depth_picture(torch.where(covered, depth, other), covered) for other in (0.0, 1e9))
    assert torch.equal(found, again)
    inverse = 1 / depth[covered]
    wanted = FARTHEST + (1 - FARTHEST) * (inverse - inverse.min()) / (inverse.max() - inverse.min())
    torch.testing.assert_close(found[covered], wanted)


def test_constant_depth_and_empty_pictures_are_finite():
    """A min-max of these divides by nothing."""
    covered = torch.zeros(2, 8, 8, dtype=torch.bool)
    covered[0, 2:6, 2:6] = True
    found = depth_picture(torch.full((2, 8, 8), 1.5), covered)
    assert found.isfinite().all() and (found[0][covered[0]] == 1).all() and not found[1].any()


def test_pictures_that_are_not_square_stay_as_they_are():
    depth, covered = ball(12, 20)
    found = depth_picture(depth, covered)
    assert found.shape == (1, 12, 20)
    torch.testing.assert_close(found.transpose(1, 2), depth_picture(depth.transpose(1, 2), covered.transpose(1, 2)))


@pytest.mark.parametrize("columns", [2, 3])
def test_tiles_hold_the_views_row_by_row(columns):
    views = torch.arange(2.0 * columns * 2)[:, None, None, None].expand(-1, 4, 6, 3).contiguous()
    found = tiled(views, columns)
    assert found.shape == (2, 8, 6 * columns, 3)
    for k in range(2 * columns):
        row, column = divmod(k, columns)
        assert (found[0, 4 * row : 4 * row + 4, 6 * column : 6 * column + 6] == k).all()
    assert torch.equal(untiled(found, columns), views)
