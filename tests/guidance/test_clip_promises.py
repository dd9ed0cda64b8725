"""What the folder of a CLIP promises and its networks do not keep: one line before a run is made of it. What can be
read either way is read as it was meant."""

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.changed_folders import edit, edited
from support.tiny_clip import tiny_siglip_folder

from dreamfusion_ngp import cli
from dreamfusion_ngp.base.errors import PriorError, PromptError
from dreamfusion_ngp.config.schema import ClipConfig, GuidanceConfig, RunConfig
from dreamfusion_ngp.guidance.dual_encoder import load_dual_encoder
from dreamfusion_ngp.guidance.load import check_guidance, load_guidance

CONFIG, TOKENIZER, PREPARE, WEIGHTS = (
    "config.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "model.safetensors",
)
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 3\n"


def config(folder, prompt="a red mug", negative="", **guidance):
    told = GuidanceConfig(kind="clip", model=str(folder), **{"view_words": "none", **guidance}, negative=negative)
    return RunConfig(prompt=prompt, guidance=told, clip=ClipConfig(windows=2, negative=0.5), seed=4)


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


def part(name, **values):
    """A change of one part of config.json."""

    def change(folder):
        edited(folder / CONFIG, **{name: json.loads((folder / CONFIG).read_text())[name] | values})

    return change


def prepare(**values):
    return write(PREPARE, json.dumps(values))


def weights(change):
    def changed(folder):
        save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, {"format": "pt"})

    return changed


def without(*names):
    def change(folder):
        for name in names:
            (folder / name).unlink()

    return change


def added_token(folder):
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<cat>"])
    tokenizer.save_pretrained(folder)


# name: (change, prompt, negative, what the line says)
BROKEN = {
    "token without embedding": (added_token, "a <cat> mug", "", "'<cat>' the number 514.* for the numbers 0 to 513"),
    "the same in the negative": (added_token, "a mug", "<cat>", "'<cat>' the number 514"),
    "no padding token": (edit(TOKENIZER, pad_token=None), "a", "", "cannot read a text: .*padding token"),
    "a list of lengths": (edit(TOKENIZER, model_max_length=[8]), "a", "", "model_max_length is .8., not a number of"),
    "another end of texts": (part("text_config", eos_token_id=5), "a", "", "the same numbers of every text"),
    "no vocabulary": (without("tokenizer.json", "vocab.json", "merges.txt"), "a", "", "a tokenizer without words"),
    "more positions": (
        part("text_config", max_position_embeddings=48),
        "a",
        "",
        "1 weights are missing or .*position_emb",
    ),
    "another size": (part("vision_config", image_size=64), "a", "", "vision_model.embeddings.position_embedding"),
    "oblong": (part("vision_config", image_size=[32, 16]), "a", "", "a number of pixels a side, got .32, 16."),
    "size null": (part("vision_config", image_size=None), "a", "", "a number of pixels a side, got None"),
    "another projection": (
        edit(CONFIG, projection_dim=8),
        "a",
        "",
        "2 weights are missing or .*text_projection.weight",
    ),
    "few embeddings": (part("text_config", vocab_size=100), "a", "", "token_embedding.weight"),
    "no projection": (
        weights(lambda state: {k: v for k, v in state.items() if k != "visual_projection.weight"}),
        "a",
        "",
        "1 weights are missing or have the wrong shape, the first is visual_projection.weight",
    ),
    "not finite": (weights(lambda state: {k: v / 0 for k, v in state.items()}), "a", "", "numbers that are not finite"),
    "two means": (prepare(image_mean=[0.5, 0.5]), "a", "", "image_mean must be three numbers, got .0.5, 0.5."),
    "a mean in words": (prepare(image_mean="0.5"), "a", "", "image_mean must be three numbers"),
    "no deviation": (prepare(image_std=[0, 0, 0]), "a", "", "image_std must be three numbers above 0"),
    "damaged preparation": (write(PREPARE, "{no"), "a", "", "preprocessor_config.json cannot be read"),
    "pointer of a tokenizer": (write("tokenizer.json", POINTER), "a", "", "tokenizer.json is a git-lfs pointer"),
    "pointer of a config": (write(CONFIG, POINTER), "a", "", "config.json is a git-lfs pointer"),
    "pointer of weights": (write(WEIGHTS, POINTER), "a", "", "model.safetensors is a git-lfs pointer"),
    "damaged config": (write(CONFIG, "{no"), "a", "", "config.json cannot be read"),
    "no config": (without(CONFIG), "a", "", "no CLIP model: it has no config.json"),
    "a list of types": (edit(CONFIG, model_type=["clip"]), "a", "", "no CLIP model: .* says model_type .'clip'."),
    "unknown setting": (write("dreamfusion_ngp.json", '{"toyz": true}'), "a", "", "no setting 'toyz'"),
}
CHECKED = [name for name in BROKEN if name.startswith(("pointer", "damaged config", "no config", "a list of t", "unk"))]


