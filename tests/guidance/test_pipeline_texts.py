"""Embeddings are those of `encode_prompt` of the family's own pipeline in diffusers, whatever its encoder is and
whatever its tokenizer says."""

import json
import logging
import shutil

import pytest
import torch
from support.changed_folders import clip, copied, edit, edited, replace
from support.tiny_latent import clip_tokenizer
from support.tiny_models import config, embedding, pipeline, tiny_tokenizer

from dreamfusion_ngp.guidance.load import load_guidance

PROMPT, VIEW = "a red mug", "a red mug, front view"


def assert_the_pipelines(folder, prompt=VIEW, **more):
    """The embeddings of a Stable Diffusion folder for a text and for none."""
    pipe, guidance = pipeline("StableDiffusionPipeline", folder), load_guidance(config(folder, **more), "cpu")
    theirs, negative = pipe.encode_prompt(prompt, "cpu", 1, True)
    torch.testing.assert_close(embedding(guidance, prompt), theirs[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(embedding(guidance, ""), negative[0], rtol=0, atol=1e-6)
    return guidance


def word_tokenizer():
    return tiny_tokenizer("packed")


def bert(family: str, **options):
    def make():
        import transformers

        settings = dict(
            vocab_size=40,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=14,
        )
        return getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(**settings | options))

    return make


def t5():
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2))


ENCODERS = {
    "BertModel": bert("Bert"),
    "XLMRobertaModel": bert("XLMRoberta", pad_token_id=1),
    "T5EncoderModel": t5,
    "ElectraModel": bert("Electra", embedding_size=16),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_padding_is_shown_to_a_foreign_encoder_in_a_stable_diffusion_pipeline(name, latent_folders, tmp_path):
    folder = copied(latent_folders["sd"], tmp_path, replace(text_encoder=ENCODERS[name], tokenizer=word_tokenizer))
    edited(
        folder / "model_index.json",
        text_encoder=["transformers", name],
        tokenizer=["transformers", "PreTrainedTokenizerFast"],
    )
    guidance = assert_the_pipelines(folder)
    assert guidance.denoiser.texts.embeddings["hidden"].shape[1] == 12


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_an_encoders_wish_to_hide_padding_is_heard_where_the_pipeline_hears_it(kind, latent_folders, tmp_path):
    folder = copied(latent_folders[kind], tmp_path, edit("text_encoder/config.json", use_attention_mask=True))
    if kind == "sd":
        hidden = embedding(assert_the_pipelines(folder), "")
        shown = embedding(load_guidance(config(latent_folders["sd"]), "cpu"), "")
        assert (hidden - shown).abs().max() > 1e-3
    else:
        theirs = pipeline("StableDiffusionXLPipeline", folder).encode_prompt(VIEW, device="cpu")[0]
        torch.testing.assert_close(embedding(load_guidance(config(folder), "cpu"), VIEW), theirs[0])


@pytest.mark.parametrize("length", [20, 512, 10**30])
def test_if_reads_77_tokens_whatever_its_tokenizer_says(length, folders, tmp_path):
    folder = copied(folders["if"], tmp_path, edit("tokenizer/tokenizer_config.json", model_max_length=length))
    pipe, guidance = pipeline("IFPipeline", folder), load_guidance(config(folder), "cpu")
    theirs, negative = pipe.encode_prompt(VIEW, device="cpu")
    torch.testing.assert_close(embedding(guidance, VIEW), theirs[0])
    torch.testing.assert_close(embedding(guidance, ""), negative[0])
    assert guidance.denoiser.texts.embeddings["hidden"].shape[1] == 77 and not guidance.denoiser.texts.masked


def long_tokenizer():
    return clip_tokenizer(100)


def test_a_long_clip_is_read_to_its_end(latent_folders, tmp_path):
    longer = clip(max_position_embeddings=100)
    folder = copied(latent_folders["sd"], tmp_path, replace(tokenizer=long_tokenizer, text_encoder=longer))
    assert assert_the_pipelines(folder).denoiser.texts.embeddings["hidden"].shape[1] == 100


def without_length(folder, names=("tokenizer",)):
    for name in names:
        path = folder / name / "tokenizer_config.json"
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "model_max_length"}))


