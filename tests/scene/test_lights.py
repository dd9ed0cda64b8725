"""Lights and shading modes of preset `dreamfusion` against DreamFusion A.2 (thresholds: see test_cameras)."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from dreamfusion_ngp.config.presets import dreamfusion
from dreamfusion_ngp.config.schema import LightConfig
from dreamfusion_ngp.scene.lights import (
    ALBEDO,
    LAMBERTIAN,
    TEXTURELESS,
    sample_light_positions,
    sample_modes,
    shading_rows,
)

PAPER = dreamfusion().light
STEPS = dreamfusion().steps
N = 20_000


def lights(camera, config=PAPER, seed=0, n=N):
    return (
        sample_light_positions(
            config, torch.tensor(camera, dtype=torch.float32).expand(n, 3), np.random.default_rng(seed)
        )
        .double()
        .numpy()
    )


def test_distance_is_uniform():
    distance = np.linalg.norm(lights([0.3, 0.5, 1.1]), axis=-1)
    assert stats.kstest(distance, stats.uniform(0.8, 0.7).cdf).pvalue > 1e-3


@pytest.mark.parametrize("camera", [(0.0, 0.0, 1.0), (0.4, 1.2, -0.7), (0.0, 1.5, 0.0)])
def test_direction_is_that_of_a_normal_around_the_camera(camera):
    """c = cosine between light and camera, for x ~ N(p, I) with |p| = r: given |x|, c has density ~ exp(r |x| c);
    integrated over |x| it is compared with the samples by KS. The angle around the axis is uniform."""
    r = math.hypot(*camera)
    direction = lights(camera, seed=1)
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    axis = np.array(camera) / r
    c = np.linspace(-1, 1, 2001)
    s = np.linspace(0, 9, 1801)[:, None]
    density = (s**2 * np.exp(-0.5 * (s**2 - 2 * s * r * c + r * r))).sum(0)
    cdf = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    assert stats.kstest(direction @ axis, lambda v: np.interp(v, c, cdf / cdf[-1])).pvalue > 1e-3
    # Uniform around the axis: N |mean exp(i k angle)|^2 is exponential with mean 1 (Rayleigh's test). A KS test would
    # depend on where the circle is cut open.
    other = np.cross(axis, [0.6, 0.0, 0.8] if abs(axis[1]) > 0.9 else [0.0, 1.0, 0.0])
    other /= np.linalg.norm(other)
    around = np.arctan2(direction @ np.cross(axis, other), direction @ other)
    for k in (1, 2, 3):
        assert N * abs(np.exp(1j * k * around).mean()) ** 2 < -math.log(1e-3)


def test_direction_and_distance_are_independent():
    position = lights([0.0, 0.0, 1.2], seed=2)
    distance = np.linalg.norm(position, axis=-1)
    assert abs(np.corrcoef(distance, position[:, 2] / distance)[0, 1]) < 4 / math.sqrt(N)


def test_without_spread_the_light_stands_behind_the_camera():
    position = lights([0.0, 0.0, 2.0], replace(PAPER, direction_std=0.0, distance=(1.0, 1.0)), n=3)
    assert np.allclose(position, [[0, 0, 1]] * 3, atol=1e-6)


def test_albedo_before_the_thousandth_step_and_all_modes_from_then_on():
    random = np.random.default_rng(3)
    for step in (0, 1, 500, 999):
        assert (sample_modes(PAPER, 1000, step / STEPS, random) == ALBEDO).all()
    assert set(sample_modes(PAPER, 1000, 1000 / STEPS, random)) == {ALBEDO, LAMBERTIAN, TEXTURELESS}


@pytest.mark.parametrize("step", [1000, 8000, 14999])
def test_mode_shares_after_the_thousandth_step(step):
    """25 % albedo, 37.5 % lambertian, 37.5 % textureless, by a chi-square test."""
    modes = sample_modes(PAPER, N, step / STEPS, np.random.default_rng(step))
    counts = np.bincount(modes, minlength=3)
    assert len(counts) == 3
    assert stats.chisquare(counts, N * np.array([0.25, 0.375, 0.375])).pvalue > 1e-3
    assert stats.chisquare(counts, N * np.array([0.27, 0.365, 0.365])).pvalue < 1e-3, "the test tells a 2 % shift"


def test_lit_and_textureless_probabilities_mean_what_they_say():
    random = np.random.default_rng(5)
    for lit, plain, expected in ((0.0, 1.0, ALBEDO), (1.0, 0.0, LAMBERTIAN), (1.0, 1.0, TEXTURELESS)):
        config = replace(PAPER, lit_probability=lit, textureless_probability=plain)
        assert (sample_modes(config, 50, 0.5, random) == expected).all()


def test_the_schedule_does_not_shift_the_draws_that_follow():
    """Early and late steps draw equally many numbers: what is drawn next is the same."""
    a, b = np.random.default_rng(4), np.random.default_rng(4)
    sample_modes(PAPER, 4, 0.0, a), sample_modes(PAPER, 4, 0.5, b)
    assert a.random() == b.random()


def test_shading_rows_hold_the_papers_ambient_and_diffuse():
    light = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
    rows = shading_rows(PAPER, light, np.array([ALBEDO, LAMBERTIAN, TEXTURELESS]))
    assert rows.dtype == torch.float32 and torch.equal(rows[:, :3], light)
    assert torch.allclose(rows[:, 3:], torch.tensor([[1.0, 0.0, 0.0], [0.1, 0.9, 0.0], [0.1, 0.9, 1.0]]))


@pytest.mark.parametrize("until, at, some", [(1.0, 1.0, True), (0.5, 0.4, True), (0.5, 0.6, False)])
def test_textureless_views_end_where_the_config_says_and_not_with_the_run(until, at, some):
    """At progress 1, that of a prior's training, the default still has them."""
    config = replace(LightConfig(), textureless_until=until)
    assert (TEXTURELESS in sample_modes(config, 200, at, np.random.default_rng(0))) == some
