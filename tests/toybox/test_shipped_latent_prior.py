"""The latent prior that is shipped: what its autoencoder keeps, what its samples show, what loads it."""

from dataclasses import replace

import pytest

from dreamfusion_ngp.config.presets import toybox_256
from dreamfusion_ngp.evaluation.autoencoder import judge_autoencoder
from dreamfusion_ngp.evaluation.judge import load_judge
from dreamfusion_ngp.evaluation.prior import judge_pictures, sample_requests, true_pictures
from dreamfusion_ngp.guidance.denoisers.latent import LATENT
from dreamfusion_ngp.guidance.load import family, load_guidance
from dreamfusion_ngp.toybox.prior.latent_model import LATENT_PRIOR, load_latent_prior
from dreamfusion_ngp.toybox.prior.latent_sampling import sample

ASKED = 40


@pytest.fixture(scope="module")
def prior():
    return load_latent_prior()


def test_its_autoencoder_keeps_small_parts_and_pulls_evenly(prior):
    found = judge_autoencoder(prior, gradients=20)
    assert found["psnr"] >= 36 and found["psnr_toy"] >= 31  # of twenty held-out pictures
    assert found["grid"] <= 1.5 and found["border_most"] <= 1.0


@pytest.mark.slow
def test_its_samples_show_what_they_are_asked_for(prior):
    """Two of each class in few steps, beside true pictures, of which the judge knows nearly all."""
    judge, asked = load_judge(), sample_requests(ASKED)
    drawn = sample(prior, [request.text for request in asked], steps=12)
    assert drawn.shape == (ASKED, 256, 256, 3) and float(drawn.min()) >= 0 and float(drawn.max()) <= 1
    found, truth = (judge_pictures(judge, pictures, asked) for pictures in (drawn, true_pictures(asked)))
    for key, least in (("class", 0.85), ("color", 0.6), ("view", 0.75)):
        assert share(truth, key) >= 0.9 and share(found, key) >= least, key


def share(records, key):
    """Of those that say something of it."""
    known = [record[key] for record in records if record[key] is not None]
    return sum(known) / len(known)


def test_what_loads_stable_diffusion_loads_it():
    assert family(LATENT_PRIOR) is LATENT
    guidance = load_guidance(replace(toybox_256(), prompt="a red mug"), "cpu")
    assert guidance.denoiser.shape == (4, 32, 32) and guidance.denoiser.scale == 4.0
