"""What is trained, as the loop sees it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn


class Views(Protocol):
    """Views of toys, kept on a device."""

    def fill(self) -> None:
        """Draw the first views."""

    def grow(self) -> None:
        """Replace some views by new ones."""


class Task(Protocol):
    """What is trained. name: of its log in training.json, "" where that is the whole file.  model: holds what is
    trained and has `save(folder)`; on the device.  outer: see `MuonAdamW`.  sheet: None, or a function of a model and a
    path that draws a contact sheet."""

    name: str
    model: Any
    outer: tuple[str, ...]
    sheet: Callable[[Any, Path], None] | None

    def modules(self, model: Any) -> list[nn.Module]:
        """The trained modules of `model`, or of a copy; parameters without gradients in them stay."""
        ...

    def open(self, random: np.random.Generator, device: str) -> Views:
        """Allocate the views of the batches; both are drawn from `random`."""
        ...

    def batch(self, progress: float) -> tuple[Tensor, ...]:
        """The arguments of `loss`, on the device."""
        ...

    @property
    def loss(self) -> Callable[..., Tensor]:
        """A function of what `batch` returns: a scalar. Inputs of the same shapes take the same kernels every time."""
        ...
