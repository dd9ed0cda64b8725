"""Tiny random dual encoders in transformers format, made in a moment."""

import json

import pytest
import torch
from support.tiny_models import tiny_tokenizer

SMALL = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
VISION = dict(SMALL, image_size=32, patch_size=8)


def tiny_clip_folder(folder, seed: int = 0):
    """A CLIP with random weights and a vocabulary of bytes, which reads 24 tokens."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    folder.mkdir(parents=True, exist_ok=True)
    letters = list(bytes_to_unicode().values())
    tokens = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=24).save_pretrained(folder)
    ends = dict(bos_token_id=len(tokens) - 2, eos_token_id=len(tokens) - 1, pad_token_id=len(tokens) - 1)
    torch.manual_seed(seed)
    config = CLIPConfig(
        text_config=dict(SMALL, vocab_size=len(tokens), max_position_embeddings=24, **ends),
        vision_config=VISION,
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(folder)
    return folder


def tiny_siglip_folder(folder):
    """A SigLIP with random weights and a vocabulary of words, which reads 12 tokens."""
    from transformers import SiglipConfig, SiglipModel

    tokenizer = tiny_tokenizer("word")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    text = dict(SMALL, vocab_size=len(tokenizer), max_position_embeddings=12, projection_size=32)
    SiglipModel(SiglipConfig(text_config=text, vision_config=VISION)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    return tiny_clip_folder(tmp_path_factory.mktemp("tiny-clip"))


@pytest.fixture(scope="session")
def siglip_folder(tmp_path_factory):
    return tiny_siglip_folder(tmp_path_factory.mktemp("tiny-siglip"))
