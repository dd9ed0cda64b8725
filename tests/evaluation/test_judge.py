"""The embedded judge: what it is trained on, that a short training helps, files."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.tape import Tape

from dreamfusion_ngp.base.cuda_graphs import Repeated
from dreamfusion_ngp.base.errors import CheckpointError, DivergenceError, UsageError
from dreamfusion_ngp.config.presets import FRAMED_CAMERAS
from dreamfusion_ngp.config.schema import CameraConfig
from dreamfusion_ngp.evaluation.judge import DIMENSION, SIZE, Judge, load_judge, save_judge
from dreamfusion_ngp.evaluation.judge_training import (
    RetrievalLoss,
    TrainJudgeConfig,
    Views,
    backgrounds,
    train_judge,
    training_batch,
    training_cameras,
    training_colors,
)
from dreamfusion_ngp.evaluation.pictures import ELEVATION
from dreamfusion_ngp.evaluation.retrieval import retrieved, toy_captions
from dreamfusion_ngp.toybox.world.shapes import CLASSES, COLORS

SHORT = TrainJudgeConfig(images=24 * 100, batch=24, views_per_class=8, chunk=2, trace_every=4, warmup=10)


@pytest.fixture(scope="module")
def views():
    return Views(SHORT, np.random.default_rng(9))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("judge") / "judge.safetensors"
    return train_judge(SHORT, path, show=lambda line: None), path


def test_a_short_training_improves_on_held_out_pictures(trained, views):
    """Chance is 1 of 220. White clay before light grey takes longer than this to be seen."""
    judge, _ = trained
    log = judge.log["held_out"]
    assert log["color"] > 0.05 and 0 <= log["geo"] <= 1 and 0 < log["view"] <= 1 and judge.log["images"] == SHORT.images
    before = Judge().eval()
    batch = training_batch(views, 64, np.random.default_rng(9))
    with torch.no_grad():
        assert RetrievalLoss(judge)(*batch) < RetrievalLoss(before)(*batch) - 1.0


def test_saved_and_loaded_it_judges_the_same(trained):
    judge, path = trained
    again = load_judge(path)
    assert path.stat().st_size <= 6e6 and again.log == judge.log
    pictures = torch.rand(4, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(again.images(pictures), judge.images(pictures), atol=0.01)
    assert torch.allclose(again.texts(["a red mug"]), judge.texts(["a red mug"]), atol=0.01)


def test_embeddings_have_length_one_and_larger_pictures_are_reduced(trained):
    judge, _ = trained
    small = torch.rand(3, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(1))
    large = small.repeat_interleave(2, 1).repeat_interleave(2, 2)
    a, b, texts = judge.images(small), judge.images(large), judge.texts(toy_captions()[0])
    assert a.shape == (3, DIMENSION) and torch.allclose(a, b, atol=1e-5)
    assert torch.allclose(a.norm(dim=1), torch.ones(3)) and torch.allclose(texts.norm(dim=1), torch.ones(220))
    assert torch.equal(judge.texts(["a red mug of gold"]), judge.texts(["a red mug of"])), "unknown words say nothing"
    assert len(retrieved(judge, small, toy_captions()[1])) == 3


def test_its_cameras_are_not_the_priors_nor_the_evaluations():
    random, paper = np.random.default_rng(0), CameraConfig()
    longest = max(paper.focal[1], FRAMED_CAMERAS.focal[1])
    for _ in range(200):
        cameras = training_cameras(6, random)
        assert cameras.focal.min() > longest
        assert (torch.rad2deg(cameras.elevation) - ELEVATION).abs().min() > 2.99


def test_its_backgrounds_and_colours():
    random = np.random.default_rng(1)
    boards = backgrounds(200, random)
    assert boards.shape == (200, SIZE, SIZE, 3) and boards.min() >= 0 and boards.max() <= 1
    flat = boards.flatten(1, 2).std(1).amax(1) < 1e-6
    assert 0.25 < flat.float().mean() < 0.55
    assert all(len(board.reshape(-1, 3).unique(dim=0)) <= 2 for board in boards[:20])
    colors = training_colors(np.full(300, list(COLORS).index("red")), random)[:, 0]
    assert (colors[:, 0] > colors[:, 1] + 0.3).all() and colors[:, 0].std() > 0.03


def test_batches_say_what_they_show(views):
    pictures, classes, color, clay, azimuth = training_batch(views, 64, np.random.default_rng(2))
    assert pictures.shape == (64, SIZE, SIZE, 3) and pictures.min() >= 0 and pictures.max() <= 1
    assert azimuth.shape == (64,) and azimuth.min() >= 0 and azimuth.max() <= 360 and azimuth.std() > 60
    assert classes.max() < len(CLASSES) and color.max() < len(COLORS) and 0.2 < clay.float().mean() < 0.6


def test_a_step_can_be_captured_in_a_graph(views):
    """What the tape refuses would stop a CUDA graph's capture; it gives the bits of the loss as it is."""
    random, losses = np.random.default_rng(5), []
    batches = [training_batch(views, 16, random) for _ in range(2)]
    for tape in (None, Tape()):
        torch.manual_seed(0)
        loss = RetrievalLoss(Judge())
        run = Repeated(loss, tape) if tape else loss
        losses.append([float(run(*batches[i % 2]).detach()) for i in range(6)])
    assert tape.captured == 1 and losses[0] == losses[1]


def test_a_gpu_trains_too(cuda, tmp_path):
    config = TrainJudgeConfig(images=32 * 160, batch=32, views_per_class=24, chunk=8, trace_every=16, warmup=10)
    judge = train_judge(config, tmp_path / "judge.safetensors", show=lambda line: None, device=cuda)
    assert judge.log["held_out"]["color"] > 0.05 and load_judge(tmp_path / "judge.safetensors").log == judge.log


def test_what_cannot_be_done_is_one_line(tmp_path):
    seeds = TrainJudgeConfig(seed=-1), TrainJudgeConfig(seed=1 << 64)
    for bad in (TrainJudgeConfig(images=-1), TrainJudgeConfig(minutes=0), *seeds):
        with pytest.raises(UsageError):
            train_judge(bad, tmp_path / "j.safetensors")
    with pytest.raises(UsageError, match="folder"):
        train_judge(SHORT, tmp_path)
    with pytest.raises(UsageError, match="tpu"):
        train_judge(SHORT, tmp_path / "j.safetensors", device="tpu")
    with pytest.raises(CheckpointError, match="train-judge"):
        load_judge(tmp_path / "none")
    (tmp_path / "bad").write_bytes(b"x" * 100)
    with pytest.raises(CheckpointError, match="cannot be used"):
        load_judge(tmp_path / "bad")


def test_a_judge_with_another_vocabulary_is_refused(tmp_path, monkeypatch):
    save_judge(tmp_path / "j", Judge())
    monkeypatch.setattr("dreamfusion_ngp.evaluation.judge.WORDS", ("a", "b"))
    with pytest.raises(CheckpointError, match="other words|cannot be used"):
        load_judge(tmp_path / "j")


def test_a_judge_that_diverges_is_not_saved(tmp_path):
    (tmp_path / "judge.safetensors").write_text("an older one")
    with pytest.raises(DivergenceError, match="not saved"):
        train_judge(replace(SHORT, images=1, batch=4, learning_rate=math.nan), tmp_path / "judge.safetensors", show=str)
    assert (tmp_path / "judge.safetensors").read_text() == "an older one"
