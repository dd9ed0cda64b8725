"""Noise that turns with the object: white in every view, the same on what two views share, renewed slowly."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.tiny_models import config, judged, views

from dreamfusion_ngp.guidance.load import load_guidance
from dreamfusion_ngp.guidance.shared_noise import RADIUS, noise_map, shared_noise
from dreamfusion_ngp.scene.cameras import clip_matrices, orbit

SIDE = 32
PIXEL = 360 / round(2 * np.pi * RADIUS * SIDE)  # degrees of azimuth


def seen(azimuth, elevation=0.0, part=0, refresh=100, seed=3):
    cameras = orbit(np.atleast_1d(azimuth), elevation, 2.0, 1.0)
    return shared_noise((4, SIDE, SIDE), cameras, seed=seed, part=part, refresh=refresh)


@pytest.mark.parametrize("part", [0, 37, 100])
def test_a_view_s_noise_is_white_and_normal(part):
    noise = seen(range(0, 360, 5), 20.0, part)
    assert noise.shape == (72, 4, SIDE, SIDE) and noise.dtype == np.float32
    one = noise[::12]
    assert abs(one.mean()) < 0.03 and abs(one.std() - 1) < 0.02
    assert abs((one[..., 1:] * one[..., :-1]).mean()) < 0.03 and abs((one[..., 1:, :] * one[..., :-1, :]).mean()) < 0.03


def test_two_views_share_what_both_see():
    first, second = seen([0.0, 3 * PIXEL])
    assert np.array_equal(first[:, :, 3:], second[:, :, :-3])
    low, high = seen([40.0, 40.0], np.array([0.0, 2 * PIXEL]))
    assert np.array_equal(low[:, :-2], high[:, 2:])
    front, back = seen([0.0, 180.0])
    assert abs((front * back).mean()) < 0.05 and not np.array_equal(front, back)
    assert np.array_equal(seen(0.0), seen(360.0)), "once around"


def test_it_moves_as_the_surface_does():
    """A point that faces the camera moves in the picture by as many pixels as the noise, and the same way."""
    x = torch.tensor([0.0, 0.0, 0.4, 1.0])  # of a ball as large in the picture as RADIUS says, 2 away with focal 1
    for azimuth, elevation in ((3 * PIXEL, 0.0), (0.0, 2 * PIXEL)):
        cameras = orbit([0.0, azimuth], np.array([0.0, elevation]), 1.4, 1.0)
        place = [(m @ x)[:2] / (m @ x)[3] * SIDE / 2 for m in clip_matrices(cameras, 0.1, 10.0)]
        moved = (place[1] - place[0]).numpy() * np.array([1, -1])  # to the right, downwards
        wanted = np.array([-3, 0]) if azimuth else np.array([0, 2])
        assert np.abs(moved - wanted).max() < 0.5, (moved, wanted)


def test_it_is_renewed_slowly_and_is_a_function_of_the_part():
    now, soon, later = (seen(10.0, part=part) for part in (0, 10, 100))
    assert np.corrcoef(now.ravel(), soon.ravel())[0, 1] > 0.98
    assert abs(np.corrcoef(now.ravel(), later.ravel())[0, 1]) < 0.05
    assert np.array_equal(seen(10.0, part=10), soon) and not np.array_equal(seen(10.0, part=10, seed=4), soon)
    just_before, at = noise_map(1, (8, 8), 0, 99, 100), noise_map(1, (8, 8), 0, 100, 100)
    assert np.abs(just_before - at).max() < 0.1, "no jump from one map to the next"


def test_guidance_is_given_it(folders):
    made = config(folders["packed"], precision="float32")
    image = torch.full((3, 12, 12, 3), 0.5)
    guidance = load_guidance(replace(made, guidance=replace(made.guidance, noise="shared")), "cpu")
    given = []

    def rule(denoiser, x, noise, *rest):
        given.append(noise)
        return noise

    guidance.rule = rule
    judged(guidance, image)
    shape = guidance.denoiser.shape
    wanted = shared_noise(shape, views().cameras, seed=made.seed, part=0, refresh=1000)
    assert given[0].shape == (3, *shape) and np.array_equal(given[0].numpy(), wanted)
