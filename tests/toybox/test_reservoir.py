"""What the embedded prior is trained on: views that turn over, mean pictures, batches with captions, noise levels."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from support.tiny_runs import TINY_PRIOR as TINY

from dreamfusion_ngp.config.prompts import degree_view
from dreamfusion_ngp.scene.lights import sample_modes
from dreamfusion_ngp.toybox.prior import loss as training
from dreamfusion_ngp.toybox.prior import means
from dreamfusion_ngp.toybox.prior.loss import Reservoir, backgrounds, caption_ids, tokenize, training_batch
from dreamfusion_ngp.toybox.prior.model import build_tokenizer
from dreamfusion_ngp.toybox.world.shapes import CLASSES, COLORS

ALL_DEGREE_VIEWS = [f"az{a} el{e}" for a in range(0, 360, 15) for e in range(0, 91, 15)]


@pytest.fixture(scope="module")
def reservoir():
    r = Reservoir(replace(TINY, chunk=3, views_per_class=6), np.random.default_rng(0))
    for _ in range(2 * len(CLASSES)):
        r.grow()
    return r


def test_backgrounds_are_of_three_kinds():
    images = backgrounds(3000, 8, np.random.default_rng(0))
    assert images.shape == (3000, 8, 8, 3) and images.min() >= 0 and images.max() <= 1
    plain = images.flatten(1, 2).std(1).amax(-1) < 1e-6
    counts = np.array([int(plain.sum()), 3000 - int(plain.sum())])
    assert stats.chisquare(counts, [2250, 750]).pvalue > 1e-3
    gray = (images[plain][:, 0, 0].amax(-1) - images[plain][:, 0, 0].amin(-1)) < 1e-6
    assert abs(gray.float().mean() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / len(gray))
    assert stats.kstest(images[plain][:, 0, 0, 0].double().numpy(), "uniform").pvalue > 1e-3


def test_the_reservoir_fills_every_class_and_turns_over(reservoir):
    shelves = reservoir.shelves
    assert (shelves.filled() == 6).all() and reservoir.next % len(CLASSES) == 0
    before = shelves.position[0].copy()
    reservoir.grow()
    assert shelves.filled()[0] == 6 and shelves.added[0] == 9
    assert (shelves.position[0, :3] != before[:3]).any(1).all(), "the oldest chunk went"
    assert (shelves.position[0, 3:] == before[3:]).all()
    classes = reservoir.draw_classes(16)
    seen = shelves.draw(classes, np.random.default_rng(0))
    assert seen.buffer.alpha.shape == (16, 64, 64) and classes.shape == (16,) and seen.position.shape == (16, 3)
    assert seen.azimuth.shape == seen.elevation.shape == seen.framed.shape == (16,)
    assert (seen.buffer.alpha.flatten(1).amax(1) > 0).all(), "every picture shows its toy"
    elevation = (seen.position[:, 1] / seen.position.norm(dim=1)).arcsin()
    assert np.abs(elevation.numpy() - seen.elevation)[seen.framed].max() < 0.1, "angles belong to positions"


def test_a_ring_smaller_than_a_chunk_keeps_its_end():
    one = Reservoir(replace(TINY, chunk=3, views_per_class=2), np.random.default_rng(4))
    one.grow()
    one.grow()
    assert one.shelves.added[:3].tolist() == [3, 3, 0] and one.shelves.filled()[:3].tolist() == [2, 2, 0]
    assert set(one.draw_classes(50)) == {0, 1}, "only classes that have views"


def test_every_framed_view_counts_in_the_mean_of_its_words(reservoir):
    counts, shelves = reservoir.means.count, reservoir.shelves
    framed = shelves.framed.sum(1)
    assert (counts.sum(1)[1:] == framed[1:]).all() and counts.sum(1).min() >= 3, "every class has some"
    assert counts[0].sum() in (3, 6, 9), "also views that the reservoir no longer has"
    assert {True, False} == set(shelves.framed[1:].ravel().tolist())
    for count, angles in zip(counts, reservoir.means.angles, strict=True):
        assert sorted(degree_view(*a) for a in angles) == sorted(
            word for word, n in zip(ALL_DEGREE_VIEWS, count, strict=True) for _ in range(n)
        )
    drawn = reservoir.means.draw(np.array([3] * 40 + [5]), np.random.default_rng(0))
    for classes, sums, count, *angles in zip(
        [3] * 40 + [5], drawn.sums, drawn.count, drawn.azimuth, drawn.elevation, strict=True
    ):
        word = ALL_DEGREE_VIEWS.index(degree_view(*angles))
        assert counts[classes, word] == count > 0 and torch.equal(sums, reservoir.means.sums[classes, word])


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_hidden_pictures_are_what_shown_ones_are_on_average(mode, monkeypatch):
    """One view of a house with its repainted parts; the mean of 3000 pictures has a deviation of at most 0.5 / 55 a
    pixel. Lights are fixed, since those of the mean picture are two draws."""
    monkeypatch.setattr(training, "sample_light_positions", lambda *args: torch.full((len(args[1]), 3), 1.0))
    monkeypatch.setattr(means, "sample_light_positions", lambda *args: torch.full((len(args[1]), 3), 1.0))
    monkeypatch.setattr(training, "backgrounds", lambda n, *args: torch.full((n, 1, 1, 3), 0.5))
    random = np.random.default_rng(7)
    one = Reservoir(replace(TINY, chunk=1, views_per_class=1), random)
    house = one.next = CLASSES.index("house")
    one.grow()
    color = list(COLORS).index("orange")
    total, n = 0.0, 500
    for _ in range(6):
        seen = one.shelves.draw(np.full(n, house), random)
        pictures = training.shade_views(seen, np.full(n, color), np.full(n, mode), random)
        total = total + pictures.double().sum(0)
    drawn = one.means.draw(np.array([house]), random)
    assert [drawn.azimuth[0], drawn.elevation[0]] == [seen.azimuth[0], seen.elevation[0]]
    expected = means.pictures(drawn, training.mean_colors(np.array([color])), np.array([mode]), 0.5)[0]
    assert (total / (6 * n) - expected).abs().max() < 0.05
    assert (total / (6 * n) - expected).abs().mean() < 2e-3
    assert expected.std() > 0.02, "there is something to see"


def test_pictures_and_captions_belong_together(reservoir, monkeypatch):
    """Of single-coloured toys without light: the toy has the colour of its caption, up to the jitter of 0.04, and the
    caption the class and the view of the picture."""
    monkeypatch.setattr(training, "sample_modes", lambda light, n, progress, random: np.zeros(n, dtype=int))
    seen = []
    monkeypatch.setattr(training, "caption", lambda *args: seen.append(args) or "a mug")
    random = np.random.default_rng(1)
    images, texts, _ = training_batch(reservoir, 200, random)
    assert images.shape == (200, 3, 64, 64) and images.min() >= -1 and images.max() <= 1 and texts == ["a mug"] * 200
    checked = 0
    for image, (name, color, azimuth, elevation, mode, *_) in zip((images + 1) / 2, seen, strict=True):
        assert name in CLASSES and mode == 0 and -0.2 < elevation < 1.58 and 0 <= azimuth < 6.3
        if name in ("sphere", "cube", "cylinder") and (image[:, 31:33, 31:33].flatten(1).std(1) < 1e-3).all():
            assert (image[:, 32, 32] - torch.tensor(COLORS[color])).abs().max() < 5 * training.COLOR_JITTER
            checked += 1
    assert checked > 5


def test_batches_have_all_modes_and_known_words(reservoir):
    images, texts, steps = training_batch(reservoir, 120, np.random.default_rng(2))
    corners = images[:, :, ::63, ::63].flatten(1)
    blind = torch.tensor(steps >= training.BLIND)
    assert 31 < blind.sum() < 41 and (corners[blind] == 0).float().mean() > 0.8, "toys seldom reach the corners"
    assert (corners[~blind] == 0).float().mean() < 0.05
    tokenizer = build_tokenizer()
    ids = caption_ids(tokenizer, texts)
    assert not (ids == tokenizer.unk_token_id).any() and ids.dtype == np.int64
    assert (ids == tokenize(tokenizer, texts).input_ids.numpy()).all(), "the quick way is the tokenizer's"
    assert any("clay" in t for t in texts) and any("flat" in t for t in texts) and "" in texts
    assert len(set(texts)) > 80 and images.dtype == torch.float32
    modes = sample_modes(training.LIGHTS, 8000, 1.0, np.random.default_rng(3))
    assert stats.chisquare(np.bincount(modes), 8000 * np.array([0.25, 0.375, 0.375])).pvalue > 1e-3


@pytest.mark.parametrize("blind", training.BLIND_SHARE)
def test_noise_levels_are_a_mixture_of_a_power_and_of_almost_pure_noise(blind):
    steps = training.sample_noise_levels(20_000, np.random.default_rng(1), blind) / 1000
    share, start, end, power = training.TEXT_SHARE, training.TEXT_FROM, training.BLIND / 1000, training.HIGH_NOISE_POWER

    def cdf(t):
        t = np.clip(t, 0, 1)
        text = ((t - start) / (end - start)).clip(0, 1)
        seen = (1 - share) * t ** (1 / power) + share * text
        return (1 - blind) * seen + blind * ((t - end) / (1 - end)).clip(0)

    assert stats.kstest(steps + 5e-4, cdf).statistic < max(4e-3, blind / 34), "as near as whole timesteps can be"
    assert steps.min() < 0.01 and steps.max() == 0.999
