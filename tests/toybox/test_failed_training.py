"""What a training of the prior does where it diverges and where it cannot be written."""

import math
from dataclasses import replace

import pytest
from support.tiny_runs import TINY_PRIOR

from dreamfusion_ngp.base.errors import DivergenceError
from dreamfusion_ngp.toybox.prior import loop as trainer
from dreamfusion_ngp.toybox.prior.loop import read_log
from dreamfusion_ngp.toybox.prior.pixels import PIXEL, PixelTask
from dreamfusion_ngp.toybox.prior.training import train_prior

QUICK = replace(TINY_PRIOR, chunk=1, views_per_class=1)


@pytest.mark.parametrize("first", [dict(report_every=1), dict(save_every=0.0)])
def test_a_training_that_diverges_replaces_nothing(first, tmp_path, monkeypatch):
    monkeypatch.setattr(PixelTask, "loss", lambda task, *batch, take=PixelTask.loss: take(task, *batch) * math.nan)
    with pytest.raises(DivergenceError, match="stopped, and not saved"):
        train_prior(PIXEL, replace(QUICK, images=8, **first), tmp_path / "prior")
    assert not any(tmp_path.iterdir())


def test_a_save_that_fails_is_tried_again(tmp_path, monkeypatch):
    said, left = [], [OSError(28, "No space left on device")]

    def replace_folder(*folders, take=trainer.replace_folder):
        if left:
            raise left.pop()
        take(*folders)

    monkeypatch.setattr(trainer, "replace_folder", replace_folder)
    train_prior(PIXEL, replace(QUICK, images=24, save_every=0.0), tmp_path / "prior", show=said.append)
    (line,) = [line for line in said if "No space" in line]
    assert line == f"cannot write {tmp_path / 'prior'}: No space left on device; going on without it"
    assert read_log(tmp_path / "prior")["images"] == 24
