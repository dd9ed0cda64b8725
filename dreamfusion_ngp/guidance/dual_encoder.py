"""Image-text dual encoders, in transformers format: CLIP (Radford et al. 2021), SigLIP (Zhai et al. 2023), and image
and text encoders joined in the same way.

One loader for guidance (clip.py) and for evaluation (evaluation/clip.py).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..base.errors import PriorError
from ..hub.fetch import model_path, read_json
from ..hub.names import CLIP_TOYBOX, TOYBOXES
from ..hub.weights import fault, is_lfs_pointer, loadable, part_weights
from .cut import fit_prompt
from .embedded import embedded_folder
from .pipeline_folder import check_complete, fitting, no_progress_bar, read_object, with_words
from .reader import USUAL as USUAL_TOKENS
from .reader import check_embedded, declared_length, positions
from .settings import read_settings

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's training images
HALF = (0.5, 0.5, 0.5)  # SigLIP's mean and deviation
BATCH = 16  # captions at a time
USUAL = 224  # pixels a side, if the folder has no size
TRIAL = ("a", "a photo of a dog")  # two texts that no encoder reads alike
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
        lengths = (declared_length(tokenizer.model_max_length, Path(name)), positions(model.text_model))
        self.limit = min([n for n in lengths if n is not None], default=USUAL_TOKENS)
        tokenizer.model_max_length = self.limit
        self.mean, self.std = (torch.tensor(v, device=self.device).view(1, 3, 1, 1) for v in (mean, std))
        self.cache: dict[tuple[str, ...], Tensor] = {}

    def fit(self, text: str, views: Sequence[str], name: str) -> str:
        """The text called `name`, cut to fit together with the view words; see `fit_prompt`."""
        with self.reading():
            return fit_prompt([self.tokenizer], text, views, ("",), name, f"{self.name} reads")

    def reading(self):
        return fitting(f"{self.name} cannot read a text")

    @torch.no_grad()
    def check(self) -> None:
        """Raise PriorError unless pictures and texts become finite numbers in one space, and different texts
        different ones."""
        with fitting(f"{self.name}: its network does not take what its folder gives it"):
            seen = self.encode_images(torch.full((1, 3, self.size, self.size), 0.5, device=self.device))
            read = self.encode_tokens(*self.tokens(TRIAL))
        if seen.shape[1] != read.shape[1]:
            raise PriorError(
                f"{self.name} makes {seen.shape[1]} numbers of a picture and {read.shape[1]} of a text, which cannot "
                "be compared"
            )
        if not (seen.isfinite().all() and read.isfinite().all()):
            raise PriorError(
                f"{self.name} gives numbers that are not finite: its weights are damaged, or guidance.precision is "
                "too small for it"
            )
        if torch.equal(read[0], read[1]):
            raise PriorError(
                f"{self.name} makes the same numbers of every text: the tokenizer ends a text with another token than "
                "eos_token_id of its config.json says, or its weights are damaged"
            )

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
            with self.reading():
                lengths = [len(ids) for ids in self.tokenizer(list(captions), verbose=False).input_ids]
            if cut := [caption for caption, length in zip(captions, lengths, strict=True) if length > self.limit]:
                log.warning(
                    "%s reads %d tokens of a caption; the end is ignored of %d, the first of which is: %s",
                    *(self.name, self.limit, len(cut), cut[0]),
                )
            batches = [self.encode_tokens(*self.tokens(key[i : i + BATCH])) for i in range(0, len(key), BATCH)]
            self.cache[key] = torch.cat(batches)
        return self.cache[key]

    def tokens(self, captions: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """ids (M, limit) of captions, padded, and CLIP's attention mask; None for SigLIP, which sees the padding.
        Raises PriorError if the tokenizer fails, and for a token without an embedding."""
        with self.reading():
            tokens = self.tokenizer(
                list(captions), padding="max_length", truncation=True, return_tensors="pt", max_length=self.limit
            )
            rows = self.model.text_model.get_input_embeddings().num_embeddings
            check_embedded(self.tokenizer, tokens.input_ids, rows, f"the tokenizer of {self.name}", "its text model")
        tokens = tokens.to(self.device)
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
    PriorError that says what to do if it cannot be loaded, or if what its folder says and its weights do not fit."""
    folder = encoder_folder(model)
    check_encoder(folder, model)
    kind, reader, mean, std = KINDS[encoder_kind(folder, model)]
    mean, std = normalisation(folder, mean, std)
    network = load_network(folder, kind, dtype).to(device)
    size = 0 if hasattr(network.config.vision_config, "image_size") else prepared_side(folder)
    with fitting(f"{model} cannot be loaded"), no_progress_bar():
        tokenizer = tokenizer_class(folder, reader).from_pretrained(folder, local_files_only=True)
    encoder = DualEncoder(network, with_words(tokenizer, folder), model, mean, std, size)
    encoder.check()
    return encoder


