"""The multi-view prior: what it starts from, its batches of four sides of a toy, and a training of seconds."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny_runs import TINY_PRIOR

from dreamfusion_ngp.base.errors import PriorError
from dreamfusion_ngp.cli import main
from dreamfusion_ngp.config.prompts import MODE_WORDS, view_prompt
from dreamfusion_ngp.guidance.multiview import camera_numbers, each_alone
from dreamfusion_ngp.guidance.packing import pack
from dreamfusion_ngp.scene.cameras import around, orbit, sample_cameras
from dreamfusion_ngp.scene.lights import LAMBERTIAN
from dreamfusion_ngp.toybox.prior import multiview_training as training
from dreamfusion_ngp.toybox.prior.cache import TracedViews
from dreamfusion_ngp.toybox.prior.loop import read_log
from dreamfusion_ngp.toybox.prior.loss import BLIND, caption_ids
from dreamfusion_ngp.toybox.prior.model import PRIOR, embed_words, load_prior
from dreamfusion_ngp.toybox.prior.multiview_model import load_multiview_prior, start_multiview_prior, view_embedding
from dreamfusion_ngp.toybox.prior.multiview_sampling import four_sides, sample, sheet
from dreamfusion_ngp.toybox.prior.multiview_training import MULTIVIEW, Rings, ring_batch, ring_loss, with_view
from dreamfusion_ngp.toybox.prior.training import train_prior
from dreamfusion_ngp.toybox.world.shapes import CLASSES, PARAMETERS
from dreamfusion_ngp.toybox.world.tracer import trace

TINY = replace(TINY_PRIOR, images=24, chunk=4, views_per_class=4, report_every=1)


@pytest.fixture(scope="module")
def pixel():
    return load_prior()


@pytest.fixture(scope="module")
def start(pixel):
    found = start_multiview_prior(pixel)
    found.unet.eval().requires_grad_(False)
    return found


@pytest.fixture(scope="module")
def rings():
    found = Rings(TINY, np.random.default_rng(0))
    for _ in CLASSES:
        found.grow()
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder that three steps left."""
    out = tmp_path_factory.mktemp("run") / "prior"
    patch = pytest.MonkeyPatch()
    patch.setattr(training, "FILL", 4)
    train_prior(MULTIVIEW, TINY, out)
    patch.undo()
    return out


def said(prior, pictures, steps, texts, **told):
    ids = torch.tensor(caption_ids(prior.tokenizer, texts))
    packed = pack(pictures, prior.unet.config.in_channels)
    mask = (ids > 0).long()
    return prior.unet(packed, steps, embed_words(prior.text_encoder, ids), encoder_attention_mask=mask, **told).sample


@torch.no_grad()
def test_single_pictures_are_at_first_those_of_the_pixel_prior(pixel, start):
    """The new attention says nothing, and what there was is as it was."""
    torch.manual_seed(0)
    pictures, steps = torch.randn(3, 3, 64, 64), torch.tensor([100, 600, 990])
    texts = ["a red mug, az45 el15, lit", "a chair", ""]
    pixel.unet.eval()
    with each_alone(start.unet):
        found = said(start, pictures, steps, texts)
    torch.testing.assert_close(found, said(pixel, pictures, steps, texts), atol=2e-5, rtol=0)


@torch.no_grad()
def test_cameras_say_at_first_to_the_time_what_view_words_say(pixel, start):
    """Of what view words add to its embedding, in the mean over toys, the camera's projection says nearly all, and
    between two such words something between."""
    angles = [(0, 15), (90, 15), (180, 60), (315, 0)]
    told = camera_numbers(orbit(*zip(*angles, strict=True), 1.3, 1.0))
    found = start.unet.class_embedding(told)
    wanted = torch.stack([view_embedding(pixel, *angle) for angle in angles])
    assert (found - wanted).norm() < 0.2 * (wanted - wanted.mean(0)).norm()
    between, ends = (start.unet.class_embedding(camera_numbers(orbit(a, 15.0, 1.3, 1.0))) for a in ([7.5], [0, 15]))
    assert (between - ends.mean(0)).norm() < 0.5 * (ends[0] - ends[1]).norm()


