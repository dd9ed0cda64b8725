"""What a network is told about each view: its branches of texts, as rows of a table of embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..base.slots import sent
from ..config.guidance import WordsConfig
from ..config.prompts import MODE_WORDS, ViewText, view_prompt, view_text
from ..config.schema import RunConfig
from ..scene.views import Views
from .cut import note_syntax
from .text_encoders import TextEncoder, embed, vocabulary

Pick = Callable[[str], Tensor | None]  # a key of the embeddings -> its rows; None for a mask that hides nothing


@dataclass(frozen=True)
class Branches:
    """K branches of B views: the unconditional, the conditional, then texts to steer away from; or any others.

    texts: (K, B, 2) array of strings, two texts whose embeddings are mixed share : 1 - share.  share: (K, B) float32.
    negative: K bools, whether the texts are encoded as negative ones are.  weights: (K - 2, B) float32, of the texts to
    steer away from.
    """

    texts: np.ndarray
    share: Tensor
    negative: tuple[bool, ...]
    weights: Tensor | None = None


class Texts:
    """All texts that a run can tell its network, embedded.

    prompt: as far as it is read.  embeddings: of every key of the encoder's entries, (S, ...) on the CPU until `to`.
    rows, negative_rows: a text's row in them; as an unconditional text it may have another.
    """

    def __init__(self, config: RunConfig, encoder: TextEncoder):
        self.config = config.guidance
        note_syntax(config.prompt, "prompt")
        note_syntax(self.config.negative, "negative prompt")
        views, modes = vocabulary(self.config)
        self.prompt = encoder.fit(encoder.normal(config.prompt), views, modes)
        conditional = [view_prompt(self.prompt, view, mode) for view in views for mode in modes]
        kept = views if self.config.keep_view else [""]
        if negative := encoder.normal(self.config.negative):
            negative = encoder.fit(negative, kept, [""], "negative prompt")
            self.config = replace(self.config, negative=negative)
        if self.config.flaws:
            self.config = replace(
                self.config, flaws=encoder.fit(self.config.flaws, conditional, [""], "words of flaws")
            )
            conditional += [view_prompt(text, self.config.flaws) for text in conditional]
        texts = list(dict.fromkeys([*conditional, self.prompt]))
        negatives = list(dict.fromkeys([view_prompt(text, view) for text in (negative, "") for view in kept]))
        self.embeddings = embed(encoder, texts, negatives)
        self.negative_rows = {t: len(texts) + i for i, t in enumerate(negatives)}
        self.rows = self.negative_rows | {t: i for i, t in enumerate(texts)}

    def to(self, device: torch.device, masked: bool) -> None:
        """To the device, with the padding hidden from the network or shown to it."""
        self.embeddings = {key: value.to(device) for key, value in self.embeddings.items()}
        if not masked:
            self.embeddings["mask"] = torch.ones_like(self.embeddings["mask"])
        self.masked = bool((self.embeddings["mask"] == 0).any())

    def branches(self, views: Views) -> Branches:
        """What guidance asks."""
        return branches(self.config, self.prompt, views)

    def told(self, views: Views, texts: Sequence[str]) -> Branches:
        """A branch for each of `texts`, of `protocol.TEXTS`."""
        return told(self.config, self.prompt, views, texts)

    def picker(self, said: Branches, device: torch.device, dtype: torch.dtype) -> Callable[[slice], Pick]:
        """Of a part of the K B rows, branch by branch: a function that gives the rows of a key of the embeddings."""
        row_of = [self.negative_rows if negative else self.rows for negative in said.negative]
        start_rows, end_rows = (
            sent([rows[s] for rows, branch in zip(row_of, said.texts[..., i], strict=True) for s in branch], device)
            for i in (0, 1)
        )
        share, blended = sent(said.share.reshape(-1), device), bool((said.share < 1).any())

        def pick(part: slice, key: str) -> Tensor | None:
            start = self.embeddings[key][start_rows[part]]
            if key == "mask":
                return torch.maximum(start, self.embeddings[key][end_rows[part]]) if self.masked else None
            if blended:
                of_start = share[part].reshape(-1, *[1] * (start.ndim - 1)).to(start)
                start = of_start * start + (1 - of_start) * self.embeddings[key][end_rows[part]]
            return start.to(dtype)

        return lambda part: partial(pick, part)


def branches(config: WordsConfig, prompt: str, views: Views) -> Branches:
    """The branches of `views`. The unconditional text is the negative prompt, with `keep_view` with the view words."""
    seen, modes = _seen(config, views), _modes(config, views)
    plain = told(config, prompt, views, ("negative", "text"))
    against = [
        [2 * (view_prompt(prompt, view.against[i][0], mode),) for view, mode in zip(seen, modes, strict=True)]
        for i in range(len(seen[0].against))
    ]
    share = torch.cat([plain.share, torch.ones(len(against), len(seen))])
    weights = torch.tensor([[weight for _, weight in view.against] for view in seen]).reshape(len(seen), -1).T
    texts = np.concatenate([plain.texts, np.array(against)]) if against else plain.texts
    return Branches(texts, share, plain.negative + (False,) * len(against), weights)


def told(config: WordsConfig, prompt: str, views: Views, texts: Sequence[str]) -> Branches:
    """A branch for each of `texts`, of `protocol.TEXTS`."""
    seen, modes = _seen(config, views), _modes(config, views)
    rows = {
        "text": lambda view, mode: _said(prompt, view, mode),
        "plain": lambda view, mode: (prompt, prompt),
        "empty": lambda view, mode: _unconditional(config, "", view),
        "negative": lambda view, mode: _unconditional(config, config.negative, view),
        "flawed": lambda view, mode: tuple(view_prompt(text, config.flaws) for text in _said(prompt, view, mode)),
    }
    found = [[rows[text](view, mode) for view, mode in zip(seen, modes, strict=True)] for text in texts]
    mixed = torch.tensor([view.share for view in seen])
    blended = {"text", "flawed"} | ({"empty", "negative"} if config.keep_view else set())
    share = torch.stack([mixed if text in blended else torch.ones_like(mixed) for text in texts])
    return Branches(np.array(found), share, tuple(text in ("empty", "negative") for text in texts))


def _seen(config: WordsConfig, views: Views) -> list[ViewText]:
    angles = zip(views.cameras.azimuth.tolist(), views.cameras.elevation.tolist(), strict=True)
    return [view_text(config.view_words, config.view_blend, *angle) for angle in angles]


def _modes(config: WordsConfig, views: Views) -> list[str]:
    return [MODE_WORDS[m] if config.mode_words else "" for m in views.modes]


def _said(prompt: str, view: ViewText, mode: str) -> tuple[str, str]:
    return view_prompt(prompt, view.start, mode), view_prompt(prompt, view.end, mode)


def _unconditional(config: WordsConfig, text: str, view: ViewText) -> tuple[str, str]:
    return _said(text, view, "") if config.keep_view else (text, text)
