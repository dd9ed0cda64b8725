"""What a CLIP says beyond R-Precision, the judge as a guide, and runs that came to nothing."""

import numpy as np
import pytest
import torch

from dreamfusion_ngp.config.schema import ClipConfig, GuidanceConfig, RunConfig
from dreamfusion_ngp.evaluation.clip import ClipRetrieval
from dreamfusion_ngp.evaluation.clip_scores import PAIRS, clip_figures, diverged
from dreamfusion_ngp.evaluation.judge import load_judge
from dreamfusion_ngp.evaluation.judge_guide import guided_by_the_judge
from dreamfusion_ngp.evaluation.pictures import Pictures, judging_cameras, toy_pictures
from dreamfusion_ngp.scene.views import Views
from dreamfusion_ngp.toybox.world.shapes import COLORS


def plain(opacity):
    image = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    return Pictures(image, image, image, torch.full((2, 32, 32), opacity))


def test_the_score_is_a_cosine_and_iqa_a_share(clip_folder):
    clip, pictures = ClipRetrieval(str(clip_folder)), plain(0.2)
    found = clip_figures(clip, pictures, "a red mug")
    cosine = (clip.images(pictures.lit) @ clip.texts(["a red mug"]).T).mean()
    assert found["clip_score"] == pytest.approx(100 * float(cosine), abs=1e-4)
    for name, (good, bad) in PAIRS.items():
        logits = clip.encoder.model.logit_scale.exp() * clip.images(pictures.lit) @ clip.texts([good, bad]).T
        expected = (logits[:, 0] - logits[:, 1]).sigmoid().mean()
        assert found[f"iqa_{name}"] == pytest.approx(float(expected), abs=1e-5)


def test_empty_and_full_scenes_have_diverged():
    assert diverged(None) and diverged(plain(0.0)) and diverged(plain(1.0)) and diverged(plain(float("nan")))
    assert not diverged(plain(0.1)) and not diverged(toy_pictures("airplane", COLORS["red"], resolution=32))


def test_the_judge_pulls_a_picture_to_what_it_reads():
    """Guided by the judge, true pictures of a blue mug become what it takes for red ones."""
    config = RunConfig(
        prompt="a red mug",
        guidance=GuidanceConfig(kind="clip", view_words="none"),
        clip=ClipConfig(windows=1, share=(1.0, 1.0), backgrounds=("flat",)),
    )
    guidance, cameras = guided_by_the_judge(config), judging_cameras()[:2]
    toy = toy_pictures("mug", COLORS["blue"], cameras=cameras, resolution=64)
    opacity = toy.opacity[..., None]
    image = torch.cat([toy.albedo * opacity, opacity], -1)
    views, judge = Views(cameras, torch.zeros(2, 6), np.zeros(2, int)), load_judge()
    values = []
    for part in range(40):
        found = guidance(image, views, part, 0.0)
        values.append(float(found.value))
        image = (image - 0.05 * found.gradient / found.gradient.abs().max()).clamp(0, 1)
    assert np.mean(values[-5:]) < np.mean(values[:5]) - 0.1
    shown = image[..., :3] + 0.9 * (1 - image[..., 3:])
    red, blue = (judge.images(shown) @ judge.texts(["a red mug", "a blue mug"]).T).T
    assert (red > blue).all()
