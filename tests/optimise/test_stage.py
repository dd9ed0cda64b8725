"""Stages: one begins with the scene of another, and keeps the tensors of a guidance that learns."""

from dataclasses import replace

import pytest
import torch
from support.tiny_runs import TINY

from dreamfusion_ngp.base.errors import CheckpointError, UsageError
from dreamfusion_ngp.guidance.protocol import GuidanceOutput
from dreamfusion_ngp.optimise.loop import train
from dreamfusion_ngp.optimise.stage import adopt
from dreamfusion_ngp.optimise.volume import VolumeStage
from dreamfusion_ngp.runs.checkpoint import load_checkpoint, save_checkpoint

CONFIG = replace(TINY, steps=6)


class Learner:
    """Pulls pictures towards a colour that moves with every call: guidance whose own tensor changes."""

    def __init__(self, start=0.0, size=3):
        self.color = torch.full((size,), start)

    def __call__(self, image, views, part, progress):
        self.color += 0.1 * (image.mean((0, 1, 2)) - self.color) + 0.01
        return GuidanceOutput((image - self.color) / image.numel(), (image - self.color).square().mean(), {})

    def tensors(self):
        return {"color": self.color}


def stopped_after(steps):
    seen = []
    return lambda record: seen.append(record) or len(seen) == steps


def test_what_a_guidance_has_learnt_is_saved_and_the_run_goes_on_bit_by_bit(tmp_path):
    whole, part, learner = VolumeStage.start(CONFIG, "cpu"), VolumeStage.start(CONFIG, "cpu"), Learner()
    train(whole, learner, lambda record: None)
    train(part, Learner(), stopped_after(3))
    save_checkpoint(tmp_path / "c", part)
    again, other = load_checkpoint(tmp_path / "c", "cpu"), Learner(start=0.7)
    save_checkpoint(tmp_path / "before", again)
    train(again, other, lambda record: None)
    assert torch.equal(other.color, learner.color) and not torch.equal(learner.color, Learner().color)
    assert whole.tensors().keys() == again.tensors().keys() and "guidance.color" in again.tensors()
    for name, value in whole.tensors().items():
        assert torch.equal(value, again.tensors()[name]), name
    kept = load_checkpoint(tmp_path / "before", "cpu").guided
    assert torch.equal(kept["color"], part.guided["color"]), "what is saved before the first step has it too"


def test_a_checkpoint_of_another_guidance_is_refused(tmp_path):
    stage = VolumeStage.start(CONFIG, "cpu")
    train(stage, Learner(), stopped_after(2))
    save_checkpoint(tmp_path / "c", stage)
    loaded = load_checkpoint(tmp_path / "c", "cpu")
    with pytest.raises(CheckpointError, match=r"another guidance: color \(3,\); this one has color \(2,\)"):
        adopt(loaded, Learner(size=2))


def test_a_stage_begins_with_the_scene_of_the_one_before():
    first = VolumeStage.start(CONFIG, "cpu")
    train(first, Learner(), lambda record: None)
    second = VolumeStage.start(replace(CONFIG, seed=1), "cpu", first)
    points = torch.rand(100, 3) - 0.5
    assert second.step == 0 and torch.equal(second.occupancy.values, first.occupancy.values)
    assert torch.equal(second.field.density(points), first.field.density(points))
    assert not any(moment.any() for pair in second.adam.moments for moment in pair), "the optimiser begins anew"
    with pytest.raises(UsageError, match="the same field"):
        VolumeStage.start(replace(CONFIG, field=replace(CONFIG.field, hidden=2 * CONFIG.field.hidden)), "cpu", first)
