"""The renderer against closed forms, and the occupancy grid that drives it."""

import math

import numpy as np
import pytest
import torch

from dreamfusion_ngp.config.schema import RenderConfig
from dreamfusion_ngp.render.volume import flat_background, render
from dreamfusion_ngp.scene.cameras import orbit
from dreamfusion_ngp.scene.occupancy import Occupancy

RADIUS, SHARP = 0.4, 80.0
CONFIG = RenderConfig(resolution=32, step=0.01, occupancy_resolution=32, occupancy_threshold=1e-5, budget=1 << 18)
ALBEDO = [0.0, 2.0, 0.0, 1.0, 0.0, 0.0]


def ball(x, count=None):
    """A field whose density is that of an opaque red ball."""
    r = x.norm(dim=-1)
    h = (SHARP * (RADIUS - r) + 1).clamp(-30, 12)
    raw = torch.tensor([9.0, -9.0, -9.0]).expand(len(x), 3)
    return h, raw, -x / r[:, None].clamp(min=1e-6) * SHARP


ball.activation = "exp"


def ball_density(x):
    return ball(x)[0].clamp(max=15.0).exp()


def filled(update=True):
    occupancy = Occupancy(CONFIG, 0.75)
    if update:
        occupancy.update(ball_density, 0, 0, full=True)
    return occupancy


def picture(occupancy, azimuth=0.0, shading=ALBEDO, background=(0.2, 0.4, 0.6), **options):
    return render(
        ball,
        occupancy,
        orbit([azimuth], 0.0, 2.0, 1.5),
        torch.tensor([shading]),
        flat_background(torch.tensor([background])),
        CONFIG,
        **options,
    )


def test_ball_has_its_silhouette_depth_colour_and_normal():
    r = picture(filled())
    opacity = r.opacity[0]
    apparent = 32 * 1.5 * RADIUS / math.sqrt(2.0**2 - RADIUS**2)  # radius of the outline in pixels
    assert abs(float(opacity.sum()) - math.pi * apparent**2) < 0.06 * math.pi * apparent**2
    centre = r.rgb[0, 15:17, 15:17].mean((0, 1))
    assert torch.allclose(centre, torch.tensor([1.0, 0.0, 0.0]), atol=2e-3)
    assert torch.allclose(r.rgb[0, 0, 0], torch.tensor([0.2, 0.4, 0.6]))
    assert abs(float(r.depth[0, 16, 16] / opacity[16, 16]) - (2.0 - RADIUS)) < 0.04
    assert r.normal[0, 16, 16, 2] > 0.99, "the ball's front faces the camera on +Z"
    assert r.normal[0, 16, 24, 0] > 0.3, "its right side faces +X, image right"
    assert r.normal[0, 8, 16, 1] > 0.3, "its top faces up"


def test_grid_driven_equals_dense_rendering():
    sparse, dense = picture(filled()), picture(filled(update=False))
    assert int(sparse.info[0]) < 0.5 * int(dense.info[0])
    assert (sparse.rgb - dense.rgb).abs().max() < 2e-3


def test_light_from_the_right_lights_the_right():
    r = picture(filled(), shading=[3.0, 0.0, 0.0, 0.1, 0.9, 1.0])
    assert r.rgb[0, 16, 24].mean() > 3 * r.rgb[0, 16, 8].mean()


def test_empty_grid_shows_the_background_with_a_valid_graph():
    occupancy = filled()
    occupancy.bits.zero_()
    weight = torch.ones((), requires_grad=True)

    def faint(x, count=None):
        h, raw, g = ball(x)
        return h * weight, raw * weight, g * weight

    faint.activation = "exp"
    r = render(
        faint, occupancy, orbit([0.0], 0.0, 2.0, 1.5), torch.tensor([ALBEDO]), flat_background(torch.ones(1, 3)), CONFIG
    )
    assert torch.equal(r.rgb, torch.ones_like(r.rgb)) and int(r.info[0]) == 0
    (r.rgb.sum() + r.orientation.sum()).backward()
    assert weight.grad is None or float(weight.grad) == 0.0


def test_jitter_depends_on_seed_and_step_only():
    occupancy = filled()
    a, b = picture(occupancy, seed=1, step=5), picture(occupancy, seed=1, step=5)
    assert torch.equal(a.rgb, b.rgb)
    assert not torch.equal(a.rgb, picture(occupancy, seed=1, step=6).rgb)
    assert not torch.equal(a.rgb, picture(occupancy, seed=2, step=5).rgb)


def test_partial_updates_find_the_ball_in_four():
    occupancy = filled(update=False)
    assert occupancy.fraction() == 1.0
    for k in range(4):
        occupancy.update(ball_density, 0, k * CONFIG.occupancy_interval)
    expected = 4 / 3 * math.pi * RADIUS**3 / 1.5**3
    assert expected < occupancy.fraction() < 3 * expected


def test_occupancy_forgets_what_has_gone():
    occupancy = filled()
    for k in range(1, 400):
        occupancy.update(
            lambda x: torch.zeros(len(x)) + (x[:, 0] > 0.6).float() * 100, 0, k * CONFIG.occupancy_interval
        )
    centre = (16 * 32 + 16) * 32 + 16
    assert not occupancy.bits[centre >> 3] >> (centre & 7) & 1


def test_views_are_rendered_independently():
    occupancy = filled()
    cameras = orbit([0.0, 90.0], 0.0, 2.0, 1.5)
    rows = torch.tensor([ALBEDO, [3.0, 0.0, 0.0, 0.1, 0.9, 1.0]])
    colors = torch.tensor([[0.0] * 3, [1.0] * 3])
    both = render(ball, occupancy, cameras, rows, flat_background(colors), CONFIG)
    alone = picture(occupancy, 90.0, shading=[3.0, 0.0, 0.0, 0.1, 0.9, 1.0], background=(1.0, 1.0, 1.0))
    assert torch.equal(both.rgb[1], alone.rgb[0])
    assert both.rgb.shape == (2, 32, 32, 3) and both.orientation.shape == (2 * 32 * 32,)


@pytest.mark.parametrize("seed", range(3))
def test_orientation_is_zero_for_normals_that_face_the_camera(seed):
    azimuth = float(np.random.default_rng(seed).uniform(0, 360))
    r = picture(filled(), azimuth)
    assert float(r.orientation.max()) < 0.02