@pytest.fixture
def changed(clip_folder, tmp_path):
    def copy(*changes, folder=clip_folder):
        found = shutil.copytree(folder, tmp_path / "model")
        for change in changes:
            change(found)
        return found

    return copy


@pytest.mark.parametrize("name", BROKEN)
def test_what_does_not_fit_is_one_line(name, changed, capfd):
    change, prompt, negative, message = BROKEN[name]
    folder = changed(change)
    for act in (lambda c: load_guidance(c, "cpu"), *([check_guidance] if name in CHECKED else [])):
        with pytest.raises(PriorError, match=message) as caught:
            act(config(folder, prompt, negative))
        assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    assert "LOAD REPORT" not in "".join(capfd.readouterr())


def test_it_is_found_before_the_run_folder(changed, tmp_path, capsys):
    folder, out = changed(added_token), tmp_path / "outputs"
    flags = ["--set", "views=2", "--steps", "1", "--device", "cpu", "-o", str(out)]
    assert cli.main(["generate", "a <cat> mug", "--guidance", str(folder), *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "<cat>" in error and error.count("\n") == 1 and not out.exists()


def test_pictures_and_texts_have_one_space(changed, tmp_path):
    from transformers import SiglipConfig, SiglipModel

    folder = tiny_siglip_folder(tmp_path / "siglip")
    part("text_config", projection_size=16)(folder)
    SiglipModel(SiglipConfig(**json.loads((folder / CONFIG).read_text()))).save_pretrained(folder)
    with pytest.raises(PriorError, match="32 numbers of a picture and 16 of a text, which cannot be compared"):
        load_dual_encoder(str(folder))


@pytest.mark.parametrize(
    "change",
    [
        part("vision_config", image_size=[32, 32]),
        prepare(image_mean=None, image_std=None),
        prepare(size=[224, 336]),
        lambda folder: (folder / WEIGHTS).rename(folder / "pytorch_model.bf16.safetensors"),
    ],
)
def test_what_can_be_read_either_way(change, changed, clip_folder):
    found, plain = load_dual_encoder(str(changed(change))), load_dual_encoder(str(clip_folder))
    picture = torch.rand(1, 3, 32, 32)
    assert found.size == 32 and torch.equal(found.encode_images(picture), plain.encode_images(picture))


def test_one_number_is_the_mean_of_all_colours(changed):
    encoder = load_dual_encoder(str(changed(prepare(image_mean=0.5, image_std=0.25))))
    assert encoder.mean.flatten().tolist() == [0.5] * 3 and encoder.std.flatten().tolist() == [0.25] * 3


def test_a_tokenizer_may_read_less_than_there_are_positions(changed):
    encoder = load_dual_encoder(str(changed(edit(TOKENIZER, model_max_length=8))))
    assert encoder.limit == 8 and encoder.tokens(["a"])[0].shape == (1, 8)


def test_a_text_that_is_too_long_is_named_and_keeps_its_view_words(clip_folder, caplog):
    caplog.set_level(logging.WARNING)
    long = "a red mug on a very long table"
    guidance = load_guidance(config(clip_folder, long, "ugly and many other bad things", view_words="paper"), "cpu")
    assert guidance.config.prompt == "a red mug on" and guidance.negative == "ugly and many other bad"
    assert caplog.messages == [
        f"{clip_folder} reads 24 tokens of text; these words at the end of the prompt are ignored: a very long table",
        f"{clip_folder} reads 24 tokens of text; these words at the end of the negative prompt are ignored: things",
    ]


def test_texts_are_cleaned_and_syntax_is_noted(clip_folder, caplog):
    caplog.set_level(logging.WARNING)
    assert load_guidance(config(clip_folder, "a  red\u200b mug"), "cpu").config.prompt == "a red mug"
    with pytest.raises(PromptError, match="the negative prompt contains the byte 0xE9"):
        load_guidance(config(clip_folder, negative="\udce9"), "cpu")
    load_guidance(config(clip_folder, "a (red:1.2) mug"), "cpu")
    assert "(red:1.2)" in caplog.text
