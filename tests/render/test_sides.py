"""Sides of a surface: the points in their pixels, what they weigh, and what one view has where another looks."""

import numpy as np
import pytest
import torch
import trimesh

from dreamfusion_ngp.config.presets import preset
from dreamfusion_ngp.render.sides import rasterise_sides, sample_view, side_cameras, view_weights
from dreamfusion_ngp.scene.cameras import orbit


def surface(mesh):
    return torch.tensor(mesh.vertices, dtype=torch.float32), torch.tensor(mesh.faces, dtype=torch.int32)


@pytest.fixture(scope="module")
def ball():
    return surface(trimesh.creation.icosphere(subdivisions=4, radius=0.5))


def test_points_depths_and_cosines_of_a_ball(ball):
    """On the ball, as far as the camera is less what faces it; the cosine is 1 in the middle and 0 at the rim."""
    sides = rasterise_sides(*ball, side_cameras(preset("refine").camera, 4), 65)
    x = sides.x[sides.seen]
    torch.testing.assert_close(x.norm(dim=-1), torch.full((len(x),), 0.5), atol=3e-3, rtol=0)
    distance = sides.cameras.position.norm(dim=-1)
    torch.testing.assert_close(sides.depth[:, 32, 32], distance - 0.5, atol=3e-3, rtol=0)
    torch.testing.assert_close(sides.cosine[:, 32, 32], torch.ones(4), atol=2e-3, rtol=0)
    assert not sides.depth[~sides.seen].any() and not sides.cosine[~sides.seen].any()
    assert sides.cosine[sides.seen].min() > -0.1 and sides.cosine[sides.seen].min() < 0.3


def test_the_sides_are_front_left_back_right_top_and_bottom():
    cameras = side_cameras(preset("refine").camera, 6)
    toward = torch.nn.functional.normalize(cameras.position, dim=-1)
    wanted = torch.tensor([[0, 0, 1], [1, 0, 0], [0, 0, -1], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]).float()
    torch.testing.assert_close(toward, wanted, atol=1e-5, rtol=0)
    assert len(side_cameras(preset("refine").camera, 4)) == 4


def test_weights_fall_with_the_cosine_and_end_before_rims(ball):
    sides = rasterise_sides(*ball, orbit([0.0], 0.0, 1.5, 1.2), 64)
    weight = view_weights(sides, 0.2, 6.0, 2)
    there = weight > 0
    torch.testing.assert_close(weight[there], sides.cosine[there] ** 6)
    assert weight.max() > 0.98 and (sides.cosine[there] >= 0.2).all()
    outside = torch.nn.functional.max_pool2d((~sides.seen).float()[:, None], 5, 1, 2)[:, 0] > 0
    assert not weight[outside].any()
    inner = sides.seen & ~outside & (sides.cosine > 0.5)
    assert (weight[inner] > 0).all(), "a slope is no rim"


def test_a_jump_of_depth_is_a_rim():
    """A plate before another: beside the near one's edge neither counts."""
    near, far = trimesh.creation.box(extents=(0.3, 0.6, 0.05)), trimesh.creation.box(extents=(0.8, 0.6, 0.05))
    near.apply_translation([0, 0, 0.3])
    sides = rasterise_sides(*surface(trimesh.util.concatenate([near, far])), orbit([0.0], 0.0, 1.5, 1.2), 64)
    weight, row = view_weights(sides, 0.2, 6.0, 2)[0, 32], sides.depth[0, 32]
    jumps = (row.diff().abs() > 0.2).nonzero()[:, 0].tolist()
    inner = [k for k in jumps if sides.seen[0, 32, k] and sides.seen[0, 32, k + 1]]
    assert len(inner) == 2
    for k in inner:
        assert not weight[k - 1 : k + 3].any() and weight[k - 4] > 0.5 and weight[k + 5] > 0.5


def test_a_view_is_looked_up_where_it_sees_a_point(ball):
    """Of the points that two views share the one finds in the other the same place; of others nothing."""
    sides = rasterise_sides(*ball, orbit([0.0, 90.0], 0.0, 1.5, 1.2), 128)
    points = sides.x[0][sides.seen[0]]
    found, same = sample_view(sides, 1, torch.cat([sides.x[1], sides.cosine[1][..., None]], -1), points)
    assert 0.2 < same.float().mean() < 0.6
    clear = same & (found[:, 3] > 0.4)
    assert clear.sum() > 300 and (found[clear, :3] - points[clear]).norm(dim=-1).max() < 0.05
    away = points[(points[:, 0] < -0.1)]
    assert not sample_view(sides, 1, sides.x[1], away)[1].any()
    outside = torch.tensor(np.array([[0.0, 5.0, 0.0]]), dtype=torch.float32)
    assert not sample_view(sides, 1, sides.x[1], outside)[1].any()
