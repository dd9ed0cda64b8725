"""The CLIP of toys that is shipped: what it finds of true toys that no training has seen, and that it guides."""

from dataclasses import replace

import torch

from dreamfusion_ngp.config.presets import preset
from dreamfusion_ngp.evaluation.clip import judge_clip
from dreamfusion_ngp.evaluation.judge import load_judge
from dreamfusion_ngp.guidance.clip import ClipGuidance
from dreamfusion_ngp.guidance.load import load_guidance
from dreamfusion_ngp.toybox.prior.clip_model import CLIP_PRIOR, load_clip
from dreamfusion_ngp.toybox.world.shapes import CLASSES, COLORS


def test_it_finds_true_toys():
    found = judge_clip(load_clip())
    assert found["color"] >= 0.95 and found["geo"] >= 0.95, found


def test_it_is_small_and_guides_both_baselines():
    assert sum(path.stat().st_size for path in CLIP_PRIOR.iterdir()) < 3e6
    for name in ("dreamfields", "clipmesh"):
        guidance = load_guidance(replace(preset(name), prompt="a red mug"), "cpu")
        assert isinstance(guidance, ClipGuidance) and guidance.encoder.size == 64


def test_it_is_not_the_judge():
    """Its space of texts is another one: who is near whom agrees no more than the words make it."""
    captions = [f"a {color} {name}" for name in CLASSES[:6] for color in list(COLORS)[:4]]
    own, judges = load_clip().encoder().encode_texts(captions), load_judge().texts(captions)
    a, b = ((x @ x.T)[~torch.eye(len(x), dtype=torch.bool)] for x in (own, judges))
    assert own.shape[1] != judges.shape[1] and float(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 0.95
