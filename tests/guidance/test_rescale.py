"""Rescaling of guidance: of the clean image over the views together, as MVDream does, and of a view's prediction."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.tiny_models import config, judged

from dreamfusion_ngp.base.errors import UsageError
from dreamfusion_ngp.base.rng import Stream, generator
from dreamfusion_ngp.config.checks import check_config
from dreamfusion_ngp.config.io import from_dict, to_dict
from dreamfusion_ngp.config.presets import fast
from dreamfusion_ngp.config.schema import RunConfig
from dreamfusion_ngp.evaluation.pictures import judging_cameras, toy_pictures
from dreamfusion_ngp.guidance.classifier_free import perp_neg_guidance, rescale_clean
from dreamfusion_ngp.guidance.load import load_guidance
from dreamfusion_ngp.guidance.protocol import Predictions
from dreamfusion_ngp.guidance.schedule import sample_timesteps
from dreamfusion_ngp.scene.lights import ALBEDO
from dreamfusion_ngp.scene.views import Views


def loaded(folder, **options):
    return load_guidance(config(folder, precision="float32", scale=30.0, **options), "cpu")


def image() -> torch.Tensor:
    return torch.rand(3, 12, 12, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()


def mvdream(x0_guided: np.ndarray, x0_conditional: np.ndarray, factor: float) -> np.ndarray:
    """MVDream's adjusted target: the guided clean image times the ratio of deviations (n - 1 in the denominator), all
    views, channels and pixels as one sample, mixed with itself."""

    def deviation(x):
        return np.sqrt(((x - x.mean()) ** 2).sum() / (x.size - 1))

    return factor * x0_guided * deviation(x0_conditional) / deviation(x0_guided) + (1 - factor) * x0_guided


def test_the_free_function_is_mvdreams_formula():
    random = np.random.default_rng(0)
    z, cond = random.standard_normal((2, 4, 4, 6, 6))
    guided = cond + 8 * random.standard_normal((4, 4, 6, 6))
    alpha, sigma = 0.6, 0.8
    wanted = mvdream((z - sigma * guided) / alpha, (z - sigma * cond) / alpha, 0.5)
    like = [torch.tensor(v) for v in (guided, cond, z, alpha, sigma)]
    found = rescale_clean(*like, 0.5)
    np.testing.assert_allclose((z - sigma * found.numpy()) / alpha, wanted, rtol=1e-6)
    assert rescale_clean(*like, 0.0) is like[0]


def test_each_object_has_a_factor_of_its_own():
    """MVDream's code takes the deviation over the four views of an object, also where a step has two objects."""
    random = np.random.default_rng(0)
    z, cond = random.standard_normal((2, 8, 4, 6, 6))
    guided = cond + np.repeat([8.0, 2.0], 4).reshape(-1, 1, 1, 1) * random.standard_normal((8, 4, 6, 6))
    like = [torch.tensor(v) for v in (guided, cond, z, 0.6, 0.8)]
    found = (z - 0.8 * rescale_clean(*like, 0.5, together=4).numpy()) / 0.6
    for part in (slice(0, 4), slice(4, 8)):
        wanted = mvdream(*((z[part] - 0.8 * said[part]) / 0.6 for said in (guided, cond)), 0.5)
        np.testing.assert_allclose(found[part], wanted, rtol=1e-6)


@pytest.mark.parametrize("kind", ["sd", "sdv", "sd3"])
@pytest.mark.parametrize(
    "options",
    [{}, {"slice": 1}, {"slice": 2}, {"slice": 1, "view_blend": "perp-neg"}, {"slice": 2, "negative": "clay"}],
    ids=str,
)
def test_the_views_are_rescaled_together_however_they_are_cut(kind, options, latent_folders, monkeypatch):
    """The network's own answers put through the formula in numpy give what the guidance uses for all three views."""
    guidance, seen = loaded(latent_folders[kind], rescale=0.5, rescale_of="clean", **options), []
    predict, rule, found = guidance.denoiser.predict, guidance.rule, []

    def spy(z, t, views):
        said = predict(z, t, views)
        seen.append((z.double(), t, *(a.double() for a in (said.uncond, said.cond)), said))
        return said

    monkeypatch.setattr(guidance.denoiser, "predict", spy)
    monkeypatch.setattr(guidance, "rule", lambda *given: found.append(rule(*given)) or found[-1])
    judged(guidance, image(), 4)
    x, pictures = [], []
    for z, t, uncond, cond, said in seen:
        guided = uncond + 30.0 * (cond - uncond)
        if said.negatives:
            negatives = [n.double() for n in said.negatives]
            guided = perp_neg_guidance(uncond, cond, negatives, said.weights.double(), 30.0)
        a = torch.tensor(guidance.denoiser.schedule.abar[t]).reshape(-1, 1, 1, 1)
        alpha, sigma = a.sqrt(), (1 - a).sqrt()
        clean = {
            "sd": lambda y: (z - sigma * y) / alpha,
            "sdv": lambda y: alpha * z - sigma * y,
            "sd3": lambda y: (z - sigma * (z + alpha * y) / (alpha + sigma)) / alpha,
        }[kind]
        pictures.append((clean(guided), clean(cond)))
        x.append((z, alpha, sigma))
    target = torch.tensor(mvdream(*(torch.cat(p).numpy() for p in zip(*pictures, strict=True)), 0.5))
    z, alpha, sigma = (torch.cat(part) for part in zip(*x, strict=True))
    gradient = torch.cat(found).double()
    draws = generator(3, 4, Stream.GUIDANCE)
    draws.random((2, 3))
    noise = torch.from_numpy(draws.standard_normal((3, *guidance.denoiser.shape), dtype=np.float32)).double()
    expected = (z - alpha * target) / sigma - noise
    assert (gradient - sigma**2 * expected).norm() < 1e-4 * (sigma**2 * expected).norm()
    assert len(seen) == {1: 3, 2: 2}.get(options.get("slice"), 1), "the network is asked once for each part"


