"""Checks of an op's arguments: errors are one line that names the op and the argument."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

DEVICES = ("cpu", "cuda")


def check_tensor(
    op: str,
    name: str,
    value: object,
    shape: Sequence[int | None],
    *,
    dtype: torch.dtype,
    like: Tensor | None = None,
    text: str = "",
) -> None:
    """Raise TypeError (not a tensor, wrong dtype) or ValueError (wrong shape or device) that names the argument.

    `shape` is the expected shape, None where any size will do; `text` is how the message writes it, e.g. "(N, 3)".
    `like` is the tensor whose device must be shared.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name} must be a torch.Tensor, got {type(value).__name__}")
    if value.dtype != dtype:
        raise TypeError(f"{op}: {name} must be {dtype}, got {value.dtype}")
    fits = value.dim() == len(shape) and all(
        want is None or got == want for got, want in zip(value.shape, shape, strict=True)
    )
    if not fits:
        expected = text or str(tuple("any" if size is None else size for size in shape)).replace("'", "")
        raise ValueError(f"{op}: {name} must be {expected}, got {tuple(value.shape)}")
    if like is not None and value.device != like.device:
        raise ValueError(f"{op}: {name} is on {value.device}, expected {like.device}; move it there first")


def check_scalar_type(op: str, name: str, value: object) -> torch.dtype:
    """The scalar type of an op: that of its leading tensor. float32 everywhere, float64 on the CPU only."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name} must be a torch.Tensor, got {type(value).__name__}")
    if value.device.type not in DEVICES:
        raise ValueError(f"{op}: {name} must be on the CPU or a CUDA device, got {value.device}")
    allowed = (torch.float32, torch.float64) if value.device.type == "cpu" else (torch.float32,)
    if value.dtype not in allowed:
        names = " or ".join(str(d) for d in allowed)
        raise TypeError(f"{op}: {name} must be {names} on {value.device.type}, got {value.dtype}")
    return value.dtype


def check_count(op: str, count: Tensor | None, like: Tensor) -> None:
    """`count` is None or the number of valid leading rows: int64, shape (1,), on the same device."""
    if count is not None:
        check_tensor(op, "count", count, (1,), dtype=torch.int64, like=like)


def check_positive(op: str, **values: float) -> None:
    """Raise ValueError for a number that is not finite and above zero."""
    for name, value in values.items():
        if not 0.0 < value < float("inf"):
            raise ValueError(f"{op}: {name} must be a finite number above 0, got {value}")


def device_numbers(op: str, name: str, value: object, size: int, *, dtype: torch.dtype, like: Tensor) -> Tensor:
    """The (size,) tensor that a kernel reads its numbers from when it runs, so that they may change between replays of
    a CUDA graph. A tensor, floating point or integer as `dtype` is, is used in place; plain numbers become a new tensor
    on the device of `like`."""
    if isinstance(value, Tensor):
        floating = value.is_floating_point() and dtype.is_floating_point
        check_tensor(op, name, value, (size,), dtype=value.dtype if floating else dtype, like=like)
        return value.detach().to(dtype).contiguous()
    return torch.tensor(value, dtype=dtype).reshape(size).to(like.device, non_blocking=like.is_cuda)
