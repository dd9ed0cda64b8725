"""Copies of the tiny pipelines with one thing changed, for tests of what does not fit and of what does."""

import json
import shutil

import torch
from support.tiny_latent import clip_config, clip_tokenizer, tiny_unet, tiny_vae


def vae(**changes):
    from diffusers import AutoencoderKL

    base = {k: v for k, v in tiny_vae().config.items() if not k.startswith("_")}
    return AutoencoderKL(**{**base, **changes})


def edited(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def edit(name, **values):
    return lambda folder: edited(folder / name, **values)


def replace(**parts):
    """A change of a folder: parts by name, each a function of nothing."""

    def change(folder):
        torch.manual_seed(5)
        for name, make in parts.items():
            shutil.rmtree(folder / name)
            make().save_pretrained(folder / name)

    return change


def added_token(name="tokenizer"):
    def change(folder):
        from transformers import CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(folder / name)
        tokenizer.add_tokens(["<cat>"])
        tokenizer.save_pretrained(folder / name)

    return change


def clip(width=16, tokens=None, projection=False, **options):
    def make():
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        settings = clip_config(tokens or len(clip_tokenizer()), width)
        for name, value in options.items():
            setattr(settings, name, value)
        return (CLIPTextModelWithProjection if projection else CLIPTextModel)(settings)

    return make


def t5(tokens=40, width=48):
    def make():
        from transformers import T5Config, T5EncoderModel

        return T5EncoderModel(T5Config(vocab_size=tokens, d_model=width, d_kv=8, d_ff=8, num_layers=1, num_heads=2))

    return make


def unet(kind="sd", **changes):
    def make():
        from diffusers import UNet2DConditionModel

        base = {k: v for k, v in tiny_unet(kind).config.items() if not k.startswith("_")}
        return UNet2DConditionModel(**{**base, **changes})

    return make


def copied(source, tmp_path, change=None):
    folder = shutil.copytree(source, tmp_path / "model")
    if change:
        change(folder)
    return folder