LENGTHS = {
    "absent": without_length,
    "null": edit("tokenizer/tokenizer_config.json", model_max_length=None),
    "huge": edit("tokenizer/tokenizer_config.json", model_max_length=10**30),
    "a fraction": edit("tokenizer/tokenizer_config.json", model_max_length=16.0),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_a_tokenizer_without_a_length_has_its_encoders(name, latent_folders, tmp_path):
    folder = copied(latent_folders["sd"], tmp_path, LENGTHS[name])
    ours, plain = (
        load_guidance(config(f), "cpu").denoiser.texts.embeddings["hidden"] for f in (folder, latent_folders["sd"])
    )
    assert torch.equal(ours, plain)


@pytest.mark.parametrize("kind, part", [("sd", "text_encoder"), ("sdxl", "text_encoder_2"), ("sd3", "text_encoder")])
def test_texts_are_cut_to_what_the_encoder_holds(kind, part, latent_folders, tmp_path, caplog):
    """8 positions, a tokenizer of 16: the view words stay, the end of the prompt goes."""
    width = 24 if part == "text_encoder_2" else 16
    short = clip(width, projection=kind != "sd", max_position_embeddings=8)
    folder = copied(latent_folders[kind], tmp_path, replace(**{part: short}))
    guidance = load_guidance(config(folder, "a red clay mug"), "cpu")
    assert guidance.denoiser.texts.embeddings["hidden"].shape[1] == (8 + 256 if kind == "sd3" else 8)
    assert "8 tokens" in caplog.text
    if kind == "sd":
        assert (
            guidance.denoiser.texts.prompt == "a red clay" and "a red clay, front view" in guidance.denoiser.texts.rows
        )


def with_vectors(folder, *names):
    """ "<mug>" of textual inversion, three vectors long, in the tokenizers and the encoders of the tiny CLIPs."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    for name in names:
        tokenizer = CLIPTokenizer.from_pretrained(folder / f"tokenizer{name}")
        tokenizer.add_tokens(["<mug>", "<mug>_1", "<mug>_2"])
        tokenizer.save_pretrained(folder / f"tokenizer{name}")
        cls = CLIPTextModelWithProjection if name else CLIPTextModel
        encoder = cls.from_pretrained(folder / f"text_encoder{name}")
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        shutil.rmtree(folder / f"text_encoder{name}")
        encoder.save_pretrained(folder / f"text_encoder{name}")


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_a_token_of_several_vectors_is_read_whole(kind, latent_folders, tmp_path):
    folder = copied(latent_folders[kind], tmp_path)
    with_vectors(folder, *(("", "_2") if kind == "sdxl" else ("",)))
    prompt, text = "a <mug> mug", "a <mug> mug, front view"
    guidance = load_guidance(config(folder, prompt), "cpu")
    if kind == "sd":
        theirs = pipeline("StableDiffusionPipeline", folder).encode_prompt(text, "cpu", 1, False)[0]
    else:
        theirs = pipeline("StableDiffusionXLPipeline", folder).encode_prompt(text, device="cpu")[0]
    torch.testing.assert_close(embedding(guidance, text), theirs[0])
    assert guidance.denoiser.texts.prompt == prompt


@pytest.mark.parametrize("negative, zeros", [("", True), ("   ", True), ("a blue mug", False)])
def test_blanks_as_a_negative_prompt_of_sdxl_are_none(negative, zeros, latent_folders):
    guidance = load_guidance(config(latent_folders["sdxl"], negative=negative), "cpu")
    row = next(iter(guidance.denoiser.texts.negative_rows.values()))
    assert all((guidance.denoiser.texts.embeddings[key][row] == 0).all() == zeros for key in ("hidden", "pooled"))


def test_sd3s_t5_reads_on_where_the_clips_are_full(latent_folders, caplog):
    from diffusers import StableDiffusion3Pipeline

    caplog.set_level(logging.WARNING)
    folder, prompt = latent_folders["sd3"], " ".join(["a red mug"] * 9)
    guidance = load_guidance(config(folder, prompt), "cpu")
    assert guidance.denoiser.texts.prompt == prompt
    pipe = StableDiffusion3Pipeline.from_pretrained(folder, low_cpu_mem_usage=False)
    short = " ".join(prompt.split()[:11])  # 16 tokens with start, end and ", front view"
    expected = pipe.encode_prompt(f"{short}, front view", None, f"{prompt}, front view", device="cpu")
    text = f"{prompt}, front view"
    torch.testing.assert_close(embedding(guidance, text), expected[0][0])
    torch.testing.assert_close(embedding(guidance, text, "pooled"), expected[2][0])
    assert [r.message for r in caplog.records if r.name.startswith("dreamfusion")] == [
        "the model's T5 reads on, but its CLIPs read 16 tokens of text; these words at the end of the prompt are "
        "ignored: " + " ".join(prompt.split()[11:])
    ]
    again = load_guidance(config(folder, prompt), "cpu")
    assert torch.equal(again.denoiser.texts.embeddings["hidden"], guidance.denoiser.texts.embeddings["hidden"])


def settings(folder, **values):
    (folder / "dreamfusion_ngp.json").write_text(json.dumps(values))
