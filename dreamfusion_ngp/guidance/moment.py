"""The point in a run at which a distillation rule is called, and random numbers for it besides times and noise."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from ..base.rng import Stream, generator
from ..base.slots import sent

NOISES = 1 << 8  # that a rule may draw per batch


@dataclass(frozen=True)
class Moment:
    """seed, part, progress: as for `protocol.Guidance`. views: the number of views in the batch. rows: those in this
    call of the rule, None for all. Random numbers are a function of seed and part, the same however views are
    sliced."""

    seed: int
    part: int
    progress: float
    views: int
    rows: slice | None = None

    def of(self, rows: slice) -> Moment:
        """The same moment for some of the views."""
        return replace(self, rows=rows)

    def uniform(self, n: int, shared: bool = False) -> np.ndarray:
        """(n, b) float64 in [0, 1), n numbers for each view. shared: all views of the batch get those of the first."""
        drawn = generator(self.seed, self.part, Stream.RULE).random((n, self.views))
        drawn = np.broadcast_to(drawn[:, :1], drawn.shape) if shared else drawn
        return drawn[:, self.rows or slice(None)]

    def normal(self, index: int, like: Tensor) -> Tensor:
        """The standard normal noise number `index`, from 0 to NOISES - 1, of the shape (b, ...) of `like`."""
        random = generator(self.seed, self.part * NOISES + index, Stream.RULE_NOISE)
        drawn = random.standard_normal((self.views, *like.shape[1:]), dtype=np.float32)
        return sent(drawn[self.rows or slice(None)], like.device, like.dtype)
