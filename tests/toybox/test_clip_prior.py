"""The embedded CLIP: its tokenizer, its pictures, its loss, and that its training goes on from a folder."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from dreamfusion_ngp.base.errors import PriorError, UsageError
from dreamfusion_ngp.evaluation.clip import judge_clip
from dreamfusion_ngp.guidance.dual_encoder import load_dual_encoder
from dreamfusion_ngp.toybox.prior.clip_model import TOKENS, build_clip, build_tokenizer, load_clip
from dreamfusion_ngp.toybox.prior.clip_training import CLIP, ClipTask, caption_ids, direction
from dreamfusion_ngp.toybox.prior.training import train_prior
from dreamfusion_ngp.toybox.world.captions import subject
from dreamfusion_ngp.toybox.world.shapes import CLASSES, COLORS

TINY = replace(CLIP.cpu, images=64, batch=16, views_per_class=2, chunk=1, report_every=2, ema_half_life=16)


@pytest.fixture(scope="module")
def task():
    found = ClipTask(build_clip(3), TINY)
    found.open(np.random.default_rng(0), "cpu")
    found.fill()
    return found


def test_every_caption_is_read_to_its_end():
    tokenizer, captions = build_tokenizer(), [subject(name, color) for name in CLASSES for color in COLORS]
    ids = [tuple(tokenizer(caption).input_ids) for caption in captions]
    assert max(map(len, ids)) <= TOKENS and len(set(ids)) == len(captions)
    assert all(row[0] == 0 and row[-1] == 1 for row in ids) and tokenizer.decode(ids[0][1:-1]) == captions[0]


def test_a_caption_without_its_padding_says_the_same():
    encoder = build_clip(0).encoder()
    encoder.model.eval()
    captions = ["a mug", "a photo of a red mug"]
    short = torch.from_numpy(caption_ids(encoder, captions))
    assert short.shape[1] < TOKENS
    torch.testing.assert_close(encoder.encode_tokens(short, None), encoder.encode_texts(captions), atol=1e-6, rtol=1e-5)


def test_a_batch_and_what_the_loss_asks_of_it(task):
    pictures, classes, color, clay, ids, moved = task.batch(0.0)
    assert pictures.shape == (16, 3, 64, 64) and pictures.min() >= 0 and pictures.max() <= 1
    assert len(ids) == len(CLASSES) * (1 + len(COLORS)) and not len(moved), "no attacks at the start of a run"
    assert any(len(task.batch(0.9)[-1]) for _ in range(40))
    plain = task.loss(pictures, classes, color, clay, ids, torch.zeros(0))
    expected = np.log(len(CLASSES)) + np.log(len(CLASSES) * len(COLORS))
    assert float(plain.detach()) == pytest.approx(expected, rel=0.35)
    attacked = task.loss(pictures, classes, color, clay, ids, torch.ones(1))
    assert float(attacked.detach()) > float(plain.detach()), "moved to where the loss is larger"
    torch.testing.assert_close(direction(pictures).flatten(1).norm(dim=1), torch.ones(16))


def test_a_training_goes_on_and_is_loaded_as_a_clip(tmp_path):
    out, lines = tmp_path / "clip", []
    train_prior(CLIP, TINY, out, show=lines.append)
    train_prior(CLIP, TINY, out, resume=out, show=lines.append)
    log = json.loads((out / "training.json").read_text())
    assert log["images"] == 128 and len(log["loss"]) >= 2 and sum(p.stat().st_size for p in out.iterdir()) < 3e6
    encoder = load_dual_encoder(str(out))
    assert encoder.size == 64 and encoder.encode_texts(["a red mug"]).shape == (1, 96)
    own = load_clip(out).encoder()
    pictures = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(own.encode_images(pictures), encoder.encode_images(pictures), atol=1e-5, rtol=1e-4)
    with pytest.raises(UsageError, match="is no prior"):
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "file").write_text("")
        train_prior(CLIP, TINY, tmp_path / "other")
    with pytest.raises(PriorError, match="cannot be resumed from"):
        train_prior(CLIP, TINY, tmp_path / "new", resume=tmp_path / "other")


def test_what_it_finds_is_measured_as_the_judges():
    found = judge_clip(build_clip(0))
    assert set(found) == {"color", "geo", "worst"} and found["color"] < 0.2 and found["worst"] in CLASSES
