"""Each distillation rule against its formula, written by hand in float64, one view at a time."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from support.known_denoiser import LENGTH, KnownDenoiser, formula

from dreamfusion_ngp.base.rng import Stream, generator
from dreamfusion_ngp.config.schema import GuidanceConfig
from dreamfusion_ngp.guidance.moment import NOISES, Moment
from dreamfusion_ngp.guidance.rules import FUNCTIONS

T = np.array([30, 150, 430, 700, 960])
SHAPE = (len(T), 2, 4, 4)
RANDOM = np.random.default_rng(0)
X, NOISE = RANDOM.normal(0, 0.6, SHAPE), RANDOM.standard_normal(SHAPE)
MOMENT = Moment(seed=4, part=9, progress=0.3, views=len(T))
SCALE = 6.0
W = {
    "sigma2": lambda a, s: s * s,
    "uniform": lambda a, s: 1.0,
    "clean": lambda a, s: s / a,
    "velocity": lambda a, s: 1 + s / a,
}


def asked(rule, denoiser, moment=MOMENT, t=T, **settings):
    """What a rule says, as a numpy array."""
    config = GuidanceConfig(scale=SCALE, **settings)
    found = FUNCTIONS[rule](denoiser, torch.tensor(X), torch.tensor(NOISE), t, range(len(t)), config, moment)
    assert found.shape == SHAPE and found.dtype == torch.float64
    return found.numpy()


def by_hand(formula_of_view, denoiser, weighting, t=T):
    """The formula for every view, weighed: (b, x, noise, t, alpha, sigma) -> the gradient before w(t)."""
    rows = []
    for b, at in enumerate(t):
        alpha, sigma = denoiser.level(at)
        rows.append(W[weighting](alpha, sigma) * formula_of_view(b, X[b], NOISE[b], int(at), alpha, sigma))
    return np.stack(rows)


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-11)


def uniform(n):
    return generator(4, 9, Stream.RULE).random((n, len(T)))


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("weighting", ["sigma2", "clean"])
def test_linear_is_the_sum_of_what_the_texts_say(weighting, negative):
    denoiser, (a, b, c, d) = KnownDenoiser(negative=negative), (1.5, -0.25, 0.7, -0.4)

    def gradient(view, x, noise, t, alpha, sigma):
        z = alpha * x + sigma * noise
        away = formula(z, t, "negative" if negative else "empty")
        return a * formula(z, t, "text") + b * formula(z, t, "empty") + c * away + d * noise

    settings = dict(weights=(a, b, c, d), weighting=weighting, negative="clay" if negative else "")
    close(asked("linear", denoiser, **settings), by_hand(gradient, denoiser, weighting))
    assert denoiser.told[0][0] == (("text", "empty", "negative") if negative else ("text", "empty"))


def test_a_text_without_weight_is_not_asked_for():
    denoiser = KnownDenoiser()
    asked("linear", denoiser, weights=(1.0, 0.0, 0.0, -1.0))
    assert [texts for texts, _ in denoiser.told] == [("text",)]


@pytest.mark.parametrize("negative", [False, True])
def test_some_weights_make_sds_of_linear(negative):
    """(s, 1 - s, 0, -1); with a negative prompt, which is what sds has without the text, (s, 0, 1 - s, -1)."""
    rest = (0.0, 1 - SCALE) if negative else (1 - SCALE, 0.0)
    settings = dict(weighting="clean", negative="clay" if negative else "")
    found = asked("linear", KnownDenoiser(negative=negative), weights=(SCALE, *rest, -1.0), **settings)
    close(found, asked("sds", KnownDenoiser(negative=negative), **settings))


@pytest.mark.parametrize("progress", [0.0, 0.2, 0.5, 0.9])
def test_csd_leaves_the_empty_text_for_the_negative_one(progress):
    denoiser, p = KnownDenoiser(negative=True), min(1.0, progress / 0.5)

    def gradient(view, x, noise, t, alpha, sigma):
        z = alpha * x + sigma * noise
        return SCALE * (formula(z, t, "text") - (1 - p) * formula(z, t, "empty") - p * formula(z, t, "negative"))

    found = asked("csd", denoiser, replace(MOMENT, progress=progress), negative="clay", weighting="uniform")
    close(found, by_hand(gradient, denoiser, "uniform"))
    plain = asked("csd", KnownDenoiser(), replace(MOMENT, progress=progress), weighting="uniform")
    close(plain, asked("linear", KnownDenoiser(), weights=(SCALE, -SCALE, 0.0, 0.0), weighting="uniform"))


def test_nfsd_has_another_direction_below_a_fifth_of_the_schedule():
    denoiser = KnownDenoiser(negative=True)

    def gradient(view, x, noise, t, alpha, sigma):
        z = alpha * x + sigma * noise
        text, empty, negative = (formula(z, t, name) for name in ("text", "empty", "negative"))
        return SCALE * (text - empty) + (empty if t < 200 else empty - negative)

    close(asked("nfsd", denoiser, negative="clay"), by_hand(gradient, denoiser, "sigma2"))
    high = np.array([300, 400, 500, 600, 700])
    close(asked("nfsd", KnownDenoiser(), t=high), asked("csd", KnownDenoiser(), t=high))


def test_bridge_is_sds_and_then_leaves_the_flawed_text():
    def gradient(view, x, noise, t, alpha, sigma):
        z = alpha * x + sigma * noise
        return SCALE * (formula(z, t, "text") - formula(z, t, "flawed"))

    denoiser = KnownDenoiser()
    close(asked("bridge", denoiser, flaws="clay"), asked("sds", KnownDenoiser()))
    late = asked("bridge", denoiser, replace(MOMENT, progress=0.8), flaws="clay")
    close(late, by_hand(gradient, denoiser, "sigma2"))


def test_x0_is_the_distance_to_mvdreams_target():
    """The factor is one for all views: the ratio of the deviations of their clean images, n - 1 in the denominator."""
    denoiser, share = KnownDenoiser(), 0.5
    guided, of_text = np.empty(SHAPE), np.empty(SHAPE)
    for b, t in enumerate(T):
        alpha, sigma = denoiser.level(t)
        z = alpha * X[b] + sigma * NOISE[b]
        guided[b] = (z - sigma * denoiser.guided(z, t, SCALE)) / alpha
        of_text[b] = (z - sigma * formula(z, t, "text")) / alpha
    target = guided * (share * of_text.std(ddof=1) / guided.std(ddof=1) + 1 - share)
    found = asked("x0", denoiser, rescale=share, rescale_of="clean", weighting="clean")
    np.testing.assert_allclose(found, X - target, rtol=1e-6)


def test_x0_without_rescaling_is_sds_weighted_clean():
    close(asked("x0", KnownDenoiser(), weighting="clean"), asked("sds", KnownDenoiser(), weighting="clean"))


def test_asd_subtracts_what_is_predicted_a_little_later():
    denoiser, draws, later = KnownDenoiser(), uniform(1)[0], []

    def gradient(b, x, noise, t, alpha, sigma):
        later.append(min(t + int(draws[b] * 0.1 * max(t - 20, 0)), LENGTH - 1))
        alpha_later, sigma_later = denoiser.level(later[-1])
        own = formula(alpha_later * x + sigma_later * noise, later[-1], "text")
        return denoiser.guided(alpha * x + sigma * noise, t, SCALE) - own

    wanted = by_hand(gradient, denoiser, "sigma2")
    close(asked("asd", denoiser), wanted)
    np.testing.assert_array_equal(denoiser.told[1][1], later)
    assert (np.array(later) > T).sum() >= 3


def test_asd_counts_from_the_lowest_t_of_the_moment_and_views_may_share_the_step():
    """A model of several views sees all of them at one noise level, here as at t."""
    denoiser, t = KnownDenoiser(), np.full(len(T), 700)
    asked("asd", denoiser, t=t, t_min_start=0.5, t_shared=True)
    low = 0.5 + (0.02 - 0.5) * MOMENT.progress
    wanted = 700 + int(uniform(1)[0][0] * 0.1 * (700 - 1000 * low))
    assert list(denoiser.told[1][1]) == [wanted] * len(T) and wanted > 700


class Quiet(Moment):
    """Without noise on the way."""

    def normal(self, index, like):
        return torch.zeros_like(like)


def test_sdi_goes_equally_far_beyond_a_t_that_views_share():
    """So views of one picture have one gradient."""
    x, t, moment = torch.tensor(X[:1]).expand(SHAPE), np.full(len(T), 700), Quiet(4, 9, 0.3, len(T))
    for shared in (True, False):
        config = GuidanceConfig(scale=SCALE, weighting="clean", t_shared=shared)
        found = FUNCTIONS["sdi"](KnownDenoiser(), x, torch.tensor(NOISE), t, range(len(t)), config, moment)
        assert torch.allclose(found, found[:1].expand(SHAPE), rtol=1e-9) == shared


def step(z, noise_hat, levels, then):
    (alpha, sigma), (alpha_then, sigma_then) = levels, then
    return alpha_then * (z - sigma * noise_hat) / alpha + sigma_then * noise_hat


def test_ism_compares_two_points_of_an_unguided_path():
    denoiser = KnownDenoiser()

    def gradient(b, x, noise, t, alpha, sigma):
        before = max(t - 50, 20)
        times = sorted({min(20 + 200 * k, before) for k in range(6)})
        z, now = x, 20
        if before == 20:
            z = denoiser.level(20)[0] * x + denoiser.level(20)[1] * formula(x, 20, "empty")
        for then in times[1:]:
            noise_hat = formula(z, now, "empty")
            start = (1.0, 0.0) if now == 20 else denoiser.level(now)
            z, now = step(z, noise_hat, start, denoiser.level(then)), then
        inverted = formula(z, before, "empty")
        z = step(z, inverted, denoiser.level(before), (alpha, sigma))
        return denoiser.guided(z, t, SCALE) - inverted

    close(asked("ism", KnownDenoiser(), weighting="clean"), by_hand(gradient, denoiser, "clean"))
    told = KnownDenoiser()
    asked("ism", told, t=np.full(len(T), 960))
    assert len(told.told) == 5 + 1 + 1, "five strides up to s, s, and t with its two texts"


@pytest.mark.parametrize("steps", [1, 3])
def test_sdi_distils_from_the_noise_of_an_inversion(steps):
    denoiser, delta = KnownDenoiser(), np.floor(uniform(1)[0] * 100).astype(int)
    eta = [generator(4, 9 * NOISES + k, Stream.RULE_NOISE).standard_normal(SHAPE, np.float32) for k in range(12)]

    def gradient(b, x, noise, t, alpha, sigma):
        last = min(t + delta[b], LENGTH - 1)
        z, now = x, 20
        for k, then in enumerate([*range(100, t, 100), last]):
            noise_hat = denoiser.guided(z, now, -SCALE)
            levels, (alpha_then, sigma_then) = denoiser.level(now) if k else (1.0, 0.0), denoiser.level(then)
            z = step(z, noise_hat, levels, (alpha_then, sigma_then))
            if k:
                variance = (levels[1] / sigma_then) ** 2 * (1 - (alpha_then / levels[0]) ** 2)
                z, now = z + 0.3 * np.sqrt(variance) * eta[k][b], then
            now = then
        alpha_last, sigma_last = denoiser.level(last)
        noise = (z - alpha_last * x) / sigma_last
        z, times = alpha * x + sigma * noise, [t * k // steps for k in range(steps, 0, -1)]
        for now, then in pairwise(times):
            z = step(z, denoiser.guided(z, now, SCALE), denoiser.level(now), denoiser.level(then))
        alpha_now, sigma_now = denoiser.level(times[-1])
        clean = (z - sigma_now * denoiser.guided(z, times[-1], SCALE)) / alpha_now
        return alpha / sigma * (x - clean)

    for at in (430, 960):
        t = np.full(len(T), at)
        wanted = by_hand(gradient, denoiser, "clean", t)
        found = asked("sdi", KnownDenoiser(), t=t, weighting="clean", denoise_steps=steps)
        np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-9)


def velocity(z, t, denoiser, alpha, sigma, scale):
    """v_hat of a flow at its own z, from eps_hat = z + (1 - s) v_hat."""
    s = sigma / (alpha + sigma)
    return (denoiser.guided(z, t, scale) - z / (alpha + sigma)) / (1 - s)


def test_rfds_is_the_difference_of_velocities():
    denoiser = KnownDenoiser(flow=True)

    def gradient(b, x, noise, t, alpha, sigma):
        return velocity(alpha * x + sigma * noise, t, denoiser, alpha, sigma, SCALE) - (noise - x)

    found = asked("rfds", denoiser)
    np.testing.assert_allclose(found, by_hand(gradient, denoiser, "uniform"), rtol=1e-7)
    np.testing.assert_allclose(found, asked("sds", denoiser, weighting="velocity"), rtol=1e-7, atol=1e-9)


def test_rfds_rev_moves_the_noise_first():
    denoiser = KnownDenoiser(flow=True)

    def gradient(b, x, noise, t, alpha, sigma):
        z, s = alpha * x + sigma * noise, sigma / (alpha + sigma)
        v = (formula(z, t, "text") - z / (alpha + sigma)) / (1 - s)
        noise = noise + (1 - s) * (v - (noise - x))
        return velocity(alpha * x + sigma * noise, t, denoiser, alpha, sigma, SCALE) - (noise - x)

    np.testing.assert_allclose(asked("rfds_rev", denoiser), by_hand(gradient, denoiser, "uniform"), rtol=1e-7)


@pytest.mark.parametrize("rule", FUNCTIONS)
def test_a_rule_gives_the_same_for_some_of_the_views(rule):
    """However a step is sliced: what is drawn belongs to the view."""
    t = np.full(len(T), 700)
    settings = dict(weights=(2.0, -1.0, 0.0, -1.0), flaws="clay")
    config, denoiser = GuidanceConfig(scale=SCALE, **settings), KnownDenoiser(flow=rule.startswith("rfds"))
    moment, p = replace(MOMENT, progress=0.9), slice(1, 3)
    whole = FUNCTIONS[rule](denoiser, torch.tensor(X), torch.tensor(NOISE), t, range(len(t)), config, moment)
    some = FUNCTIONS[rule](denoiser, torch.tensor(X[p]), torch.tensor(NOISE[p]), t[p], range(2), config, moment.of(p))
    torch.testing.assert_close(some, whole[p], rtol=1e-12, atol=1e-13)
