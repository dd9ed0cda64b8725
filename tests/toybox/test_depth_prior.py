"""The depth prior: what it starts from, what it is shown, and a training of seconds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny_runs import TINY_PRIOR

from dreamfusion_ngp.base.errors import PriorError, UsageError
from dreamfusion_ngp.cli import main
from dreamfusion_ngp.evaluation.depth import judge_depth_prior, overlap
from dreamfusion_ngp.guidance.depth import depth_picture, untiled
from dreamfusion_ngp.scene.cameras import orbit
from dreamfusion_ngp.toybox.prior import depth_sampling
from dreamfusion_ngp.toybox.prior import depth_training as training
from dreamfusion_ngp.toybox.prior.depth_model import embedding_of, load_depth_prior, start_depth_prior, time_readers
from dreamfusion_ngp.toybox.prior.depth_sampling import sample, true_depth
from dreamfusion_ngp.toybox.prior.depth_training import DEPTH, FROZEN, control_loss
from dreamfusion_ngp.toybox.prior.depth_views import RingLatents, depth_of
from dreamfusion_ngp.toybox.prior.latent_model import LATENT_PRIOR, load_latent_prior
from dreamfusion_ngp.toybox.prior.latents import noise_loss
from dreamfusion_ngp.toybox.prior.loop import read_log
from dreamfusion_ngp.toybox.prior.loss import caption_ids
from dreamfusion_ngp.toybox.prior.model import embed_words
from dreamfusion_ngp.toybox.prior.training import train_prior
from dreamfusion_ngp.toybox.world.shapes import PARAMETERS
from dreamfusion_ngp.toybox.world.tracer import silhouette, trace

TINY = replace(TINY_PRIOR, images=16, batch=4, chunk=4, views_per_class=4, trace_every=100, report_every=1)
FEW = ("sphere", "mug", "chair")


@pytest.fixture(scope="module")
def latent():
    found = load_latent_prior()
    found.unet.eval().requires_grad_(False)
    return found


@pytest.fixture(scope="module")
def start(latent):
    return start_depth_prior(latent)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder that four steps left, of three classes."""
    out = tmp_path_factory.mktemp("run") / "prior"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RingLatents, "fill", lambda rings: [rings.grow() for _ in FEW])
        train_prior(DEPTH, TINY, out)
    return out


def test_at_first_it_says_nothing(latent, start):
    """Zhang et al.: the last layers are zero. The loss is that of the latent prior to the bit."""
    torch.manual_seed(0)
    z, seen = torch.randn(2, 4, 32, 32), torch.rand(2, 3, 256, 256)
    ids = torch.tensor(caption_ids(latent.tokenizer, ["a red mug", ""]))
    losses = []
    for loss in (lambda *a: noise_loss(latent, *a), lambda z, *a: control_loss(start, z, seen, *a)):
        torch.manual_seed(1)
        losses.append(float(loss(z, ids, torch.tensor([300, 960])).detach()))
    assert losses[0] == losses[1] > 0


@torch.no_grad()
def test_its_blocks_are_told_of_time_and_text_what_the_unets_are(latent, start):
    """Through a narrower embedding: at times and texts that it was not fitted at."""
    steps, texts = torch.tensor([33.0, 480.0, 907.0]), ["a photo of a green duck, az45 el30, lit", "clay"]
    said = embed_words(latent.text_encoder, torch.tensor(caption_ids(latent.tokenizer, texts)))
    wide, narrow = (torch.nn.functional.silu(embedding_of(n, steps, said)) for n in (latent.unet, start.control))
    assert narrow.shape[-1] < wide.shape[-1]
    for mine, theirs in zip(time_readers(start.control), time_readers(latent.unet), strict=False):
        wanted = theirs(wide)
        assert (mine(narrow) - wanted).norm() < 0.2 * (wanted - wanted.mean(0)).norm()


def test_depth_is_along_the_axis_of_sight():
    """A ball's nearest point is the distance less the radius; what it covers is what is seen."""
    cameras = orbit([0.0, 90.0], [0.0, 30.0], 1.5, 1.2)
    buffer = trace("sphere", torch.zeros(2, PARAMETERS), cameras, 64)
    found = depth_of(buffer, cameras)
    assert torch.equal(found > 0, silhouette(buffer))
    radius = 1.5 - found[found > 0].min()
    assert 0.2 < radius < 0.69
    row, column = divmod(int(torch.where(found[0] > 0, found[0], 9.0).argmin()), 64)
    assert abs(row - 31.5) <= 4 and abs(column - 31.5) <= 4
    assert found.max() < 1.5 + 0.05


