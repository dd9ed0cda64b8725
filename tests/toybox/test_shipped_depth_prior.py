"""The depth prior that is shipped: its samples show what they are told, and keep to the depth; what loads it."""

from dataclasses import replace

import pytest

from dreamfusion_ngp.config.presets import preset
from dreamfusion_ngp.evaluation.depth import judge_depth_prior
from dreamfusion_ngp.guidance.painter import load_painter
from dreamfusion_ngp.toybox.prior.depth_model import DEPTH_PRIOR, load_depth_prior


def test_it_is_small_and_says_where_it_comes_from():
    files = [path for path in DEPTH_PRIOR.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 6e6
    assert {path.name for path in files} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "dreamfusion_ngp.json",
        "training.json",
    }


@pytest.fixture(scope="module")
def judged():
    """Ten toys in few steps, single and in tiles."""
    return judge_depth_prior(load_depth_prior(), samples=10, steps=10, scale=2.0)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "overlap", "right"), [("single", 0.65, 0.8), ("tile", 0.65, 0.8)])
def test_its_samples_keep_to_the_depth(judged, kind, overlap, right):
    assert judged[kind]["overlap"] >= overlap and judged[kind]["class"] >= right


def test_the_embedded_priors_paint_with_it():
    config = replace(preset("refine"), prompt="a red mug")
    painter = load_painter(config, "cpu")
    assert painter.scale == 2.0 and painter.denoiser.shape == (4, 32, 32)
