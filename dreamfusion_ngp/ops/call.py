"""How a kernel is launched: on the tensor's device and the current stream, with tensors as addresses."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from ..base.native import native, native_cuda


def backend(tensor: Tensor) -> ModuleType:
    """The native module for the tensor's device; raises NativeError that says why there is none."""
    return native_cuda() if tensor.is_cuda else native()


def launch(kernel: str, where: Tensor, **arguments: object) -> None:
    """Run a function of the native module on the device, the current stream and in the scalar type of `where`.

    The arguments are named like the fields of the kernel's params struct (csrc/<op>/<op>.h; _C.pyi lists them). A
    tensor travels as its address and must be contiguous; None is a null pointer.
    """
    function, is_double = getattr(backend(where), kernel), where.dtype == torch.float64
    # `arguments` stays as it is: it may hold the only reference to a tensor.
    plain = {name: v.data_ptr() if isinstance(v, Tensor) else v for name, v in arguments.items()}
    if not where.is_cuda:
        function(is_double, -1, 0, torch.get_num_threads(), **plain)
        return
    # By torch, and not in the kernel alone: going back by the CUDA runtime makes a context, of hundreds of megabytes,
    # on a GPU that was current and not in use.
    with torch.cuda.device(where.device):
        stream = torch.cuda.current_stream(where.device).cuda_stream
        function(is_double, where.device.index, stream, 1, **plain)


def cleared(shape: Sequence[int], like: Tensor) -> Tensor:
    """Zeros with the dtype and device of `like`. On the CPU, page faults of a large tensor cost ten times the clearing
    unless the pages are huge ones, so native code asks for those."""
    if like.is_cuda:
        return like.new_zeros(shape)
    fresh = like.new_empty(shape)
    native().clear(fresh.data_ptr(), fresh.numel() * fresh.element_size(), torch.get_num_threads())
    return fresh
