"""The shipped multi-view prior: each camera shows its side of the toy that the text names, without view words."""

import pytest

from dreamfusion_ngp.evaluation.multiview import judge_multiview_prior
from dreamfusion_ngp.toybox.prior.multiview_model import MULTIVIEW_PRIOR, load_multiview_prior


def test_it_is_small_and_says_where_it_comes_from():
    files = [path for path in MULTIVIEW_PRIOR.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 10.6e6
    assert (MULTIVIEW_PRIOR / "training.json").is_file()


@pytest.mark.slow
def test_its_samples_are_the_sides_that_the_cameras_look_at():
    scores = judge_multiview_prior(load_multiview_prior(), samples=10, steps=12)
    assert scores["class"] >= 0.85 and scores["color"] >= 0.8 and scores["view"] >= 0.6
