"""Text embeddings: every string a run can need is encoded once, kept on disk, and the encoder is freed."""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import json
import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..base.cache import cache_folder, keep
from ..base.characters import clean_text
from ..base.errors import PriorError
from ..config.guidance import WordsConfig
from ..config.prompts import MODE_WORDS, VIEW_WORDS
from .cut import fit_prompt
from .inversions import Inversions
from .pipeline_folder import fitting, load_model
from .reader import USUAL, Reader, is_if
from .styles import Styles

log = logging.getLogger(__name__)

FORMAT = "3"  # of the cache; included in the key
LONGEST = 1 << 16  # characters of a text with its view words
SMALL = 64 << 20  # bytes; the content of larger files is not read for the fingerprint


def vocabulary(config: WordsConfig) -> tuple[list[str], tuple[str, ...]]:
    """All view words and all mode words that `config` can add to a prompt."""
    words = VIEW_WORDS[config.view_words]
    views = {words(math.radians(a), math.radians(e)) for a in range(-180, 180, 5) for e in range(-90, 91, 3)}
    return sorted(views), MODE_WORDS if config.mode_words else ("",)


class TextEncoder:
    """The last hidden state of a pipeline's single text encoder, as in Stable Diffusion 1 and 2. A family that encodes
    texts differently overrides the members below.

    HIDES_PADDING: whether padding is masked in the encoder; if not, it still is if the encoder's config has
    `use_attention_mask`. This, the length of a text and the layer follow `encode_prompt` of the family's pipeline in
    diffusers, whatever the encoder is.
    """

    PARTS = ("text_encoder",)
    TOKENIZERS = ("tokenizer",)
    KEYS = ("hidden", "mask")
    HIDES_PADDING = False
    styles: Styles | None = None  # LoRAs fused into the encoder's weights
    inversions: Inversions | None = None  # the user's textual inversions

    def __init__(self, folder: Path, index: dict, clip_skip: int = 0):
        self.folder, self.index, self.clip_skip = folder, index, clip_skip
        self.models = [name for name in self.parts(index) if name.startswith("text_encoder")]
        self.tokenizers = self.readers()

    @classmethod
    def parts(cls, index: dict) -> tuple[str, ...]:
        """The names of its components in a folder."""
        return (*cls.PARTS, *cls.TOKENIZERS)

    def readers(self) -> list[Reader]:
        """The tokenizers, one for each model."""
        return [Reader(self.folder, self.index, name, inversion=True) for name in self.models]

    def normal(self, text: str) -> str:
        """The text in the form of the model's training texts."""
        return text

    def fit(self, prompt: str, views: Sequence[str], modes: Sequence[str], name: str = "prompt") -> str:
        """`prompt`, cut to fit together with the view and mode words; see `fit_prompt`."""
        return fit_prompt(self.tokenizers, prompt, views, modes, name)

    def key(self, text: str) -> str:
        """The cache key of a text, apart from the encoder's files."""
        styles = f"{self.styles.key()} " if self.styles and self.styles.loras else ""
        styles += f"{self.inversions.key()} " if self.inversions and self.inversions.items else ""
        lengths = [t.model_max_length for t in self.tokenizers]
        return f"{type(self).__name__} {self.clip_skip} {lengths} {styles}{text}"

    def learn_words(self, inversions: Inversions, texts: Sequence[str]) -> None:
        """Add the words of textual inversions; a warning names those that occur in none of `texts`. Raises PriorError
        and UsageError for one that does not fit."""
        inversions.into_readers(self.tokenizers)
        self.inversions = inversions
        for word in (item.token for item in inversions.items):
            if not any(word in text for text in texts):
                log.warning("the prompt does not use the word %r of --embedding", word)

    def unskipped(self) -> TextEncoder:
        """The encoder for negative texts, for which diffusers' pipelines skip no layers."""
        other = copy.copy(self)
        other.clip_skip = 0
        return other

    def load(self) -> list:
        models = [load_model(self.folder, self.index, name) for name in self.models]
        if self.inversions and self.inversions.items:
            self.inversions.into_encoders(self.tokenizers, models)
        if self.styles and self.styles.loras:
            self.styles.into_encoders(dict(zip(self.models, models, strict=True)))
        return models

    @torch.no_grad()
    def encode(self, models: list, text: str) -> dict[str, Tensor]:
        """A text's entry in the cache. "hidden": (L, D) float32, of the text padded to the model's length. "mask": (L,)
        int64, 0 for padding."""
        (model,), tokens = models, self.tokenizers[0].padded(text)
        mask = tokens.get("attention_mask")
        hides = self.HIDES_PADDING or getattr(model.config, "use_attention_mask", False)
        options = {"attention_mask": mask if hides else None, "output_hidden_states": bool(self.clip_skip)}
        output = model(tokens.input_ids, **options)
        hidden = output.last_hidden_state
        if self.clip_skip:
            norm = getattr(getattr(model, "text_model", model), "final_layer_norm", None)
            if norm is None:
                raise PriorError(f"{self.folder}: clip_skip is for CLIP; its text encoder is a {type(model).__name__}")
            hidden = norm(layer(output, self.clip_skip + 1, self.folder))
        hidden = hidden[0].float()
        return {"hidden": hidden, "mask": torch.ones(len(hidden), dtype=torch.int64) if mask is None else mask[0]}


