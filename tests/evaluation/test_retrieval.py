"""R-Precision: pools of captions, the protocol, and CLIP through transformers."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from dreamfusion_ngp.base.errors import PriorError, PromptError, UsageError
from dreamfusion_ngp.evaluation.clip import ClipRetrieval
from dreamfusion_ngp.evaluation.judge import word_counts
from dreamfusion_ngp.evaluation.pictures import AZIMUTHS, ELEVATION, Pictures, judging_cameras, toy_pictures
from dreamfusion_ngp.evaluation.retrieval import caption_pool, pool_of, r_precision, read_captions, toy_captions
from dreamfusion_ngp.guidance.dual_encoder import MEAN, STD
from dreamfusion_ngp.toybox.world.shapes import CLASSES, COLORS


class MeanColor:
    """Retrieves the caption whose colour is the mean of the picture; captions are lists of three numbers."""

    name = "mean colour"

    def images(self, pictures):
        return torch.nn.functional.normalize(pictures.mean((1, 2)), dim=-1)

    def texts(self, captions):
        return torch.nn.functional.normalize(torch.tensor([json.loads(c) for c in captions]), dim=-1)


def plain(*colors):
    """One plain picture of each colour; unlit ones have red and blue exchanged, the textureless ones are all white."""
    lit = torch.tensor(colors)[:, None, None, :].expand(-1, 8, 8, 3)
    return Pictures(lit.flip(-1), lit, torch.ones_like(lit), torch.ones(len(colors), 8, 8))


def test_the_share_of_views_that_retrieve_their_caption():
    red, green, blue, white = ([1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [1.0, 1, 1])
    captions = [json.dumps(c) for c in (red, green, blue, white)]
    result = r_precision(MeanColor(), plain(red, red, red, blue), pool_of(captions[0], captions))
    assert result == {
        "r_precision_color": 0.75,
        "retrieved_color": captions[0],
        "r_precision_geo": 0.0,
        "retrieved_geo": captions[3],
        "r_precision_albedo": 0.25,
        "retrieved_albedo": captions[2],
    }
    assert r_precision(MeanColor(), plain(red, green), pool_of(captions[3], captions[:3]))["r_precision_geo"] == 1.0, (
        "a prompt that is missing among the captions joins them"
    )


def test_pools_of_toys():
    colored, bare = toy_captions()
    assert len(set(colored)) == 220 and len(set(bare)) == 20
    pool = pool_of("a photo of an orange torus", [])
    assert (pool.color[pool.color_index], pool.geo[pool.geo_index]) == ("an orange torus", "a torus")
    pool = pool_of("a torus", [])
    assert pool.color == pool.geo == bare and pool.color[pool.color_index] == "a torus"
    with pytest.raises(PromptError, match="--captions"):
        pool_of("a castle", [])


def test_captions_from_a_file(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("a red  mug\n\na castle\na castle\n", encoding="utf-8")
    assert read_captions(path) == ["a red mug", "a castle"]
    path.write_text("one\n")
    with pytest.raises(UsageError, match="1 different"):
        read_captions(path)
    path.write_bytes(b"\xff\xfe\x00")
    for bad in (path, tmp_path / "none"):
        with pytest.raises(UsageError, match="--captions"):
            read_captions(bad)


@pytest.mark.parametrize(
    "twin",
    [
        "\ufeffa red mug",
        "a\u00a0red mug",
        "a red\u200b mug",
        "a red mug\ufe0f",
        "a re\u00add mug",
        "a red mug\u200e",
        "a red mug\u2060 ",
        "a red mug",
    ],
)
def test_captions_that_look_alike_are_one(twin, tmp_path, caplog):
    path = tmp_path / "captions.txt"
    path.write_text(f"a castle\na red mug\n{twin}\n\u200b\n", encoding="utf-8")
    captions = read_captions(path)
    assert captions == ["a castle", "a red mug"]
    assert caplog.messages == [
        f"--captions {path}: captions that look like one before are left out: line 3 (like line 2)"
    ]
    path.write_text(f"{twin}\na castle", encoding="utf-8")
    assert caption_pool("a red mug", read_captions(path)).color_index == 0 and len(read_captions(path)) == 2


def test_a_byte_order_mark_is_no_caption(tmp_path, caplog):
    path = tmp_path / "captions.txt"
    path.write_bytes(b"\xef\xbb\xbfa red mug\r\n\xef\xbb\xbfa castle\r\n\xef\xbb\xbf\r\n")
    assert read_captions(path) == ["a red mug", "a castle"] and not caplog.messages


def test_a_caption_that_is_no_text_is_named_by_its_line(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("a red mug\n\na\x1bcastle\n")
    with pytest.raises(UsageError, match=r"captions.txt, line 3, contains U\+001B"):
        read_captions(path)


@pytest.mark.parametrize(
    "caption, prompt",
    [
        ("a grey mug", "a gray mug"),
        ("\u2764 mug", "\u2764\ufe0f mug"),
        ("a red-mug", "a red mug"),
        ("\u201ca red mug\u201d", "a red mug"),
    ],
)
def test_the_prompt_in_another_spelling_is_no_distractor(caption, prompt):
    pool = caption_pool(prompt, ["a castle", caption])
    assert pool.color == ["a castle", caption] and pool.color_index == pool.geo_index == 1


def test_the_judge_reads_other_spellings():
    gray, grey, quoted = word_counts(["a gray mug", "a Grey mug", "\u201ca gray-mug\u201d"])
    assert gray.sum() == 3 and torch.equal(gray, grey) and torch.equal(gray, quoted)


def test_the_views_are_the_papers():
    cameras = judging_cameras()
    assert np.allclose(torch.rad2deg(cameras.elevation), ELEVATION) and ELEVATION == 30.0
    assert np.allclose(torch.rad2deg(cameras.azimuth), AZIMUTHS) and len(set(AZIMUTHS)) == 8


def test_a_true_toys_pictures_are_lit_and_textureless():
    red, blue = (toy_pictures("mug", COLORS[c], resolution=32) for c in ("red", "blue"))
    assert red.lit.shape == (8, 32, 32, 3) and torch.equal(red.clay, blue.clay) and not torch.equal(red.lit, blue.lit)
    inside = red.opacity > 0.99
    assert (red.lit[inside] <= red.albedo[inside] + 1e-5).all() and (red.clay[inside].std(-1) < 1e-6).all()


def test_clip_says_which_captions_it_does_not_read_to_the_end(clip_folder, caplog):
    clip = ClipRetrieval(str(clip_folder))
    clip.texts(["a red mug", "a mug " * 9, "a castle " * 9])
    (message,) = [m for m in caplog.messages if "reads 24 tokens" in m]
    assert "ignored of 2" in message and message.endswith("a mug " * 9)


def test_clip_is_what_transformers_computes(clip_folder):
    from transformers import CLIPModel

    clip, model = ClipRetrieval(str(clip_folder)), CLIPModel.from_pretrained(clip_folder).eval()
    captions = ["a red mug", "a chair"]
    pictures = torch.rand(3, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    exact = (pictures * 255).round() / 255
    pixels = ((exact - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)
    tokens = clip.encoder.tokenizer(captions, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(pixel_values=pixels, **tokens)
    assert torch.allclose(clip.images(pictures), expected.image_embeds, atol=1e-5)
    assert torch.allclose(clip.texts(captions), expected.text_embeds, atol=1e-5)
    assert (clip.images(pictures) @ clip.texts(captions).T).std() > 0


def test_clip_sees_pictures_resized_as_its_own_preprocessing_does(clip_folder):
    clip = ClipRetrieval(str(clip_folder))
    picture = (np.random.default_rng(0).random((1, 100, 100, 3)) * 255).astype(np.uint8)
    by_pillow = np.asarray(Image.fromarray(picture[0]).resize((32, 32), Image.Resampling.BICUBIC)) / 255
    ours = clip.prepare(torch.tensor(picture / 255).float())[0].permute(1, 2, 0).numpy()
    assert np.allclose(ours, by_pillow, atol=1e-5)


def test_clip_is_read_from_weights_of_a_variant(clip_folder, tmp_path):
    folder = shutil.copytree(clip_folder, tmp_path / "clip")
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    pictures = torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ClipRetrieval(str(folder)).images(pictures), ClipRetrieval(str(clip_folder)).images(pictures))


def test_clip_scores_a_toy_by_the_protocol(clip_folder):
    result = r_precision(
        ClipRetrieval(str(clip_folder)), toy_pictures("mug", COLORS["red"], resolution=32), pool_of("a red mug", [])
    )
    assert 0 <= result["r_precision_color"] <= 1 and result["retrieved_geo"] in toy_captions()[1]
    assert len(CLASSES) == len(toy_captions()[1])


@pytest.mark.parametrize("name", ["no/such/folder", "no-such/model"])
def test_a_clip_that_cannot_be_had_is_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PriorError) as caught:
        ClipRetrieval(name)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_a_folder_that_is_no_clip_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(PriorError, match="no CLIP"):
        ClipRetrieval(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(PriorError, match="has no weights in safetensors"):
        ClipRetrieval(str(tmp_path))
