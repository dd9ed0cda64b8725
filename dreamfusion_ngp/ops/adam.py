"""Adam in one pass over a parameter, which also zeroes the gradient and counts what it leaves out."""

from __future__ import annotations

from math import inf, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from .call import launch
from .checks import check_positive, check_scalar_type, check_tensor, device_numbers
from .register import Op


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
    """One step of Adam, in place; the numbers are those of torch.optim.Adam. Afterwards `grad` is zero.

    An element is skipped if its new value or moments would be NaN or infinite: its parameter and moments stay as they
    are, and `nonfinite` goes up by one. An element with a negative second moment is skipped, too, and all are if one of
    `factors` is NaN, infinite or negative. The cause may be a gradient that is not finite, or whose square overflows
    (float32: from about 1e20), or bad values in the parameter or the moments before. Several parameters may share one
    `nonfinite`; the caller zeroes it.

    Args:
        param, grad, exp_avg, exp_avg_sq: one shape, contiguous, float32, or float64 on the CPU; all are changed.
        nonfinite: (1,) int64, raised by the number of elements left out.
        lr: at least 0.   beta1, beta2: in [0, 1).   eps: above 0.   step: from 1.   weight_decay: L2, at least 0.
        factors: (2,) instead of lr and step, param's type and device: `adam_factors`, read when the kernel runs.
            A CUDA graph that is run again takes what is in it then.

    Source: Kingma & Ba 2015 (Adam), algorithm 1.
    """
    dtype = check_scalar_type("adam_step", "param", param)
    tensors = {"param": param, "grad": grad, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
    for name, value in tensors.items():
        check_tensor("adam_step", name, value, tuple(param.shape), dtype=dtype, like=param)
        if not value.is_contiguous():
            raise ValueError(f"adam_step: {name} is changed in place and must be contiguous")
    check_tensor("adam_step", "nonfinite", nonfinite, (1,), dtype=torch.int64, like=param)
    check_positive("adam_step", eps=eps)
    for name, value, limit in (("beta1", beta1, 1.0), ("beta2", beta2, 1.0), ("weight_decay", weight_decay, inf)):
        check_below(name, value, limit)
    if factors is None:
        check_below("lr", lr, inf)
        check_positive("adam_step", step=step)
    pair = adam_factors(lr, beta1, beta2, step) if factors is None else factors
    pair = device_numbers("adam_step", "factors", pair, 2, dtype=dtype, like=param)
    _adam_step(*(value.detach() for value in tensors.values()), nonfinite, pair, beta1, beta2, eps, weight_decay)


def check_below(name: str, value: float, limit: float) -> None:
    if not 0.0 <= value < limit:
        raise ValueError(f"adam_step: {name} must be in [0, {limit}), got {value}")


def adam_factors(lr: float, beta1: float, beta2: float, step: int) -> tuple[float, float]:
    """What changes from step to step (from 1): lr / (1 - beta1^step) and 1 / sqrt(1 - beta2^step)."""
    return lr / (1.0 - beta1**step), 1.0 / sqrt(1.0 - beta2**step)


class Arguments(NamedTuple):
    param: Tensor
    grad: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    nonfinite: Tensor
    factors: Tensor
    beta1: float
    beta2: float
    eps: float
    weight_decay: float


_adam_step = Op("adam_step", Arguments, returns="", changes="param grad exp_avg exp_avg_sq nonfinite")


@_adam_step.shapes
def _no_outputs(arguments):
    return None


@_adam_step.kernel
def _step(arguments):
    launch("adam", arguments.param, **arguments._asdict(), n=arguments.param.numel())
