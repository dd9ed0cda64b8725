"""Adam."""

from __future__ import annotations

import torch
from torch import Tensor


def adam_step(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    nonfinite: Tensor,
    *,
    beta1: float,
    beta2: float,
    eps: float,
    lr: float = 0.0,
    step: int = 1,
    weight_decay: float = 0.0,
    factors: Tensor | None = None,
) -> None:
    if factors is None:
        factors = param.new_tensor([lr / (1 - beta1**step), 1 / (1 - beta2**step) ** 0.5])
    step_size, inverse_root = factors
    g = grad + weight_decay * param
    m, v = beta1 * exp_avg + (1 - beta1) * g, beta2 * exp_avg_sq + (1 - beta2) * g * g
    after = param - step_size * m / (v.sqrt() * inverse_root + eps)
    ok = after.isfinite() & m.isfinite() & v.isfinite() & (exp_avg_sq >= 0)
    ok &= factors.isfinite().all() & (step_size >= 0) & (inverse_root > 0)
    for target, value in ((param, after), (exp_avg, m), (exp_avg_sq, v)):
        target.copy_(torch.where(ok, value, target))
    nonfinite += (~ok).sum()
    grad.zero_()
