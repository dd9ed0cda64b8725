"""Adam over the parameters of a stage, and what its numbers must be."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..config.schema import OptimConfig
from ..ops.adam import adam_factors, adam_step
from ..ops.field import recycle_gradient


class Adam:
    """Fused Adam over (parameter, learning rate) pairs. moments, nonfinite: its whole state apart from the step number;
    nonfinite counts updates of single numbers that were skipped (ops/adam.py)."""

    def __init__(self, pairs: Sequence[tuple[Tensor, float]], config: OptimConfig):
        self.pairs, self.config = pairs, config
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p, _ in pairs]
        self.examined = 0  # `nonfinite` when the state was last searched for the reason
        self.nonfinite = torch.zeros(1, dtype=torch.int64, device=pairs[0][0].device)

    def factors(self, step: int, steps: int) -> list[tuple[float, float]]:
        """The `factors` of the method `step`, one pair per parameter, at step `step` (from 0) of `steps`: linear
        warm-up, then cosine decay to `final`."""
        config = self.config
        warmup = min(1.0, (step + 1) / max(1.0, config.warmup * steps))
        factor = warmup * (config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * step / steps)))
        return [adam_factors(rate * factor, *config.betas, step + 1) for _, rate in self.pairs]

    def step(self, factors: Sequence[Tensor]) -> None:
        """Apply the gradients, with one tensor (2,) of `factors` per parameter, and clear them. A missing gradient
        counts as zero."""
        config = self.config
        for (parameter, _), (first, second), factor in zip(self.pairs, self.moments, factors, strict=True):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            adam_step(
                parameter.data,
                parameter.grad,
                first,
                second,
                self.nonfinite,
                beta1=config.betas[0],
                beta2=config.betas[1],
                eps=config.eps,
                factors=factor,
            )
            recycle_gradient(parameter)


def unsound(tensors: dict[str, Tensor]) -> str:
    """What is wrong with the numbers of a state: one is not finite, or one of Adam's second moments, means of squares,
    is negative, also of what a guidance learns. "" if nothing is wrong."""
    for name, value in tensors.items():
        if value.is_floating_point() and not value.isfinite().all():
            return f"{name} holds a number that is not finite"
        if name.partition("@")[0].endswith(".second") and (value < 0).any():
            return f"{name}, means of squares, holds a negative number"
    return ""
