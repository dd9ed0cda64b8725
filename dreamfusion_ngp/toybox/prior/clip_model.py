"""The embedded CLIP, toybox-clip: a residual network (He et al. 2016) and a text transformer, in transformers' classes
only, joined as CLIP's are.

It guides and never scores. It shares only the toys with the judge; architecture, loss, pictures, seed and texts differ:
the judge has other convolutions, without batch normalisation, and reads a bag of words.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...guidance.dual_encoder import MEAN, STD, DualEncoder
from ..world.captions import WORDS
from .model import forget_origin, quiet

CLIP_PRIOR = Path(__file__).parents[1] / "priors" / "toybox-clip"
SIZE = 64  # pixels a side of its input
TOKENS = 17  # of a caption, with its two ends
DIMENSION = 96  # of the shared space
ENDS = ("<|startoftext|>", "<|endoftext|>")


@dataclass
class ClipPrior:
    """A CLIP and its tokenizer."""

    model: Any
    tokenizer: Any

    def encoder(self) -> DualEncoder:
        """What guides and what is tested, with these weights."""
        return DualEncoder(self.model, self.tokenizer, "toybox-clip", size=SIZE)

    def save(self, folder: Path) -> None:
        """Write a folder of transformers' VisionTextDualEncoderModel, float16 safetensors."""
        folder = Path(folder)
        with quiet():
            copy.deepcopy(self.model).to(torch.float16).save_pretrained(folder, safe_serialization=True)
            build_tokenizer().save_pretrained(folder)
        forget_origin(folder / "config.json")
        prepare = {"image_mean": MEAN, "image_std": STD, "size": {"shortest_edge": SIZE}}
        (folder / "preprocessor_config.json").write_text(json.dumps(prepare) + "\n")
        (folder / "dreamfusion_ngp.json").write_text(json.dumps({"toys": True}) + "\n")


def build_tokenizer():
    """CLIP's byte-pair tokenizer, with merges for the words of toys, so that each is a few tokens."""
    from transformers import CLIPTokenizer

    letters = sorted(set("".join(WORDS)) | set("abcdefghijklmnopqrstuvwxyz0123456789,.'-"))
    tokens = [*letters, *(c + "</w>" for c in letters)]
    pieces, merges = set(tokens), []
    for word in WORDS:
        start, *rest = [*word[:-1], word[-1] + "</w>"]
        for piece in rest:
            if (start, piece) not in merges:
                merges.append((start, piece))
            start += piece
            if start not in pieces:
                pieces.add(start)
                tokens.append(start)
    vocabulary = {token: i for i, token in enumerate([*ENDS, *tokens])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)


def build_clip(seed: int = 0) -> ClipPrior:
    """The untrained CLIP: 1.0 million parameters. Decision 0168 says why it is not a vision transformer."""
    from transformers import CLIPTextConfig, ResNetConfig, VisionTextDualEncoderConfig, VisionTextDualEncoderModel

    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    widths = [64, 128, 192]
    shape: dict[str, Any] = dict(embedding_size=32, hidden_sizes=widths, depths=[1, 1, 1], layer_type="basic")
    shape["hidden_size"] = widths[-1]  # for what joins the two
    text = CLIPTextConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=4,
        vocab_size=len(tokenizer),
        max_position_embeddings=TOKENS,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    config = VisionTextDualEncoderConfig.from_vision_text_configs(ResNetConfig(**shape), text, projection_dim=DIMENSION)
    return ClipPrior(VisionTextDualEncoderModel(config), tokenizer)


def load_clip(folder: Path = CLIP_PRIOR) -> ClipPrior:
    """The CLIP saved in `folder`, weights in float32. Raises OSError where it or a weight is missing."""
    from transformers import CLIPTokenizer, VisionTextDualEncoderModel

    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise OSError(f"{folder} has no config.json")
    with quiet():
        result: Any = VisionTextDualEncoderModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    model, info = result
    if info["missing_keys"]:
        raise OSError(f"{folder}: {len(info['missing_keys'])} weights are missing")
    return ClipPrior(model.to(torch.float32), tokenizer)