def test_a_ring_shows_one_toy_from_four_sides(rings):
    """One camera ring, one light that turns with it, one background, and the same colours; what the cameras are told is
    where they stand."""
    cameras = sample_cameras(training.RING_CAMERAS, 12, np.random.default_rng(1))
    assert len(cameras) == 12
    for name in ("elevation", "focal"):
        values = getattr(cameras, name).view(3, 4)
        torch.testing.assert_close(values, values[:, :1].expand(-1, 4))
    steps = (cameras.azimuth.view(3, 4).diff(dim=1) % (2 * np.pi)) * 180 / np.pi
    torch.testing.assert_close(steps, torch.full((3, 3), 90.0), atol=1e-3, rtol=0)
    found = ring_batch(rings, 5, np.random.default_rng(2), 0.0)
    assert found.images.shape == (20, 3, 64, 64) and len(found.texts) == len(found.steps) == 5 and not found.views
    corners = found.images.view(5, 4, 3, 64, 64)[..., :2, :2]
    assert (corners - corners[:, :1]).abs().max() < 1e-6, "one background"
    assert not any("view" in text or "az" in text for text in found.texts)
    position = found.cameras.view(5, 4, 4, 4)[:, :, :3, 3]
    torch.testing.assert_close(position[:, 0] + position[:, 2], position[:, 1] + position[:, 3], atol=1e-5, rtol=0)
    np.testing.assert_allclose(position.norm(dim=-1), 1, atol=1e-5)


def test_a_round_toy_looks_the_same_from_all_sides_lights_included():
    cameras = sample_cameras(training.RING_CAMERAS, 4, np.random.default_rng(4))
    buffer = trace("cone", torch.zeros(4, PARAMETERS), cameras)
    seen = TracedViews(buffer, cameras.position, cameras.azimuth.numpy(), cameras.elevation.numpy(), np.ones(4, bool))
    shown = training.shade_rings(seen, np.array([0]), np.array([LAMBERTIAN]), np.random.default_rng(0))
    assert (shown - shown[:1]).abs().max() < 1e-4 and shown.std() > 0.05


