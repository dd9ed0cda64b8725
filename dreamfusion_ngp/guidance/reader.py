"""A pipeline folder's tokenizer, limited to what its text encoder can take."""

from __future__ import annotations

from pathlib import Path

import torch

from ..base.errors import PriorError, UsageError
from .pipeline_folder import fitting, load_blank, load_tokenizer, read_config

USUAL = 77  # tokens: CLIP's length, if neither tokenizer nor encoder has one
LONGEST = 4096  # tokens; a tokenizer that was saved without a length says 1e30


class Reader:
    """Texts to token ids, like the tokenizer itself. `model_max_length` is the number of tokens for the encoder: the
    tokenizer's own or `length`, and at most the encoder's positions. Raises PriorError if the tokenizer fails, and for
    a token without an embedding in the encoder. inversion: whether an added token may stand for several vectors."""

    def __init__(self, folder: Path, index: dict, encoder: str, length: int | None = None, inversion: bool = False):
        name = "tokenizer" + encoder.removeprefix("text_encoder")
        self.place, self.encoder, self.inversion = folder / name, folder / encoder, inversion
        self.tokenizer = load_tokenizer(folder, index, name)
        blank = load_blank(folder, index, encoder)
        table = blank.get_input_embeddings()
        plain = isinstance(table, torch.nn.Embedding)
        self.rows, self.width = (table.num_embeddings, table.embedding_dim) if plain else (None, None)
        limit = declared_length(self.tokenizer.model_max_length, self.place) if length is None else length
        self.model_max_length = min([n for n in (limit, positions(blank)) if n is not None], default=USUAL)
        self.lacking = range(0)  # numbers below `rows` that have no embedding

    def __call__(self, texts: list[str], **options):
        with fitting(f"{self.place} cannot read a text"):
            texts = [self.with_all_vectors(text) for text in texts] if self.inversion else texts
            tokens = self.tokenizer(texts, **options)
            check_embedded(self.tokenizer, tokens.input_ids, self.rows, self.place, self.encoder, self.lacking)
        return tokens

    def padded(self, text: str):
        """The tokens of one text, cut or padded to `model_max_length`."""
        return self(
            [text], return_tensors="pt", padding="max_length", truncation=True, max_length=self.model_max_length
        )

    def add(self, tokens: list[str]) -> None:
        """Add tokens to the tokenizer, whose embeddings follow the existing ones. Raises UsageError for one that it has
        already."""
        vocabulary = self.tokenizer.get_vocab()
        if old := [token for token in tokens if token in vocabulary]:
            raise UsageError(f"{self.place} knows the word {old[0]!r} already: give the embedding another, FILE:WORD")
        rows = self.rows or 0
        if not self.lacking and len(self.tokenizer) > rows:
            self.lacking = range(rows, len(self.tokenizer))
        self.tokenizer.add_tokens(tokens)
        self.rows = max(rows, len(self.tokenizer))

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


def check_embedded(tokenizer, ids, rows: int | None, place, encoder, lacking: range = range(0)) -> None:
    """Raise PriorError for a number in `ids`, rows of token numbers from the tokenizer at `place`, without an embedding
    in the encoder, a place too, which has `rows` of them (None: not known) less those `lacking`."""
    used = {int(number) for row in ids for number in row}
    if bad := [number for number in used if rows is not None and (number >= rows or number in lacking)]:
        known = (lacking.start if lacking else rows or 0) - 1
        raise PriorError(
            f"{place} gives {tokenizer.convert_ids_to_tokens(max(bad))!r} the number {max(bad)}, but {encoder} has "
            f"embeddings for the numbers 0 to {known} only"
        )


def declared_length(length, place: Path) -> int | None:
    """The maximum length in a tokenizer's config, None if it has none. Raises PriorError for an invalid one."""
    if length is None or (isinstance(length, (int, float)) and length > LONGEST):
        return None
    if isinstance(length, bool) or not isinstance(length, (int, float)) or length != int(length) or length < 1:
        raise PriorError(f"{place}: its model_max_length is {repr(length)[:60]}, not a number of tokens")
    return int(length)


def positions(encoder: torch.nn.Module) -> int | None:
    """The number of positions of a text encoder; None if they are relative."""
    for name, module in encoder.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, torch.nn.Embedding) and (
            last.startswith("position_embedding") or last in ("embed_positions", "wpe")
        ):
            # RoBERTa's positions start after the padding index, OPT's at 2.
            first = getattr(module, "offset", 0 if module.padding_idx is None else module.padding_idx + 1)
            return module.num_embeddings - first
    return None


def is_if(folder: Path, index: dict) -> bool:
    """Whether a pipeline on pixels is DeepFloyd IF: by its class, unless its UNet packs pixels, as IF's never does."""
    return str(index.get("_class_name")).startswith("IF") and read_config(folder, "unet").get("in_channels", 4) == 3
