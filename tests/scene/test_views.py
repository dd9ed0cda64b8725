"""The views of a step: parts that belong together, and draws that depend on the generator alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dreamfusion_ngp.config.presets import PRESETS, dreamfusion, preset
from dreamfusion_ngp.scene.lights import ALBEDO, TEXTURELESS
from dreamfusion_ngp.scene.views import sample_views


def draw(seed, n=4, progress=0.5, config=None):
    config = config or dreamfusion()
    return sample_views(config.camera, config.light, n, progress, np.random.default_rng(seed))


def test_shapes_and_that_the_parts_belong_together():
    views = draw(0, n=64)
    assert len(views) == 64 and views.shading.shape == (64, 6) and views.shading.dtype == torch.float32
    assert torch.equal(views.shading[:, 5] > 0, torch.as_tensor(views.modes == TEXTURELESS))
    assert torch.equal(views.shading[:, 4] == 0, torch.as_tensor(views.modes == ALBEDO))
    # The light follows its own camera: with deviation 1 around a position of length 1 to 1.5, the mean cosine is about
    # 0.6.
    light = torch.nn.functional.normalize(views.shading[:, :3], dim=-1)
    camera = torch.nn.functional.normalize(views.cameras.position, dim=-1)
    own = (light * camera).sum(-1).mean()
    assert own > 0.45 > (light * camera.roll(1, 0)).sum(-1).mean()


def test_sides_of_a_ring_have_one_mode_and_a_lamp_that_turns_with_the_camera():
    config = dreamfusion()
    config = replace(config, camera=replace(config.camera, ring=4))
    views = draw(0, n=32, config=config)
    modes = views.modes.reshape(8, 4)
    assert (modes == modes[:, :1]).all() and len(set(modes[:, 0].tolist())) > 1
    seen = torch.einsum("nji,nj->ni", views.cameras.c2w[:, :, :3], views.shading[:, :3]).view(8, 4, 3)
    torch.testing.assert_close(seen, seen[:, :1].expand(-1, 4, -1), atol=1e-5, rtol=0)


def test_the_same_generator_gives_the_same_views():
    a, b, c = draw(7), draw(7), draw(8)
    assert (
        torch.equal(a.shading, b.shading) and torch.equal(a.cameras.c2w, b.cameras.c2w) and (a.modes == b.modes).all()
    )
    assert not torch.equal(a.shading, c.shading)


def test_progress_changes_the_mode_and_nothing_else():
    early, late = draw(9, n=16, progress=0.0), draw(9, n=16, progress=0.5)
    assert torch.equal(early.cameras.c2w, late.cameras.c2w) and torch.equal(early.shading[:, :3], late.shading[:, :3])
    assert (early.modes == ALBEDO).all() and not (late.modes == ALBEDO).all()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_drawn_from_with_any_number_of_views(name):
    for n in (1, 2, 3, 8):
        views = draw(0, n=n, config=preset(name))
        assert len(views) == len(views.cameras) == len(views.modes) == n and views.shading.isfinite().all()
