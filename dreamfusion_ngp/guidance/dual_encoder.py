"""Image-text dual encoders, in transformers format: CLIP (Radford et al. 2021), SigLIP (Zhai et al. 2023), and image
and text encoders joined in the same way.

One loader for guidance (clip.py) and for evaluation (evaluation/clip.py).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..base.errors import PriorError
from ..hub.fetch import model_path, read_json
from ..hub.names import CLIP_TOYBOX, TOYBOXES
from ..hub.weights import loadable, part_weights
from .embedded import embedded_folder
from .pipeline_folder import fitting, no_progress_bar

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's training images
HALF = (0.5, 0.5, 0.5)  # SigLIP's mean and deviation
BATCH = 16  # captions at a time
USUAL = 224  # pixels a side, if the folder has no size
# model_type of config.json -> classes of transformers, default mean and deviation
KINDS = {
    "clip": ("CLIPModel", "CLIPTokenizer", MEAN, STD),
    "siglip": ("SiglipModel", "SiglipTokenizer", HALF, HALF),
    "vision-text-dual-encoder": ("VisionTextDualEncoderModel", "CLIPTokenizer", MEAN, STD),
}

log = logging.getLogger(__name__)


class DualEncoder:
    """name: for messages.  size: pixels a side of its input. limit: the most tokens of a caption that it reads. mean,
    std: (3,), normalisation of pixels."""

    def __init__(
        self, model, tokenizer, name: str, mean: Sequence[float] = MEAN, std: Sequence[float] = STD, size: int = 0
    ):
        """size: used if the network's config has none."""
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.device = next(model.parameters()).device
        self.size = int(getattr(model.config.vision_config, "image_size", size))
        self.limit = int(model.config.text_config.max_position_embeddings)
        self.mean, self.std = (torch.tensor(v, device=self.device).view(1, 3, 1, 1) for v in (mean, std))
        self.cache: dict[tuple[str, ...], Tensor] = {}

    def encode_images(self, pictures: Tensor) -> Tensor:
        """Pictures (N, 3, size, size) in [0, 1] -> (N, D) float32 of length 1. Differentiable."""
        pixels = ((pictures - self.mean) / self.std).to(next(self.model.parameters()).dtype)
        pooled = self.model.vision_model(pixel_values=pixels).pooler_output.flatten(1)
        project = getattr(self.model, "visual_projection", None)  # CLIP's; SigLIP's pooling has one inside
        return torch.nn.functional.normalize((pooled if project is None else project(pooled)).float(), dim=-1)

    @torch.no_grad()
    def encode_texts(self, captions: Sequence[str]) -> Tensor:
        """M captions -> (M, D) float32 of length 1, on the device. Results are cached; the end of a caption that is too
        long is ignored, with a warning."""
        key = tuple(captions)
        if key not in self.cache:
            lengths = map(len, self.tokenizer(list(captions), verbose=False).input_ids)
            if cut := [caption for caption, length in zip(captions, lengths, strict=True) if length > self.limit]:
                log.warning(
                    "%s reads %d tokens of a caption; the end is ignored of %d, the first of which is: %s",
                    *(self.name, self.limit, len(cut), cut[0]),
                )
            batches = [self.encode_tokens(*self.tokens(key[i : i + BATCH])) for i in range(0, len(key), BATCH)]
            self.cache[key] = torch.cat(batches)
        return self.cache[key]

    def tokens(self, captions: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """ids (M, limit) of captions, padded, and CLIP's attention mask; None for SigLIP, which sees the padding."""
        tokens = self.tokenizer(
            list(captions), padding="max_length", truncation=True, return_tensors="pt", max_length=self.limit
        ).to(self.device)
        return tokens.input_ids, tokens.attention_mask if hasattr(self.model, "text_projection") else None

    def encode_tokens(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """(M, D) float32 of length 1, of the output of `tokens`. Differentiable."""
        pooled = self.model.text_model(input_ids=ids, attention_mask=mask).pooler_output
        project = getattr(self.model, "text_projection", None)
        return torch.nn.functional.normalize((pooled if project is None else project(pooled)).float(), dim=-1)


def load_dual_encoder(
    model: str, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> DualEncoder:
    """model: "toybox-clip", a short name or hub id (fetched once), or a folder in transformers format. Frozen. Raises
    PriorError that says what to do if it cannot be loaded."""
    import transformers

    folder = encoder_folder(model)
    kind, reader, mean, std = KINDS[encoder_kind(folder, model)]
    with fitting(f"{model} cannot be loaded"), no_progress_bar():
        with loadable(folder, part_weights(folder), "model") as (place, variant):
            network = getattr(transformers, kind).from_pretrained(
                place, local_files_only=True, use_safetensors=True, variant=variant, dtype=dtype
            )
        tokenizer = tokenizer_class(folder, reader).from_pretrained(folder, local_files_only=True)
    prepare = read_json(folder / "preprocessor_config.json")
    network.eval().requires_grad_(False).to(device)
    size = prepare.get("crop_size") or prepare.get("size") or USUAL
    size = size.get("height", size.get("shortest_edge", USUAL)) if isinstance(size, dict) else size
    return DualEncoder(network, tokenizer, model, prepare.get("image_mean", mean), prepare.get("image_std", std), size)


def encoder_folder(model: str) -> Path:
    """The local folder of a dual encoder; fetched if it is on the hub only. Raises PriorError."""
    if model in TOYBOXES and model != CLIP_TOYBOX:
        raise PriorError(f"{model} is a diffusion model, no CLIP; the embedded CLIP is {CLIP_TOYBOX}")
    return embedded_folder(model) if model in TOYBOXES else model_path(model)


def encoder_kind(folder: Path, model: str) -> str:
    """A key of KINDS. Raises PriorError for another model's folder."""
    kind = read_json(folder / "config.json").get("model_type")
    if kind not in KINDS:
        raise PriorError(
            f"{model} is no CLIP model: its config.json does not say so (a hub id, or a folder that "
            "CLIPModel.save_pretrained or SiglipModel.save_pretrained wrote)"
        )
    return kind


def tokenizer_class(folder: Path, usual: str) -> type:
    """The tokenizer class that the folder names, if it is one of transformers' own, else the usual one."""
    import transformers

    cls = getattr(transformers, str(read_json(folder / "tokenizer_config.json").get("tokenizer_class")), None)
    if isinstance(cls, type) and issubclass(cls, transformers.PreTrainedTokenizerBase):
        return cls
    return getattr(transformers, usual)


def is_dual_encoder(folder: Path) -> bool:
    """Whether a folder holds a dual encoder, not a pipeline."""
    return not (folder / "model_index.json").exists() and read_json(folder / "config.json").get("model_type") in KINDS
