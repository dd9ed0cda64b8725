"""Text embeddings: every string a run can need is encoded once, kept on disk, and the encoder is freed."""

from __future__ import annotations

import bisect
import hashlib
import importlib.metadata
import logging
import math
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..config import GuidanceConfig
from ..errors import PriorError, PromptError
from ..hub import cache_folder
from ..prompts import MODE_WORDS, VIEW_WORDS, view_prompt
from .parts import load_model, load_tokenizer

log = logging.getLogger(__name__)

MAX_TOKENS = 77  # CLIP's limit, and what DeepFloyd IF was trained with though T5 takes more
FORMAT = "2"  # of the cache; part of the key
SMALL = 64 << 20  # bytes; the content of larger files is not read for the fingerprint


def vocabulary(config: GuidanceConfig) -> tuple[list[str], tuple[str, ...]]:
    """All view words and all mode words that `config` can add to a prompt."""
    words = VIEW_WORDS[config.view_words]
    views = {words(math.radians(a), math.radians(e)) for a in range(-180, 180, 5) for e in range(-90, 91, 3)}
    return sorted(views), MODE_WORDS if config.mode_words else ("",)


def fit_prompt(tokenizers: Sequence, prompt: str, views: Sequence[str], modes: Sequence[str]) -> str:
    """`prompt`, without the words at its end for which a tokenizer has no room beside the view and mode words.

    A plain truncation would cut the view words first and leave a model that cannot tell front from back. What is cut is
    logged as a warning. Raises PromptError where not even the first word fits.
    """
    limit, words = min(map(token_limit, tokenizers)), prompt.split()

    def fits(k: int) -> bool:
        texts = [view_prompt(" ".join(words[:k]), view, mode) for view in views for mode in modes]
        return max(len(ids) for t in tokenizers for ids in t(texts, verbose=False).input_ids) <= limit

    if fits(len(words)):
        return prompt
    keep = bisect.bisect_left(range(len(words)), True, key=lambda k: not fits(k)) - 1
    if keep < 1:
        raise PromptError(
            f"the model reads {limit} tokens of text, too few for the words of the view and one of the prompt"
        )
    cut = " ".join(words[keep:])
    log.warning("the model reads %d tokens of text; these words at the end of the prompt are ignored: %s", limit, cut)
    return " ".join(words[:keep])


def token_limit(tokenizer) -> int:
    return min(tokenizer.model_max_length, MAX_TOKENS)


class TextEncoder:
    """The last hidden state of a pipeline's one text encoder: CLIP of Stable Diffusion 1 and 2, or a T5. A family whose
    texts are encoded otherwise overrides `PARTS` and `encode`."""

    PARTS = ("text_encoder",)
    TOKENIZERS = ("tokenizer",)
    KEYS = ("hidden", "mask")

    def __init__(self, folder: Path, index: dict):
        self.folder, self.index = folder, index
        names = self.parts(index)
        self.models = [name for name in names if name.startswith("text_encoder")]
        self.tokenizers = [load_tokenizer(folder, index, name) for name in names if name not in self.models]

    @classmethod
    def parts(cls, index: dict) -> tuple[str, ...]:
        """The names of the parts that it is made of in a folder."""
        return (*cls.PARTS, *cls.TOKENIZERS)

    def normal(self, text: str) -> str:
        """The text as the model was shown texts."""
        return text

    def load(self) -> list:
        return [load_model(self.folder, self.index, name) for name in self.models]

    @torch.no_grad()
    def encode(self, models: list, text: str) -> dict[str, Tensor]:
        """A text's entry in the cache. "hidden": (L, D) float32, of the text padded to the model's length. "mask": (L,)
        int64, 0 for padding."""
        tokens = tokenize(self.tokenizers[0], text)
        mask = tokens.get("attention_mask")
        seen = mask if sees_padding_mask(models[0]) else None
        hidden = models[0](tokens.input_ids, attention_mask=seen).last_hidden_state[0].float()
        return {"hidden": hidden, "mask": torch.ones(len(hidden), dtype=torch.int64) if mask is None else mask[0]}


class LowerCase(TextEncoder):
    """DeepFloyd IF: a T5 that was shown small letters only."""

    def normal(self, text: str) -> str:
        return text.lower()