class LowerCase(TextEncoder):
    """DeepFloyd IF: a T5 with lower-case texts of 77 tokens, whatever its tokenizer says. The embedded prior works
    alike, with its tokenizer's length."""

    HIDES_PADDING = True

    def readers(self) -> list[Reader]:
        return [Reader(self.folder, self.index, "text_encoder", USUAL if is_if(self.folder, self.index) else None)]

    def normal(self, text: str) -> str:
        return text.lower()


class TwoTextEncoders(TextEncoder):
    """SDXL (Podell et al. 2023, section 2.1): the penultimate hidden states of both encoders side by side, and the
    second one's pooled projection ("pooled" (P,) float32). An empty or blank text gives zeros if the pipeline's index
    says so."""

    PARTS = ("text_encoder", "text_encoder_2")
    TOKENIZERS = ("tokenizer", "tokenizer_2")
    KEYS = ("hidden", "mask", "pooled")

    def readers(self) -> list[Reader]:
        return same_length(super().readers())

    @torch.no_grad()
    def encode(self, models: list, text: str) -> dict[str, Tensor]:
        hidden, pooled = penultimate(models, self.tokenizers, text, self.clip_skip, self.folder)
        if not pooled:
            raise PriorError(
                f"{self.folder}: its text_encoder_2 is a {type(models[1]).__name__}, which has no "
                "projection; SDXL's is a CLIPTextModelWithProjection"
            )
        pooled = pooled[-1]
        if not text.strip() and self.index.get("force_zeros_for_empty_prompt", True):
            hidden, pooled = torch.zeros_like(hidden), torch.zeros_like(pooled)
        return {"hidden": hidden, "mask": torch.ones(len(hidden), dtype=torch.int64), "pooled": pooled}


def same_length(readers: list[Reader]) -> list[Reader]:
    """The readers, all set to the length of the shortest, so that their states can be concatenated."""
    for reader in readers:
        reader.model_max_length = min(r.model_max_length for r in readers)
    return readers


def penultimate(
    models: Sequence, readers: Sequence[Reader], text: str, clip_skip: int, folder: Path
) -> tuple[Tensor, list[Tensor]]:
    """The penultimate hidden states of CLIPs, concatenated to (L, D) float32, or those `clip_skip` layers before, and
    the projections of those that have one, each (P,) float32."""
    outputs = [
        model(reader.padded(text).input_ids, output_hidden_states=True)
        for model, reader in zip(models, readers, strict=True)
    ]
    hidden = torch.cat([layer(output, clip_skip + 2, folder)[0] for output in outputs], -1).float()
    return hidden, [output.text_embeds[0].float() for output in outputs if hasattr(output, "text_embeds")]


