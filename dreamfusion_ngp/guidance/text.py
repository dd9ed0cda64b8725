"""Text embeddings: every string a run can need is encoded once, kept on disk, and the encoder is freed."""

from __future__ import annotations

import bisect
import hashlib
import importlib.metadata
import logging
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..config import GuidanceConfig
from ..errors import PriorError, PromptError
from ..prompts import MODE_WORDS, VIEW_WORDS, view_prompt
from .parts import load_model

log = logging.getLogger(__name__)

MAX_TOKENS = 77  # CLIP's limit, and what DeepFloyd IF was trained with though T5 takes more
FORMAT = "1"  # of the cache; part of the key
SMALL = 64 << 20  # bytes; the content of larger files is not read for the fingerprint


def cache_folder() -> Path:
    """Where embeddings are kept: DREAMFUSION_NGP_CACHE, else "dreamfusion_ngp" in the platform's cache folder."""
    if chosen := os.environ.get("DREAMFUSION_NGP_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "dreamfusion_ngp"


def vocabulary(config: GuidanceConfig) -> tuple[list[str], tuple[str, ...]]:
    """All view words and all mode words that `config` can add to a prompt."""
    words = VIEW_WORDS[config.view_words]
    views = {words(math.radians(a), math.radians(e)) for a in range(-180, 180, 5) for e in range(-90, 91, 3)}
    return sorted(views), MODE_WORDS if config.mode_words else ("",)


def fit_prompt(tokenizer, prompt: str, views: Sequence[str], modes: Sequence[str]) -> str:
    """`prompt`, without the words at its end for which the tokenizer has no room beside the view and mode words.

    A plain truncation would cut the view words first and leave a model that cannot tell front from back. What is cut is
    logged as a warning. Raises PromptError where not even the first word fits.
    """
    limit, words = token_limit(tokenizer), prompt.split()

    def fits(k: int) -> bool:
        texts = [view_prompt(" ".join(words[:k]), view, mode) for view in views for mode in modes]
        return max(len(ids) for ids in tokenizer(texts, verbose=False).input_ids) <= limit

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


def embed(folder: Path, index: dict, tokenizer, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Embeddings of `texts` by the text encoder of a pipeline folder: (S, L, D) float32 and the tokens' mask (S, L)
    int64, on the CPU.

    The encoder is loaded only if a text is not in the cache, runs on the CPU (the same numbers for every device; big
    ones do not fit beside a UNet), and is gone afterwards. A cache that cannot be written costs a warning.
    """
    base, cache = fingerprint(folder), cache_folder()
    paths = {text: cache / f"{hashlib.sha256(f'{base} {text}'.encode()).hexdigest()}.safetensors" for text in texts}
    found = {text: entry for text, path in paths.items() if (entry := _read(path)) is not None}
    missing = [text for text in paths if text not in found]
    if missing:
        encoder = load_model(folder, index, "text_encoder")
        for text in missing:
            found[text] = encode(encoder, tokenizer, text)
            if not found[text]["hidden"].isfinite().all():
                raise PriorError(f"{folder}/text_encoder gives numbers that are not finite: its weights are damaged")
            _write(paths[text], found[text])
    return torch.stack([found[text]["hidden"] for text in texts]), torch.stack([found[text]["mask"] for text in texts])


@torch.no_grad()
def encode(encoder, tokenizer, text: str) -> dict[str, Tensor]:
    """A text's entry in the cache. "hidden": (L, D) float32, the last hidden state of the text padded to the model's
    length. "mask": (L,) int64, 0 for padding."""
    options = {"padding": "max_length", "truncation": True, "max_length": token_limit(tokenizer)}
    tokens = tokenizer([text], return_tensors="pt", **options)
    mask = tokens.get("attention_mask")
    hidden = encoder(tokens.input_ids, attention_mask=mask).last_hidden_state[0].float()
    return {"hidden": hidden, "mask": torch.ones(len(hidden), dtype=torch.int64) if mask is None else mask[0]}


def fingerprint(folder: Path) -> str:
    """SHA-256 of what decides an embedding: the files of the encoder and the tokenizer, and the library's version. Of
    files above 64 MiB only the size and the time of the last change count."""
    total = hashlib.sha256(f"{FORMAT} {importlib.metadata.version('transformers')}".encode())
    for path in sorted(p for part in ("text_encoder", "tokenizer") for p in (folder / part).rglob("*") if p.is_file()):
        stat = path.stat()
        content = path.read_bytes() if stat.st_size <= SMALL else str(stat.st_mtime_ns).encode()
        digest = hashlib.sha256(content).hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()} {stat.st_size} {digest}\n".encode())
    return total.hexdigest()


def _read(path: Path) -> dict[str, Tensor] | None:
    """A cache entry; None if there is none or it is damaged (it is then written anew)."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        entry = load_file(path)
    except (OSError, SafetensorError):
        return None
    return entry if entry.keys() == {"hidden", "mask"} else None


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