class TwoTextEncoders(TextEncoder):
    """SDXL (Podell et al. 2023, section 2.1): the penultimate hidden states of both encoders side by side, and the
    second one's pooled projection ("pooled" (P,) float32). The empty text is zeros where the pipeline says so."""

    PARTS = ("text_encoder", "text_encoder_2")
    TOKENIZERS = ("tokenizer", "tokenizer_2")
    KEYS = ("hidden", "mask", "pooled")

    @torch.no_grad()
    def encode(self, models: list, text: str) -> dict[str, Tensor]:
        outputs = [model(tokenize(tokenizer, text).input_ids, output_hidden_states=True)
                   for model, tokenizer in zip(models, self.tokenizers)]
        hidden = torch.cat([output.hidden_states[-2][0] for output in outputs], -1).float()
        pooled = outputs[1].text_embeds[0].float()
        if not text and self.index.get("force_zeros_for_empty_prompt", True):
            hidden, pooled = torch.zeros_like(hidden), torch.zeros_like(pooled)
        return {"hidden": hidden, "mask": torch.ones(len(hidden), dtype=torch.int64), "pooled": pooled}


def tokenize(tokenizer, text: str):
    """The tokens of one text, padded to the model's length."""
    return tokenizer([text], return_tensors="pt", padding="max_length", truncation=True,
                     max_length=token_limit(tokenizer))


def sees_padding_mask(encoder) -> bool:
    """Whether padding is hidden from a text encoder: from every one but CLIP, unless its config says so, as in
    diffusers' pipelines."""
    return not type(encoder).__name__.startswith("CLIP") or bool(getattr(encoder.config, "use_attention_mask", False))


def embed(encoder: TextEncoder, texts: Sequence[str]) -> dict[str, Tensor]:
    """Embeddings of `texts` on the CPU: of every key of the encoder's entries, the S entries stacked; "hidden" is
    (S, L, D) float32.

    The encoder is loaded only if a text is not in the cache, runs on the CPU (the same numbers for every device; big
    ones do not fit beside a UNet), and is gone afterwards. A cache that cannot be written costs a warning.
    """
    base, cache = fingerprint(encoder.folder, encoder.parts(encoder.index)), cache_folder()
    paths = {text: cache / f"{hashlib.sha256(f'{base} {text}'.encode()).hexdigest()}.safetensors" for text in texts}
    found = {text: entry for text, path in paths.items() if (entry := _read(path, encoder.KEYS)) is not None}
    missing = [text for text in paths if text not in found]
    if missing:
        models = encoder.load()
        for text in missing:
            entry = encoder.encode(models, encoder.normal(text))
            found[text] = {key: value.contiguous() for key, value in entry.items()}
            if not all(value.isfinite().all() for value in found[text].values()):
                raise PriorError(f"{encoder.folder}: a text encoder gives numbers that are not finite: "
                                 "its weights are damaged")
            _write(paths[text], found[text])
    return {key: torch.stack([found[text][key] for text in texts]) for key in encoder.KEYS}


def fingerprint(folder: Path, parts: Sequence[str]) -> str:
    """SHA-256 of what decides an embedding: the files of the encoders and the tokenizers, and the library's version.

    Of files above 64 MiB the content is not read: a hub's cache names its files by their SHA-256, which counts; of
    others the size and the time of the last change count.
    """
    total = hashlib.sha256(f"{FORMAT} {importlib.metadata.version('transformers')}".encode())
    for path in sorted(p for part in parts for p in (folder / part).rglob("*") if p.is_file()):
        stat, blob = path.stat(), path.resolve().name
        if stat.st_size <= SMALL:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            digest = blob if re.fullmatch("[0-9a-f]{64}", blob) else str(stat.st_mtime_ns)
        total.update(f"{path.relative_to(folder).as_posix()} {stat.st_size} {digest}\n".encode())
    return total.hexdigest()


def _read(path: Path, keys: Sequence[str]) -> dict[str, Tensor] | None:
    """A cache entry; None if there is none or it is damaged (it is then written anew)."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        entry = load_file(path)
    except (OSError, SafetensorError):
        return None
    return entry if entry.keys() == set(keys) else None


def _write(path: Path, entry: dict[str, Tensor]) -> None:
    """Write under another name, then rename: a run beside this one never reads half a file."""
    from safetensors.torch import save

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            (temporary := Path(folder) / path.name).write_bytes(save(entry))
            os.replace(temporary, path)
    except OSError as error:
        log.warning("the cache of text embeddings cannot be written: %s", error)