def layer(output, back: int, folder: Path) -> Tensor:
    """The hidden states `back` layers from the end, 1 for the last. Raises PriorError if there are not that many."""
    states = output.hidden_states
    if back > len(states):
        raise PriorError(
            f"{folder}: a text encoder has {len(states) - 1} layers, and the texts want the states "
            f"{back - 1} before the last; is clip_skip too large?"
        )
    return states[-back]


def embed(encoder: TextEncoder, texts: Sequence[str], negative: Sequence[str] = ()) -> dict[str, Tensor]:
    """Embeddings of `texts`, then of `negative` ones, on the CPU: for every key of the encoder's entries, the S entries
    stacked; "hidden" is (S, L, D) float32.

    The encoder is loaded only if a text is not in the cache, runs on the CPU (the same numbers for every device, and a
    big one does not fit next to a UNet), and is freed afterwards. A cache that cannot be written costs a warning.
    Raises PriorError if the encoder does not accept its tokenizer's output.
    """
    texts, negative = ([clean_text(t, "a text for the model", LONGEST) for t in part] for part in (texts, negative))
    parts, plain = encoder.parts(encoder.index), encoder.unskipped()
    base, cache = fingerprint(encoder.folder, parts, encoder.index), cache_folder()
    requests = {e.key(t): (e, t) for e, part in ((encoder, texts), (plain, negative)) for t in part}
    names = {key: f"{hashlib.sha256(f'{base} {key}'.encode()).hexdigest()}.safetensors" for key in requests}
    entries = {
        key: entry for key, name in names.items() if cache and (entry := _read(cache / name, encoder.KEYS)) is not None
    }
    missing = [key for key in requests if key not in entries]
    if missing:
        from safetensors.torch import save

        models = encoder.load()
        for key in missing:
            entries[key] = _encoded(*requests[key], models)
            keep(names[key], save(entries[key]))
    rows = [entries[encoder.key(t)] for t in texts] + [entries[plain.key(t)] for t in negative]
    return {key: torch.stack([row[key] for row in rows]) for key in encoder.KEYS}


def _encoded(encoder: TextEncoder, text: str, models: list) -> dict[str, Tensor]:
    """A text's entry. Raises PriorError."""
    with fitting(f"{encoder.folder}: its text encoder does not take what its tokenizer gives"):
        entry = encoder.encode(models, encoder.normal(text))
    if not all(value.isfinite().all() for value in entry.values()):
        raise PriorError(f"{encoder.folder}: a text encoder gives numbers that are not finite: its weights are damaged")
    return {key: value.contiguous() for key, value in entry.items()}


def fingerprint(folder: Path, parts: Sequence[str], index: dict | None = None) -> str:
    """SHA-256 of everything that an embedding depends on: the files of the encoders and tokenizers, the entries of
    model_index.json for them and the pipeline, and the library's version.

    Files above 64 MiB are not read: in a hub's cache their name is their SHA-256; elsewhere size and modification time
    are used.
    """
    index_entries = {key: value for key, value in (index or {}).items() if key in parts or not isinstance(value, list)}
    start = f"{FORMAT} {importlib.metadata.version('transformers')} {json.dumps(index_entries, sort_keys=True)}"
    total = hashlib.sha256(start.encode())
    for path in sorted(p for part in parts for p in (folder / part).glob("*") if p.is_file()):
        stat, blob = path.stat(), path.resolve().name
        if stat.st_size <= SMALL:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            digest = blob if re.fullmatch("[0-9a-f]{64}", blob) else str(stat.st_mtime_ns)
        total.update(f"{path.relative_to(folder).as_posix()} {stat.st_size} {digest}\n".encode())
    return total.hexdigest()


def _read(path: Path, keys: Sequence[str]) -> dict[str, Tensor] | None:
    """A cache entry; None if there is none or it is damaged (it is then rewritten)."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        entry = load_file(path)
    except (OSError, SafetensorError):
        return None
    return entry if entry.keys() == set(keys) else None