def test_batches_are_single_views_and_tiles_with_their_depth(trained):
    task = training.build_task(TINY, trained, "cpu")
    task.open(np.random.default_rng(0), "cpu").grow()
    seen = {}
    for _ in range(12):
        z, depth, ids, steps = task.batch(0.5)
        seen[len(z)] = (z, depth, ids, steps)
        assert depth.shape == (len(z), 3, 8 * z.shape[2], 8 * z.shape[3]) and len(ids) == len(steps) == len(z)
        assert depth.min() >= 0 and (depth.flatten(1).amax(1) == 1).all() and torch.equal(depth[:, 0], depth[:, 2])
    assert set(seen) == {1, 4} and seen[1][0].shape == (1, 4, 64, 64) and seen[4][0].shape == (4, 4, 32, 32)
    for batch in seen.values():
        assert torch.isfinite(task.loss(*batch))
    z, depth = seen[1][0], seen[1][1][:, 0]
    for part in range(4):  # a view of the tile is a latent and the depth of the same side
        shown = task.model.latent.vae.decode(untiled(z.permute(0, 2, 3, 1))[part : part + 1].permute(0, 3, 1, 2)).sample
        there = untiled(depth)[part] > 0
        edge = shown[0, :, :4].mean((1, 2), keepdim=True)
        assert (shown[0] - edge).abs().amax(0)[there].mean() > 2 * (shown[0] - edge).abs().amax(0)[~there].mean()


def test_a_run_saves_and_resumes_a_controlnet(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(RingLatents, "fill", lambda rings: [rings.grow() for _ in FEW])
    assert read_log(trained)["images"] == 16 and {"config.json", "training.json"} <= {p.name for p in trained.iterdir()}
    assert "_name_or_path" not in (trained / "config.json").read_text()
    train_prior(DEPTH, TINY, tmp_path / "more", resume=trained)
    assert read_log(tmp_path / "more")["images"] == 32
    before, after = (load_depth_prior(folder).control.state_dict() for folder in (trained, tmp_path / "more"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"controlnet_mid_block.weight", "controlnet_cond_embedding.conv_out.weight"} <= changed
    frozen = {f"controlnet_cond_embedding.{layer}.{part}" for layer in FROZEN for part in ("weight", "bias")}
    assert frozen <= set(before) - changed
    whole = sum(path.stat().st_size for path in trained.rglob("*") if path.is_file())
    assert whole <= 6e6


def test_samples_are_of_any_shape_and_a_seed_makes_them_again(trained, tmp_path, monkeypatch):
    prior, depth = load_depth_prior(trained), torch.zeros(2, 256, 128)
    depth[:, 64:192, 32:96] = 1.0
    first, again = (sample(prior, ["a red mug"] * 2, depth, steps=1, seed=3) for _ in range(2))
    assert first.shape == (2, 256, 128, 3) and torch.equal(first, again)
    monkeypatch.setattr(depth_sampling, "CLASSES", FEW)
    depth_sampling.sheet(prior, tmp_path / "sheet.png", steps=1)
    assert Image.open(tmp_path / "sheet.png").size == (1024, 256)


def test_the_judge_measures_silhouettes(trained):
    """True silhouettes on a plain ground overlap themselves; moved ones do not."""
    depth = true_depth(["mug", "chair"], [0.0, 30.0]).flatten(0, 1)
    shown = depth_picture(depth, depth > 0)[..., None].expand(-1, -1, -1, 3)
    assert overlap(shown, depth > 0).min() > 0.9 > overlap(shown.roll(90, 1), depth > 0).max()
    found = judge_depth_prior(load_depth_prior(trained), samples=1, steps=1)
    assert {"class", "color", "overlap"} <= set(found["single"]) and 0 <= found["tile"]["colors"] <= 1


@pytest.mark.parametrize("changes", [{"batch": 6}, {"chunk": 3}, {"views_per_class": 10}])
def test_what_is_no_whole_ring_is_refused_before_anything_is_written(changes, tmp_path):
    with pytest.raises(PriorError, match="multiples of 4"):
        train_prior(DEPTH, replace(TINY, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_folders_are_neither_gone_on_with_nor_replaced(tmp_path, capsys):
    args = ["train-prior", "--kind", "depth", "-o", str(tmp_path / "out"), "--resume", str(LATENT_PRIOR)]
    assert main(args) == PriorError.exit_code
    assert "cannot be resumed from" in capsys.readouterr().err and not (tmp_path / "out").exists()
    other = tmp_path / "pictures"
    other.mkdir()
    (other / "one.png").touch()
    with pytest.raises(UsageError, match="no prior"):
        train_prior(DEPTH, TINY, other)
