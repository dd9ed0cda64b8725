"""Embeddings of textual inversion (Gal et al., ICLR 2023) from the user's files: a new word for prompts that stands for
learnt vectors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..base.characters import clean_text
from ..base.errors import PriorError, UsageError
from .reader import Reader
from .styles import pinned_file, read

ENTRY = re.compile(
    r"(?P<path>.+?\.safetensors|(?:https?://)?.+?)(?::(?P<token>[^:]+?))??(?::(?P<digest>[0-9a-f]{64}))?", re.DOTALL
)
ANY_TOKEN = ("emb_params", "clip_l", "clip_g")  # tensor names in files that do not name the word


@dataclass(frozen=True)
class Inversion:
    """path: of a safetensors file.  token: the word.  digest: SHA-256 of the file, in hex. name: see `Lora`."""

    path: Path
    token: str
    digest: str
    name: str

    def __str__(self) -> str:
        return f"{self.name}:{self.token}:{self.digest}"

    def tokens(self, count: int) -> list[str]:
        """A word for each of `count` vectors."""
        return [self.token, *(f"{self.token}_{i}" for i in range(1, count))]

    def vectors(self) -> list[Tensor]:
        """(n, width) float32 for each text encoder, in SDXL's order. Raises PriorError."""
        state = read(self.path)
        vectors = [state[name] for name in ("clip_l", "clip_g") if name in state] or list(state.values())
        kinds = [value.is_floating_point() for value in vectors]
        vectors = [value.float()[None] if value.ndim == 1 else value.float() for value in vectors]
        if len(vectors) > 1 and set(state) != {"clip_l", "clip_g"}:
            raise PriorError(f"{self.path} holds {len(state)} tensors; an embedding is one, or clip_l and clip_g")
        if not all(kinds) or any(v.ndim != 2 or not v.numel() or not v.isfinite().all() for v in vectors):
            raise PriorError(f"{self.path} is no embedding: it should hold (vectors, width) finite numbers")
        return vectors


def read_inversion(text: str) -> Inversion:
    """The embedding of an entry of `guidance.embeddings`, "FILE_FOLDER_OR_ID[:WORD[:SHA-256]]". The word is by default
    the one in the file, else the file's name. Raises UsageError and PriorError: no such file, another format, other
    contents than the digest says."""
    match = ENTRY.fullmatch(text)
    if match is None:
        raise UsageError("--embedding wants FILE_FOLDER_OR_ID[:WORD]; the path is empty")
    path, digest, place = pinned_file(match["path"], match["digest"], "--embedding", "embedding")
    named = [name for name in read(path) if name not in ANY_TOKEN]
    token = match["token"] or (named[0] if len(named) == 1 else path.stem)
    # As a prompt has it, or the word would not be found there.
    token = clean_text(token, f"the word of --embedding {path}")
    if not token or " " in token:
        raise UsageError(f"--embedding: {token!r} is not one word; give one: {path}:WORD")
    return Inversion(path, token, digest, place)


class Inversions:
    """The embeddings of a run. loader: see `Family.loader`; only families that read prompts by CLIP alone take them."""

    def __init__(self, entries: Sequence[str], loader: str, model: str):
        self.items = [read_inversion(entry) for entry in entries]
        if self.items and (not loader or "SD3" in loader):
            raise UsageError(f"--embedding is for Stable Diffusion 1 and 2 and SDXL, and {model} is none of them")
        words = [item.token for item in self.items]
        if twice := {word for word in words if words.count(word) > 1}:
            raise UsageError(f"--embedding: two files for {min(twice)!r}; give one another word: FILE:WORD")

    def key(self) -> str:
        """The part of a cache key that depends on the embeddings, "" for none."""
        return " ".join(f"{item.token}:{item.digest}" for item in self.items)

    def into_readers(self, readers: Sequence[Reader]) -> None:
        """Add the words to the tokenizers. Raises PriorError if a file is for another model, UsageError for a word that
        is there already."""
        for item in self.items:
            vectors = item.vectors()
            widths, expected = [v.shape[1] for v in vectors], [reader.width for reader in readers]
            if widths != expected:
                raise PriorError(
                    f"{item.path} has vectors of {' and '.join(map(str, widths))} numbers, and this model's texts take "
                    f"{' and '.join(map(str, expected))}: it is for another base model"
                )
            for reader, value in zip(readers, vectors, strict=True):
                reader.add(item.tokens(len(value)))

    def into_encoders(self, readers: Sequence[Reader], models: Sequence[Any]) -> None:
        """Append the vectors to the embedding tables of the text encoders, models of transformers."""
        for k, (reader, model) in enumerate(zip(readers, models, strict=True)):
            model.resize_token_embeddings(reader.rows, mean_resizing=False)
            table = model.get_input_embeddings().weight
            for item in self.items:
                value = item.vectors()[k]
                rows = reader.tokenizer.convert_tokens_to_ids(item.tokens(len(value)))
                with torch.no_grad():
                    table[rows] = value.to(table)
            model.requires_grad_(False)
