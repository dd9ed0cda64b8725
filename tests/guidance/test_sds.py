"""The maths of score distillation against hand-written float64 numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dreamfusion_ngp.base.rng import Stream, generator
from dreamfusion_ngp.config.schema import GuidanceConfig, RunConfig
from dreamfusion_ngp.guidance.classifier_free import (
    classifier_free_guidance,
    clip_clean,
    perp_neg_guidance,
    rescale_guidance,
)
from dreamfusion_ngp.guidance.protocol import Predictions
from dreamfusion_ngp.guidance.schedule import (
    Schedule,
    predicted_noise,
    sample_noise,
    sample_timesteps,
    signal_and_noise,
    t_max,
    weight,
)
from dreamfusion_ngp.guidance.score_distillation import ScoreDistillation, clip_pixels, pull_back

LENGTH = 1000
ABAR = np.cos(np.linspace(0.01, 0.99, LENGTH) * np.pi / 2) ** 2


PLAIN = GuidanceConfig()


class Denoiser:
    """Of x as it is, with an output written down. told: z, alpha, sigma and t -> what the network predicts."""

    scale, views_together, device = 1.0, False, torch.device("cpu")

    def __init__(self, output, shape, prediction="epsilon"):
        self.output, self.shape, self.schedule = output, shape, Schedule(ABAR, prediction)

    def encode(self, image):
        return image.permute(0, 3, 1, 2)

    def predict(self, z, t, views):
        answer = self.output(z, t)
        return Predictions(answer, answer)


def run(x, output=lambda z, t: 0.3 * z + 0.1, prediction="epsilon", config=PLAIN, part=7, seed=5, progress=0.0):
    """Guidance on x (B, 3, H, H); its gradient in that order of axes."""
    guidance = ScoreDistillation(
        RunConfig(seed=seed, guidance=config), Denoiser(output, tuple(x.shape[1:]), prediction)
    )
    out = guidance(x.permute(0, 2, 3, 1), range(len(x)), part, progress)
    return replace(out, gradient=out.gradient.permute(0, 3, 1, 2))


@pytest.mark.parametrize("weighting", ["sigma2", "uniform", "clean"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_gradient_on_the_image_is_the_papers(prediction, weighting):
    random = np.random.default_rng(0)
    image = random.uniform(-1, 1, (3, 3, 5, 5))
    x = torch.tensor(image)
    out = run(
        x,
        lambda z, t: torch.tanh(z) * 0.7 + torch.tensor(t).double()[:, None, None, None] * 1e-3,
        prediction,
        GuidanceConfig(weighting=weighting),
    )

    draws = generator(5, 7, Stream.GUIDANCE)
    order, offset = draws.random((2, 3))
    noise = draws.standard_normal((3, 3, 5, 5), dtype=np.float32).astype(np.float64)
    for b in range(3):
        t = int((0.02 + 0.96 * (np.argsort(order)[b] + offset[b]) / 3) * LENGTH)
        alpha, sigma = np.sqrt(ABAR[t]), np.sqrt(1 - ABAR[t])
        z = alpha * image[b] + sigma * noise[b]
        predicted = np.tanh(z) * 0.7 + t * 1e-3
        noise_hat = {
            "epsilon": predicted,
            "v_prediction": alpha * predicted + sigma * z,
            "sample": (z - alpha * predicted) / sigma,
        }[prediction]
        w = {"sigma2": sigma**2, "uniform": 1.0, "clean": sigma / alpha}[weighting]
        np.testing.assert_allclose(
            out.gradient[b].numpy(), w * (noise_hat - noise[b]) / image[b].size / 3, rtol=1e-12, atol=1e-15
        )


def test_weighted_clean_the_gradient_is_the_distance_to_the_predicted_clean_image():
    x = torch.rand(4, 3, 5, 5, dtype=torch.float64)
    target = torch.rand(4, 3, 5, 5, dtype=torch.float64)
    out = run(x, lambda z, t: target, "sample", GuidanceConfig(weighting="clean"))
    torch.testing.assert_close(out.gradient, (x - target) / x.numel())


def test_a_model_that_is_right_gives_no_gradient():
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64)

    out = run(x, lambda z, t: x, "sample")
    assert out.gradient.abs().max() < 1e-12 and float(out.value) < 1e-12


def test_the_gradient_is_a_mean_per_view():
    """However small it is beside the image."""
    x, target = torch.full((4, 3, 8, 8), 1e4), torch.randn(4, 3, 8, 8)
    out = run(x, lambda z, t: z * 0 + target, config=GuidanceConfig(weighting="uniform"))
    noise = sample_noise(PLAIN, tuple(x.shape), seed=5, part=7, progress=0.0, length=LENGTH)[1]
    wanted = target - torch.from_numpy(noise)
    torch.testing.assert_close(out.gradient, wanted / (3 * 8 * 8) / 4, rtol=1e-6, atol=0)
    assert float(out.value) == pytest.approx(float(wanted.square().mean()) / 2, rel=1e-5, abs=0)


def test_no_autograd_goes_through_the_denoiser():
    scale = torch.tensor(0.5, requires_grad=True)
    out = run(torch.rand(2, 3, 4, 4, requires_grad=True), lambda z, t: z * scale)
    assert not out.gradient.requires_grad and not out.value.requires_grad


def test_guidance_scale_is_in_the_convention_of_diffusers():
    uncond, cond = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0])
    torch.testing.assert_close(classifier_free_guidance(uncond, cond, 1.0), cond)
    torch.testing.assert_close(classifier_free_guidance(uncond, cond, 0.0), uncond)
    omega = 100.0  # the paper's, equation of section 2
    torch.testing.assert_close(classifier_free_guidance(uncond, cond, omega + 1), (1 + omega) * cond - omega * uncond)


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_guiding_any_prediction_guides_the_noise(prediction):
    z, a, b = torch.randn(3, 2, 3, 4, 4, dtype=torch.float64)
    alpha, sigma = signal_and_noise(ABAR, np.array([300, 800]), z)

    def noise(output):
        return predicted_noise(output, z, alpha, sigma, prediction)

    guided = noise(classifier_free_guidance(a, b, 15.0))
    torch.testing.assert_close(guided, classifier_free_guidance(noise(a), noise(b), 15.0))


def test_clipping_bounds_the_clean_image_and_changes_nothing_within():
    z, noise_hat = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    alpha, sigma = signal_and_noise(ABAR, np.array([300, 800]), z)
    clipped = clip_clean(noise_hat, z, alpha, sigma)
    before, after = ((z - sigma * e) / alpha for e in (noise_hat, clipped))
    inside = before.abs() <= 1
    assert inside.any() and not inside.all()
    torch.testing.assert_close(after, before.clamp(-1, 1))
    torch.testing.assert_close(clipped[inside], noise_hat[inside])


def test_timesteps_are_stratified_uniform_and_every_view_gets_every_part():
    config = GuidanceConfig(t_range=(0.02, 0.98))
    random = np.random.default_rng(1)
    t = np.stack([sample_timesteps(config, random.random((2, 4)), 0.0, LENGTH) for _ in range(4000)])
    assert t.min() >= 20 and t.max() < 980
    parts = (t - 20) // 240
    assert (np.sort(parts, 1) == np.arange(4)).all(), "each quarter of the interval once per step"
    share = np.stack([np.bincount(parts[:, view], minlength=4) for view in range(4)]) / len(t)
    assert abs(share - 0.25).max() < 0.03
    counts = np.histogram(t.reshape(-1), 24, (20, 980))[0]
    expected = t.size / 24
    assert ((counts - expected) ** 2 / expected).sum() < 60, "chi-square over 24 bins"


def test_the_upper_end_of_t_is_annealed_linearly():
    config = GuidanceConfig(t_range=(0.02, 0.98), t_max_end=0.5)
    assert [t_max(config, p) for p in (-1.0, 0.0, 0.5, 1.0, 2.0)] == pytest.approx([0.98, 0.98, 0.74, 0.5, 0.5])
    draws = np.stack([np.random.default_rng(2).random(64), np.full(64, 1 - 1e-9)])
    assert sample_timesteps(config, draws, 1.0, LENGTH).max() == 499
    assert sample_timesteps(GuidanceConfig(t_range=(0.0, 1.0), t_max_end=1.0), draws, 1.0, LENGTH).max() == LENGTH - 1


def test_both_ends_of_t_fall_and_arrive_before_the_end_of_the_run():
    """MVDream: from .98 alone to .02 to .50, by 80 % of the run."""
    config = GuidanceConfig(t_range=(0.02, 0.98), t_max_end=0.5, t_min_start=0.98, t_anneal=0.8)
    draws = np.random.default_rng(3).random((2, 4096))
    for progress, low, high in ((0.0, 980, 981), (0.4, 500, 740), (0.8, 20, 500), (1.0, 20, 500)):
        t = sample_timesteps(config, draws, progress, LENGTH)
        assert (t.min(), t.max()) == (low, high - 1), progress


def test_a_window_follows_the_upper_end_down_and_stops_at_the_lower():
    config = GuidanceConfig(t_range=(0.02, 0.98), t_max_end=0.1, t_window=0.3)
    draws = np.random.default_rng(3).random((2, 4096))
    for progress, low, high in ((0.0, 680, 980), (0.5, 240, 540), (1.0, 20, 100)):
        t = sample_timesteps(config, draws, progress, LENGTH)
        assert (t.min(), t.max()) == (low, high - 1), progress


def test_numbers_depend_on_seed_and_step_and_on_nothing_else():
    x = torch.rand(4, 3, 6, 6)
    losses = {(seed, step): float(run(x, seed=seed, part=step).value) for seed in (0, 1) for step in (0, 1, 2)}
    assert len(set(losses.values())) == 6
    np.random.seed(3)
    torch.manual_seed(4)
    assert float(run(x, seed=1, part=2).value) == losses[1, 2]


def test_the_log_has_plain_numbers():
    log = run(torch.rand(2, 3, 4, 4)).log
    assert {k: float(v) for k, v in log.items()}.keys() == {"t", "gradient_rms", "residual_rms"}
    assert 0.02 < log["t"] < 0.98 and not any(v.requires_grad for v in log.values() if torch.is_tensor(v))
    assert float(log["gradient_rms"]) < float(log["residual_rms"])


def test_unknown_names_are_refused():
    x = torch.zeros(1, 3, 2, 2)
    with pytest.raises(ValueError, match="prediction: must be"):
        predicted_noise(x, x, x, x, "score")
    with pytest.raises(ValueError, match="weighting: must be"):
        weight(x, x, "sds")


def test_perp_neg_takes_away_only_what_is_orthogonal():
    """Against the formula in float64, one sample at a time; a negative that is the text itself changes nothing."""
    uncond, cond, *negatives = torch.randn(4, 3, 3, 4, 4, dtype=torch.float64)
    weights = torch.tensor([[-2.0, -0.5, 0.0], [-1.0, 0.0, -3.0]], dtype=torch.float64)
    got = perp_neg_guidance(uncond, cond, negatives, weights, 7.0)
    for b in range(3):
        u, d = uncond[b].reshape(-1).numpy(), (cond - uncond)[b].reshape(-1).numpy()
        total = d.copy()
        for i, negative in enumerate(negatives):
            n = negative[b].reshape(-1).numpy() - u
            perpendicular = n - (n @ d) / (d @ d) * d
            assert abs(perpendicular @ d) < 1e-10
            total += float(weights[i, b]) * perpendicular
        np.testing.assert_allclose(got[b].reshape(-1).numpy(), u + 7.0 * total, rtol=1e-10)
    plain = classifier_free_guidance(uncond, cond, 7.0)
    torch.testing.assert_close(perp_neg_guidance(uncond, cond, [cond], weights[:1], 7.0), plain)
    same = perp_neg_guidance(uncond, uncond, [uncond], weights[:1], 7.0)
    assert torch.equal(same, uncond), "no direction at all is no division by zero"


def test_rescaled_guidance_has_the_spread_of_the_conditional():
    cond, guided = torch.randn(2, 3, 3, 8, 8, dtype=torch.float64)
    guided = 5 * guided
    full = rescale_guidance(guided, cond, 1.0)
    torch.testing.assert_close(full.std((1, 2, 3)), cond.std((1, 2, 3)))
    torch.testing.assert_close(rescale_guidance(guided, cond, 0.3), 0.3 * full + 0.7 * guided)
    assert rescale_guidance(guided, cond, 0.0) is guided


def test_clipped_pixels_keep_their_direction_and_others_their_value():
    gradient = torch.randn(2, 5, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 150
    gradient[0, 0, 0] *= 100
    clipped = clip_pixels(gradient, 3.0)
    norm, before = (g.norm(dim=-1) * g.numel() for g in (clipped, gradient))
    torch.testing.assert_close(norm, before.clamp_max(3.0))
    torch.testing.assert_close(
        torch.nn.functional.normalize(clipped, dim=-1), torch.nn.functional.normalize(gradient, dim=-1)
    )
    assert (before > 3).any() and torch.equal(clipped[before <= 3], gradient[before <= 3])
    assert clip_pixels(gradient, None) is gradient and clip_pixels(0 * gradient, 1.0).abs().max() == 0


def test_a_pulled_back_gradient_is_that_of_autograd_bit_for_bit():
    matrix = torch.randn(8, 8)
    image, other = (torch.rand(2, 3, 8, 8).requires_grad_() for _ in range(2))
    other.data.copy_(image.data)
    gradient = torch.randn(2, 3, 8, 8)
    (matrix @ image * 2 - 1).mul(gradient).mean().backward()
    pulled = pull_back(matrix @ other * 2 - 1, other, gradient, 2)
    assert torch.equal(pulled, image.grad)


def test_an_encoder_in_half_precision_loses_no_small_gradient():
    """Of a view of 4 x 64 x 64 numbers the mean's gradient is 1e-8 here, far below what float16 holds."""
    matrix = torch.randn(16, 64, generator=torch.Generator().manual_seed(0)) / 8
    gradient = 1e-4 * torch.randn(2, 4, 64, 64, generator=torch.Generator().manual_seed(1))
    pulled = []
    for dtype in (torch.float32, torch.float16):
        image = torch.rand(2, 4, 64, 16, generator=torch.Generator().manual_seed(2)).requires_grad_()
        x = (image.to(dtype) @ matrix.to(dtype)).float()
        pulled.append(pull_back(x, image, gradient, 2))
    assert (pulled[1] - pulled[0]).norm() < 5e-3 * pulled[0].norm() and pulled[0].abs().max() < 6e-8