def test_what_noise_hides_is_told_by_the_pixel_prior_in_view_words(rings, start, pixel):
    """The loss of rings that are all hidden is that against the teacher's answers; the captions differ by the views
    that the cameras have."""
    found = ring_batch(rings, 6, np.random.default_rng(3), 0.5)
    assert (found.steps[:3] >= BLIND).all() and len(found.views) == 12
    for i, text in enumerate(found.views):
        words = text.replace(",", "").split()
        azimuth = next(int(word[2:]) for word in words if re.fullmatch(r"az\d+", word))
        x, y = found.cameras[i].view(4, 4)[:2, 3].tolist()
        near = (np.degrees(np.arctan2(y, x)) - azimuth + 180) % 360 - 180
        assert abs(near) <= 7.6 or abs(found.cameras[i].view(4, 4)[2, 3]) > 0.99
        kept = [word for word in words if not re.fullmatch(r"(az|el)\d+", word)]
        assert kept == found.texts[i // 4].replace(",", "").split()
    ids, views = (torch.tensor(caption_ids(start.tokenizer, t)) for t in (found.texts[:3], found.views))
    given = found.images[:12], ids.repeat_interleave(4, 0), torch.tensor(found.steps[:3]).repeat_interleave(4)
    losses = []
    for images in (given[0], torch.zeros_like(given[0])):
        torch.manual_seed(0)
        losses.append(ring_loss(start, pixel, images, *given[1:], found.cameras[:12], views).item())
    assert 0 < losses[0] < 0.2 and abs(losses[1] - losses[0]) < 0.02, "what the pictures are hardly matters"


@pytest.mark.parametrize("text", ["a red mug, lit", "a red mug", "clay", ""])
def test_view_words_stand_where_captions_have_them(text):
    toy, mode = text.partition(",")[0].removesuffix("clay"), next((m for m in MODE_WORDS if text.endswith(m)), "")
    assert with_view(text, 0.0, 0.26) == view_prompt(toy, "az0 el15", mode)


def test_lights_of_a_ring_turn_with_its_cameras():
    position = torch.tensor([[0.3, 0.5, 1.0]])
    found = around(position, 4)
    for k in range(4):
        here = orbit([0.0, 90.0 * k], 0.0, 1.0, 1.0).c2w[:, :, :3]
        torch.testing.assert_close(here[1].T @ found[k], here[0].T @ position[0], atol=1e-6, rtol=0)


def test_a_run_saves_resumes_and_its_folder_says_what_it_is(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "FILL", 4)
    index, settings = (json.loads((trained / n).read_text()) for n in ("model_index.json", "dreamfusion_ngp.json"))
    assert index["_class_name"] == "MVDreamPipeline" and settings["views"] == 4
    assert read_log(trained)["images"] == 24
    lines = []
    train_prior(MULTIVIEW, TINY, tmp_path / "more", resume=trained, show=lines.append)
    assert read_log(tmp_path / "more")["images"] == 48 and "saved" in lines[-1]
    before, after = (load_multiview_prior(folder).unet.state_dict() for folder in (trained, tmp_path / "more"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"class_embedding.linear_1.weight", "up_blocks.1.attentions.0.proj_out.weight"} <= changed


def test_batches_are_rings_and_now_and_then_single_pictures(trained):
    task = training.build_task(TINY, trained, "cpu")
    views = task.open(np.random.default_rng(0), "cpu")
    for _ in CLASSES:
        views.grow()
    batches = [task.batch(1.0) for _ in range(40)]
    alone = [batch for batch in batches if not len(batch[3])]
    assert 4 <= len(alone) <= 20 and all(batch[0].shape == (8, 3, 64, 64) for batch in batches)
    ring = next(batch for batch in batches if len(batch[3]))
    assert (ring[1].view(2, 4, -1).diff(dim=1) == 0).all() and (ring[2].view(2, 4).diff(dim=1) == 0).all()
    for batch in (ring, alone[0]):
        assert torch.isfinite(task.loss(*batch))


def test_samples_are_rows_of_four_and_a_seed_makes_them_again(trained, tmp_path):
    prior = load_multiview_prior(trained)
    first, again = (sample(prior, ["a red mug"] * 2, [0, 45], [15, 15], steps=1, seed=3) for _ in range(2))
    assert first.shape == (2, 4, 64, 64, 3) and torch.equal(first, again)
    np.testing.assert_allclose(four_sides([0, 45], [15, 30]).azimuth.rad2deg()[4:], [45, 135, 225, 315], atol=1e-3)
    sheet(prior, tmp_path / "sheet.png", steps=1)
    assert Image.open(tmp_path / "sheet.png").size == (512, 640)


@pytest.mark.parametrize("changes", [{"batch": 6}, {"chunk": 3}, {"views_per_class": 10}])
def test_what_is_no_whole_ring_is_refused_before_anything_is_written(changes, tmp_path):
    with pytest.raises(PriorError, match="multiples of 4"):
        train_prior(MULTIVIEW, replace(TINY, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_pixel_prior_is_not_gone_on_with(tmp_path, capsys):
    args = ["train-prior", "--kind", "multiview", "-o", str(tmp_path / "out"), "--resume", str(PRIOR)]
    assert main(args) == PriorError.exit_code
    assert "knows no cameras" in capsys.readouterr().err and not (tmp_path / "out").exists()