@pytest.mark.parametrize("kind", ["sd", "sd3"])
def test_a_part_of_the_views_changes_nothing_on_the_render(kind, latent_folders):
    gradients = []
    for some in (0, 1, 2):
        rgb = image()
        rgb.grad = judged(loaded(latent_folders[kind], rescale=0.5, rescale_of="clean", slice=some), rgb, 4).gradient
        gradients.append(rgb.grad)
    for other in gradients[1:]:
        assert (other - gradients[0]).norm() < 1e-4 * gradients[0].norm()


def test_parts_of_a_step_that_cannot_see_each_other_are_refused():
    guidance = replace(fast().guidance, rescale=0.5, rescale_of="clean")
    check_config(replace(fast(), guidance=guidance))
    with pytest.raises(UsageError, match="accumulate must be 1") as caught:
        check_config(replace(fast(), guidance=guidance, accumulate=2))
    assert "\n" not in str(caught.value)
    check_config(replace(fast(), guidance=replace(guidance, rescale_of="prediction"), accumulate=2))


def test_a_config_from_before_the_choice_means_what_it_meant():
    data = to_dict(fast())
    data["guidance"] |= {"rescale": 0.5}
    for key in ("rescale_of", "t_shared", "t_shifted"):
        del data["guidance"][key]
    guidance = from_dict(RunConfig, data).guidance
    assert (guidance.rescale, guidance.rescale_of) == (0.5, "prediction")
    assert not guidance.t_shared and not guidance.t_shifted


def test_views_may_share_their_noise_level():
    draws = np.random.default_rng(0).random((2, 4))
    shared = sample_timesteps(
        replace(fast().guidance, t_range=(0.1, 0.9), t_max_end=0.9, t_window=1.0, t_shared=True), draws, 0.0, 1000
    )
    assert shared.shape == (4,) and set(shared) == {int((0.1 + 0.8 * draws[1, 0]) * 1000)}


def test_only_the_clean_image_holds_contrast_down():
    """The embedded prior, asked for the noise, at t 300 and scale 7.5, on a picture with half of the contrast.
    Rescaling the prediction leaves the direction of the mean gradient, and so Adam's steps, as they were; rescaling the
    clean image turns it away from more contrast."""
    cameras = judging_cameras((20, 110, 200, 290))
    picture = 0.5 * toy_pictures("mug", (0.8, 0.1, 0.1), cameras=cameras, resolution=64).albedo + 0.25
    seen = Views(cameras, torch.zeros(4, 6), np.full(4, ALBEDO))
    none = mean_gradient(picture, seen)
    prediction = mean_gradient(picture, seen, rescale=0.5)
    clean = mean_gradient(picture, seen, rescale=0.5, rescale_of="clean")
    contrast = picture - picture.mean((1, 2, 3), keepdim=True)
    assert cosine(none, prediction) > 0.997 and cosine(none, clean) < 0.95
    assert cosine(none, contrast) < -0.5, "descent adds contrast"
    assert cosine(prediction, contrast) == pytest.approx(cosine(none, contrast), abs=0.01)
    assert cosine(clean, contrast) > cosine(none, contrast) + 0.15


def mean_gradient(picture: torch.Tensor, seen: Views, **options) -> torch.Tensor:
    """Of three draws of the noise, with the embedded prior as a model that predicts the noise."""
    guidance = replace(fast().guidance, scale=7.5, t_range=(0.3, 0.301), t_max_end=0.301, clip_clean=False, **options)
    judge = load_guidance(replace(fast(), prompt="a red mug", guidance=guidance), "cpu")
    predict, schedule = judge.denoiser.predict, judge.denoiser.schedule

    def noise_hat(z, t, views):
        alpha, sigma = schedule.coefficients(t, z)
        said = predict(z, t, views)
        return Predictions(*(schedule.noise(y, z, alpha, sigma) for y in (said.uncond, said.cond)))

    judge.denoiser.predict, judge.denoiser.schedule = noise_hat, replace(schedule, prediction="epsilon")
    return sum(judge(picture, seen, step, step / 100).gradient for step in range(3))


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))
