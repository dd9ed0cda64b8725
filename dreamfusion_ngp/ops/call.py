"""What every op shares: argument checks that name the argument, and where an op runs.

An op's public function checks its arguments with `check_*`; the registered kernel makes them contiguous, asks `backend`
for the native module and `execution` for the device index, the stream and the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from ..base.native import native, native_cuda

NAMESPACE = "dreamfusion_ngp"
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


def stays(op: str, name: str, value: object, size: int, *, dtype: torch.dtype, like: Tensor) -> Tensor:
    """`size` numbers that an op reads when its kernel runs, so that they may change between runs of a CUDA graph: a
    tensor (size,), floating or not like `dtype`, stays where it is; numbers become a new tensor beside `like`."""
    if isinstance(value, Tensor):
        floating = value.is_floating_point() and dtype.is_floating_point
        check_tensor(op, name, value, (size,), dtype=value.dtype if floating else dtype, like=like)
        return value.detach().to(dtype).contiguous()
    return torch.tensor(value, dtype=dtype).reshape(size).to(like.device, non_blocking=like.is_cuda)


def address(tensor: Tensor | None) -> int:
    """The data pointer of a tensor, 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


def backend(tensor: Tensor) -> ModuleType:
    """The native module for the tensor's device; raises NativeError that says why there is none."""
    return native_cuda() if tensor.is_cuda else native()


def is_double(tensor: Tensor) -> bool:
    """Whether the op runs in float64."""
    return tensor.dtype == torch.float64


def execution(tensor: Tensor) -> tuple[int, int, int]:
    """(device index, stream, threads): the trailing arguments of every native function. -1 and 0 on the CPU."""
    if tensor.is_cuda:
        return tensor.device.index, torch.cuda.current_stream(tensor.device).cuda_stream, 1
    return -1, 0, torch.get_num_threads()


def cleared(shape: Sequence[int], like: Tensor) -> Tensor:
    """Zeros with the dtype and device of `like`. On the CPU the pages of a large tensor cost ten times the clearing
    unless they are huge ones, so native code asks for these."""
    if like.is_cuda:
        return like.new_zeros(shape)
    fresh = like.new_empty(shape)
    native().clear(fresh.data_ptr(), fresh.numel() * fresh.element_size(), torch.get_num_threads())
    return fresh


def zero_rows(rows: Tensor, count: Tensor | None) -> Tensor:
    """`rows` with zeros from row `count` on; used by the reference implementations."""
    if count is None:
        return rows
    live = torch.arange(rows.shape[0], device=rows.device) < count
    return torch.where(live.view(-1, *[1] * (rows.dim() - 1)), rows, torch.zeros_like(rows))
