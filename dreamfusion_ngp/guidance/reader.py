"""A pipeline folder's tokenizer, held to what the text encoder beside it can take."""

from __future__ import annotations

from pathlib import Path

import torch

from ..base.errors import PriorError, UsageError
from .pipeline_folder import fitting, load_blank, load_tokenizer, read_config

USUAL = 77  # tokens: CLIP's length, where neither tokenizer nor encoder has one
LONGEST = 4096  # tokens; a tokenizer that was saved without a length says 1e30


class Reader:
    """Texts to token numbers, as the tokenizer itself. `model_max_length` is the number of tokens with which the
    encoder is called: the tokenizer's own or `length`, and no more than the encoder has positions for. Raises
    PriorError where the tokenizer fails, and for a token that the encoder has no embedding for. inversion: whether an
    added token may stand for several vectors."""

    def __init__(self, folder: Path, index: dict, encoder: str, length: int | None = None, inversion: bool = False):
        name = "tokenizer" + encoder.removeprefix("text_encoder")
        self.place, self.encoder, self.inversion = folder / name, folder / encoder, inversion
        self.tokenizer = load_tokenizer(folder, index, name)
        blank = load_blank(folder, index, encoder)
        table = blank.get_input_embeddings()
        plain = isinstance(table, torch.nn.Embedding)
        self.rows, self.width = (table.num_embeddings, table.embedding_dim) if plain else (None, None)
        own = told_length(self.tokenizer.model_max_length, self.place) if length is None else length
        self.model_max_length = min([n for n in (own, positions(blank)) if n is not None], default=USUAL)

    def __call__(self, texts: list[str], **options):
        with fitting(f"{self.place} cannot read a text"):
            texts = [self.with_all_vectors(text) for text in texts] if self.inversion else texts
            tokens = self.tokenizer(texts, **options)
            highest = max((int(max(row)) for row in tokens.input_ids if len(row)), default=0)
            if self.rows is not None and highest >= self.rows:
                raise PriorError(
                    f"{self.place} gives {self.tokenizer.convert_ids_to_tokens(highest)!r} the number {highest}, but "
                    f"{self.encoder} has embeddings for the numbers 0 to {self.rows - 1} only"
                )
        return tokens

    def padded(self, text: str):
        """The tokens of one text, cut or padded to `model_max_length`."""
        return self(
            [text], return_tensors="pt", padding="max_length", truncation=True, max_length=self.model_max_length
        )

    def add(self, tokens: list[str]) -> None:
        """Let the tokenizer know new tokens, whose embeddings stand behind those that are there. Raises UsageError for
        one that it knows already."""
        known = self.tokenizer.get_vocab()
        if old := [token for token in tokens if token in known]:
            raise UsageError(f"{self.place} knows the word {old[0]!r} already: give the embedding another, FILE:WORD")
        self.tokenizer.add_tokens(tokens)
        self.rows = max(self.rows or 0, len(self.tokenizer))

    def with_all_vectors(self, text: str) -> str:
        """A text in which every added token that stands for several vectors ("<cat>", of textual inversion) is
        followed by the rest of them ("<cat>_1", ...), as diffusers' pipelines do."""
        added = self.tokenizer.added_tokens_encoder
        starts = {token for token in added if f"{token}_1" in added}
        for token in starts and starts & set(self.tokenizer.tokenize(text, verbose=False)):
            several, i = token, 1
            while f"{token}_{i}" in added:
                several, i = f"{several} {token}_{i}", i + 1
            text = text.replace(token, several)
        return text


def told_length(length, place: Path) -> int | None:
    """The length that a tokenizer says, None where it says none. Raises PriorError for what is no length."""
    if length is None or (isinstance(length, (int, float)) and length > LONGEST):
        return None
    if isinstance(length, bool) or not isinstance(length, (int, float)) or length != int(length) or length < 1:
        raise PriorError(f"{place}: its model_max_length is {repr(length)[:60]}, not a number of tokens")
    return int(length)


def positions(encoder: torch.nn.Module) -> int | None:
    """How many tokens a text encoder has positions for; None where they are relative."""
    for name, module in encoder.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, torch.nn.Embedding) and (
            last.startswith("position_embedding") or last in ("embed_positions", "wpe")
        ):
            # RoBERTa's positions are counted from behind the padding's, OPT's from 2.
            first = getattr(module, "offset", 0 if module.padding_idx is None else module.padding_idx + 1)
            return module.num_embeddings - first
    return None


def is_if(folder: Path, index: dict) -> bool:
    """Whether a pipeline on pixels is DeepFloyd IF: by its class, unless its UNet packs pixels, as IF's never does."""
    return str(index.get("_class_name")).startswith("IF") and read_config(folder, "unet").get("in_channels", 4) == 3
