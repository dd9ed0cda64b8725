"""Guidance by CLIP: what it is shown, its loss and gradient, what loads it."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.changed_folders import edited
from support.tiny_clip import tiny_clip_folder

from dreamfusion_ngp.base.errors import PriorError, UsageError
from dreamfusion_ngp.cli import build_parser
from dreamfusion_ngp.cli.settings import run_config
from dreamfusion_ngp.config.checks import check_config
from dreamfusion_ngp.config.presets import preset
from dreamfusion_ngp.config.schema import ClipConfig, GuidanceConfig, RunConfig
from dreamfusion_ngp.guidance.clip import ClipGuidance
from dreamfusion_ngp.guidance.clip_pictures import backgrounds, before, blurred, draw_windows, windows
from dreamfusion_ngp.guidance.dual_encoder import load_dual_encoder
from dreamfusion_ngp.guidance.load import check_guidance, load_guidance
from dreamfusion_ngp.guidance.origin import weights_of
from dreamfusion_ngp.scene.cameras import orbit
from dreamfusion_ngp.scene.views import Views


def config(folder, clip=None, **guidance):
    told = GuidanceConfig(kind="clip", model=str(folder), view_words="none", **guidance)
    return RunConfig(prompt="a red mug", guidance=told, clip=clip or ClipConfig(windows=3), seed=4)


def views(azimuths=(0.0, 90.0)):
    n = len(azimuths)
    return Views(orbit(azimuths, 30.0, 1.5, 1.0), torch.zeros(n, 6), np.zeros(n, int))


def layers(n=2, size=24):
    """Colours over black, so none is above the opacity."""
    random = torch.Generator().manual_seed(0)
    opacity = torch.rand(n, size, size, 1, generator=random)
    return torch.cat([opacity * torch.rand(n, size, size, 3, generator=random), opacity], -1)


def test_the_value_is_minus_the_mean_cosine_and_the_gradient_its_own(clip_folder):
    guidance, image = load_guidance(config(clip_folder), "cpu"), layers()
    assert isinstance(guidance, ClipGuidance) and guidance.tensors() == {}
    found = guidance(image, views(), 7, 0.5)
    assert found.gradient.shape == image.shape and -1 <= float(found.value) <= 1
    assert float(found.value) == pytest.approx(-float(found.log["cosine"]))
    direction = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    h = 2e-2
    up, down = (float(guidance(image + sign * h * direction, views(), 7, 0.5).value) for sign in (1, -1))
    slope = float((found.gradient * direction).sum())
    assert slope == pytest.approx((up - down) / (2 * h), rel=0.15, abs=2e-5)


def test_following_the_gradient_raises_the_cosine(clip_folder):
    guidance, image = load_guidance(config(clip_folder), "cpu"), layers()
    first = float(guidance(image, views(), 0, 0.0).value)
    for _ in range(20):
        gradient = guidance(image, views(), 0, 0.0).gradient
        image = (image - 0.5 * gradient / gradient.abs().max()).clamp(0, 1)
    assert float(guidance(image, views(), 0, 0.0).value) < first - 0.02


def test_a_part_is_drawn_by_its_number_and_slices_change_nothing(clip_folder):
    whole, cut = (load_guidance(config(clip_folder, slice=size), "cpu") for size in (0, 1))
    image = layers(3)
    seen = views((0.0, 90.0, 200.0))
    a, b, other = whole(image, seen, 5, 0.0), cut(image, seen, 5, 0.9), whole(image, seen, 6, 0.0)
    torch.testing.assert_close(a.gradient, b.gradient, atol=1e-7, rtol=1e-3)
    assert float(a.value) == pytest.approx(float(b.value)) and float(a.value) != float(other.value)


def test_a_negative_text_pushes_away(clip_folder):
    plain = load_guidance(config(clip_folder), "cpu")
    both = load_guidance(config(clip_folder, ClipConfig(windows=3, negative=0.5), negative="a castle"), "cpu")
    unused = load_guidance(config(clip_folder, negative="a castle"), "cpu")
    a, b, c = (g(layers(), views(), 0, 0.0) for g in (plain, both, unused))
    castle = load_guidance(replace(config(clip_folder), prompt="a castle"), "cpu")(layers(), views(), 0, 0.0)
    torch.testing.assert_close(b.gradient, a.gradient - 0.5 * castle.gradient, atol=1e-7, rtol=1e-3)
    assert float(b.log["cosine"]) == pytest.approx(float(a.log["cosine"])) and torch.equal(a.gradient, c.gradient)


def test_view_words_are_said_where_they_are_wanted(clip_folder):
    guidance = ClipGuidance(
        replace(config(clip_folder), guidance=GuidanceConfig(kind="clip", view_words="paper")),
        load_dual_encoder(str(clip_folder)),
    )
    found = guidance.texts(views((0.0, 90.0, 270.0)))
    own = guidance.encoder.encode_texts(["a red mug, front view", "a red mug, side view"])
    torch.testing.assert_close(found, own[[0, 1, 1]])


def test_windows_are_those_of_the_picture():
    image = torch.arange(16.0).view(1, 4, 4, 1)
    place = np.array([[0.0, 0.0, 1.0], [0.5, 0.5, 0.5], [0.0, 0.0, 1.0]])
    whole, corner, _ = windows(image, place, 4)
    torch.testing.assert_close(whole[0], image[0, :, :, 0])
    assert corner.min() >= 8.5 and corner[0, -1, -1] == 15
    small = windows(image, place[:1], 2)[0, 0]
    inner = torch.tensor([[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]).float().mean(1).view(2, 2)
    assert (small - inner).abs().max() < 1.5 and small.mean() == pytest.approx(7.5)
    drawn = draw_windows(500, (0.5, 0.8), np.random.default_rng(0))
    assert (drawn >= 0).all() and (drawn[:, :2] + drawn[:, 2:] <= 1).all()
    assert drawn[:, 2].min() < 0.52 and drawn[:, 2].max() > 0.78


@pytest.mark.parametrize("kind", ["noise", "checker", "fourier", "flat"])
def test_backgrounds_are_what_their_names_say(kind, device):
    config = ClipConfig(backgrounds=(kind,), blur=(0.0, 0.0), cells=(8, 8))
    found = backgrounds(config, 6, 32, np.random.default_rng(0), device).cpu()
    assert found.shape == (6, 3, 32, 32) and found.min() >= 0 and found.max() <= 1
    near = (found.diff(dim=-1).abs().mean() / found.std()).item()
    if kind == "noise":
        assert near > 1.0
    elif kind == "flat":
        assert found.flatten(2).std(-1).max() < 1e-6
    else:
        assert 0.05 < near < 0.6
    if kind == "checker":
        cell = found.view(6, 3, 8, 4, 8, 4)
        assert torch.equal(cell, cell[:, :, :, :1, :, :1].expand_as(cell))
        assert torch.equal(cell[:, :, 0, 0, 0, 0], cell[:, :, 1, 0, 1, 0])
    again = backgrounds(config, 6, 32, np.random.default_rng(0), device).cpu()
    assert torch.equal(found, again)


def test_a_blur_keeps_means_and_flat_colours_stay():
    noise = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    soft = blurred(noise, torch.tensor([0.0, 2.0]), 4)
    torch.testing.assert_close(soft[0], noise[0])
    assert soft[1].std() < 0.3 * noise[1].std() and soft[1].mean() == pytest.approx(float(noise[1].mean()), abs=0.02)
    image = before(layers(1).permute(0, 3, 1, 2), torch.ones(1, 3, 24, 24))
    assert image.min() >= 0 and image.max() <= 1


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_it_sees_and_reads_as_transformers_does(kind, clip_folder, siglip_folder):
    import transformers

    folder = {"clip": clip_folder, "siglip": siglip_folder}[kind]
    encoder, pictures = load_dual_encoder(str(folder)), torch.rand(2, 3, 32, 32)
    model = getattr(transformers, {"clip": "CLIPModel", "siglip": "SiglipModel"}[kind]).from_pretrained(folder).eval()
    ids, mask = encoder.tokens(["a red mug", "a mug"])
    pixels = (pictures - encoder.mean) / encoder.std
    with torch.no_grad():
        theirs = model(input_ids=ids, attention_mask=mask, pixel_values=pixels)
    torch.testing.assert_close(encoder.encode_texts(["a red mug", "a mug"]), theirs.text_embeds, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(encoder.encode_images(pictures), theirs.image_embeds, atol=1e-6, rtol=1e-5)
    assert load_guidance(config(folder), "cpu")(layers(), views(), 0, 0.0).gradient.abs().max() > 0


def test_what_cannot_guide_is_one_line(clip_folder, folders, tmp_path):
    with pytest.raises(PriorError, match="no CLIP"):
        check_guidance(config(folders["packed"]))
    with pytest.raises(PriorError, match="holds a CLIP, no diffusion model"):
        load_guidance(replace(config(clip_folder), guidance=GuidanceConfig(model=str(clip_folder))), "cpu")
    with pytest.raises(PriorError, match="is a diffusion model, no CLIP"):
        load_guidance(config("toybox"), "cpu")
    with pytest.raises(UsageError, match="distils nothing"):
        check_config(config(clip_folder, rule="csd"))
    with pytest.raises(UsageError, match=r"clip\.backgrounds"):
        check_config(config(clip_folder, ClipConfig(backgrounds=("marble",))))
    with pytest.raises(ValueError, match="colours over black and opacity"):
        load_guidance(config(clip_folder), "cpu")(layers()[..., :3], views(), 0, 0.0)


def test_a_run_knows_its_clip_by_its_weights(clip_folder, tmp_path):
    moved = tiny_clip_folder(tmp_path / "same")
    other = tiny_clip_folder(tmp_path / "other", seed=1)
    digests = [weights_of(config(folder))["model"] for folder in (clip_folder, moved, other)]
    assert digests[0] == digests[1] != digests[2]


def test_a_folder_of_a_clip_brings_its_preset(clip_folder):
    words = ["generate", "a red mug", "--guidance", str(clip_folder)]
    found = run_config(build_parser().parse_args(words))
    assert found.preset == "dreamfields" and found.steps == 10_000 and found.guidance.kind == "clip"
    assert found.guidance.model == str(clip_folder) and found.guidance.view_words == "none"
    offline = run_config(build_parser().parse_args(["generate", "a red mug", "--preset", "clipmesh"]))
    assert offline.guidance.model == "toybox-clip" and offline.kind == "sphere"
    assert run_config(build_parser().parse_args(words[:2])).guidance.model == "toybox"


def test_a_folder_without_architectures_does_too(clip_folder, tmp_path):
    """As its model_type decides elsewhere."""
    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    edited(folder / "config.json", architectures=None)
    found = run_config(build_parser().parse_args(["generate", "a red mug", "--guidance", str(folder)]))
    assert found.preset == "dreamfields"


def test_a_folder_that_knows_toys_is_used_like_the_embedded_one(tmp_path):
    folder = tiny_clip_folder(tmp_path / "toys")
    (folder / "dreamfusion_ngp.json").write_text('{"toys": true}')
    words = ["generate", "a red mug", "--guidance", str(folder)]
    found, embedded = run_config(build_parser().parse_args(words)), preset("dreamfields")
    assert found.steps == embedded.steps and found.guidance == replace(
        embedded.guidance, model=str(folder), view_words="none"
    )