def check_encoder(folder: Path, model: str) -> None:
    """Raise PriorError for errors in a folder that can be detected without loading the weights."""
    encoder_kind(folder, model)
    read_settings(folder)
    part_weights(folder)
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".txt", ".model") and is_lfs_pointer(path):
            raise PriorError(f"{path} {fault(path)}")


def load_network(folder: Path, kind: str, dtype: torch.dtype) -> Any:
    """The network, a transformers model of the class `kind`, in `dtype`. Raises PriorError."""
    import transformers

    cls = getattr(transformers, kind)
    with fitting(f"{folder} cannot be loaded as {kind}"), no_progress_bar():
        config = cls.config_class.from_pretrained(folder, local_files_only=True)
        if hasattr(config.vision_config, "image_size"):
            config.vision_config.image_size = side(config.vision_config.image_size, folder / "config.json")
        with loadable(folder, part_weights(folder), "model") as (place, variant):
            network, info = cls.from_pretrained(
                place,
                config=config,
                local_files_only=True,
                use_safetensors=True,
                variant=variant,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    check_complete(folder, info)
    return network.to(dtype).eval().requires_grad_(False)


def side(size, place: Path) -> int:
    """Pixels a side, of an image size that may be a number or a pair. Raises PriorError for another."""
    pair = list(size) if isinstance(size, (list, tuple)) else [size, size]
    if len(pair) != 2 or any(type(n) is not int or n < 1 for n in pair) or pair[0] != pair[1]:
        raise PriorError(f"{place}: the size of a picture must be a number of pixels a side, got {repr(size)[:60]}")
    return pair[0]


def preparation(folder: Path) -> dict:
    """preprocessor_config.json; {} without one. Raises PriorError."""
    path = folder / "preprocessor_config.json"
    return read_object(path) if path.exists() else {}


def normalisation(folder: Path, mean: Sequence[float], std: Sequence[float]) -> list[list[float]]:
    """Mean and deviation in the folder's `preparation`, each three numbers or one for all; null or missing: `mean` and
    `std`. Raises PriorError for values that no picture can be prepared with."""
    prepare, found = preparation(folder), []
    for name, usual in (("image_mean", mean), ("image_std", std)):
        value: Any = usual if prepare.get(name) is None else prepare[name]
        values: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value] * 3
        right = len(values) == 3 and all(type(v) in (int, float) and math.isfinite(v) for v in values)
        if not right or (name == "image_std" and min(values) <= 0):
            wanted = "three numbers above 0" if name == "image_std" else "three numbers"
            raise PriorError(f"{folder}/preprocessor_config.json: {name} must be {wanted}, got {repr(value)[:60]}")
        found.append(values)
    return found


def prepared_side(folder: Path) -> int:
    """Pixels a side in the folder's `preparation`, else USUAL. Raises PriorError."""
    prepare = preparation(folder)
    size = prepare.get("crop_size") or prepare.get("size") or USUAL
    if isinstance(size, dict):
        size = size.get("shortest_edge") or [size.get("height", USUAL), size.get("width", size.get("height", USUAL))]
    return side(size, folder / "preprocessor_config.json")


def encoder_folder(model: str) -> Path:
    """The local folder of a dual encoder; fetched if it is on the hub only. Raises PriorError."""
    if model in TOYBOXES and model != CLIP_TOYBOX:
        raise PriorError(f"{model} is a diffusion model, no CLIP; the embedded CLIP is {CLIP_TOYBOX}")
    return embedded_folder(model) if model in TOYBOXES else model_path(model)


def encoder_kind(folder: Path, model: str) -> str:
    """A key of KINDS. Raises PriorError for another model's folder."""
    path = folder / "config.json"
    kind = read_object(path).get("model_type") if path.exists() else None
    if not isinstance(kind, str) or kind not in KINDS:
        if (folder / "model_index.json").exists():
            reason = "it is a pipeline of diffusers"
        else:
            reason = f"its config.json says model_type {repr(kind)[:60]}" if path.exists() else "it has no config.json"
        raise PriorError(
            f"{model} is no CLIP model: {reason} (wanted is a hub id, or a folder that CLIPModel.save_pretrained or "
            "SiglipModel.save_pretrained wrote)"
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
    kind = read_json(folder / "config.json").get("model_type")
    return not (folder / "model_index.json").exists() and isinstance(kind, str) and kind in KINDS
