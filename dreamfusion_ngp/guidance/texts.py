"""The texts for each view, in branches (unconditional, conditional, ...), as rows of a table of embeddings."""

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
    """K branches for B views: unconditional, conditional, then texts to steer away from; or any others.

    texts: (K, B, 2) array of strings, two texts whose embeddings are mixed share : 1 - share. share: (K, B) float32.
    negative: K bools, whether the texts are encoded as negative ones. weights: (K - 2, B) float32, of the texts to
    steer away from.
    """

    texts: np.ndarray
    share: Tensor
    negative: tuple[bool, ...]
    weights: Tensor | None = None


class Texts:
    """The embeddings of all texts that a run can need.

    prompt: cut to fit.  embeddings: of every key of the encoder's entries, (S, ...) on the CPU until `to`. rows,
    negative_rows: a text's row in them; as an unconditional text it may have a different one.
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
        """Move to the device. masked: whether the network masks the padding."""
        self.embeddings = {key: value.to(device) for key, value in self.embeddings.items()}
        if not masked:
            self.embeddings["mask"] = torch.ones_like(self.embeddings["mask"])
        self.masked = bool((self.embeddings["mask"] == 0).any())

    def branches(self, views: Views) -> Branches:
        """The branches of classifier-free guidance."""
        return branches(self.config, self.prompt, views)

    def branches_of(self, views: Views, texts: Sequence[str]) -> Branches:
        """A branch for each of `texts`, of `protocol.TEXTS`."""
        return branches_of(self.config, self.prompt, views, texts)

    def picker(self, branches: Branches, device: torch.device, dtype: torch.dtype) -> Callable[[slice], Pick]:
        """A function from a slice of the K B rows, ordered by branch, to the `Pick` of these rows."""
        row_of = [self.negative_rows if negative else self.rows for negative in branches.negative]
        start_rows, end_rows = (
            sent([rows[s] for rows, branch in zip(row_of, branches.texts[..., i], strict=True) for s in branch], device)
            for i in (0, 1)
        )
        share, blended = sent(branches.share.reshape(-1), device), bool((branches.share < 1).any())

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
    """The branches of guidance for `views`. The unconditional text is the negative prompt, plus the view words with
    `keep_view`."""
    view_texts, modes = _view_texts(config, views), _modes(config, views)
    plain = branches_of(config, prompt, views, ("negative", "text"))
    against = [
        [2 * (view_prompt(prompt, view.against[i][0], mode),) for view, mode in zip(view_texts, modes, strict=True)]
        for i in range(len(view_texts[0].against))
    ]
    share = torch.cat([plain.share, torch.ones(len(against), len(view_texts))])
    weights = (
        torch.tensor([[weight for _, weight in view.against] for view in view_texts]).reshape(len(view_texts), -1).T
    )
    texts = np.concatenate([plain.texts, np.array(against)]) if against else plain.texts
    return Branches(texts, share, plain.negative + (False,) * len(against), weights)


def branches_of(config: WordsConfig, prompt: str, views: Views, texts: Sequence[str]) -> Branches:
    """A branch for each of `texts`, of `protocol.TEXTS`."""
    view_texts, modes = _view_texts(config, views), _modes(config, views)
    rows = {
        "text": lambda view, mode: _text_pair(prompt, view, mode),
        "plain": lambda view, mode: (prompt, prompt),
        "empty": lambda view, mode: _unconditional(config, "", view),
        "negative": lambda view, mode: _unconditional(config, config.negative, view),
        "flawed": lambda view, mode: tuple(view_prompt(text, config.flaws) for text in _text_pair(prompt, view, mode)),
    }
    pairs = [[rows[text](view, mode) for view, mode in zip(view_texts, modes, strict=True)] for text in texts]
    mixed = torch.tensor([view.share for view in view_texts])
    blended = {"text", "flawed"} | ({"empty", "negative"} if config.keep_view else set())
    share = torch.stack([mixed if text in blended else torch.ones_like(mixed) for text in texts])
    return Branches(np.array(pairs), share, tuple(text in ("empty", "negative") for text in texts))


def _view_texts(config: WordsConfig, views: Views) -> list[ViewText]:
    angles = zip(views.cameras.azimuth.tolist(), views.cameras.elevation.tolist(), strict=True)
    return [view_text(config.view_words, config.view_blend, *angle) for angle in angles]


def _modes(config: WordsConfig, views: Views) -> list[str]:
    return [MODE_WORDS[m] if config.mode_words else "" for m in views.modes]


def _text_pair(prompt: str, view: ViewText, mode: str) -> tuple[str, str]:
    return view_prompt(prompt, view.start, mode), view_prompt(prompt, view.end, mode)


def _unconditional(config: WordsConfig, text: str, view: ViewText) -> tuple[str, str]:
    return _text_pair(text, view, "") if config.keep_view else (text, text)
