"""Per-step numbers at fixed addresses in device memory: kernels read them when they run, so a replayed CUDA graph sees
those of the current step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

ALIGNMENT = 16  # bytes, of every tensor


def sent(values, device: str | torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A copy on `device` of numbers of the host (array, CPU tensor or list): to a CUDA device without waiting, through
    pinned memory, which torch keeps until the copy is done."""
    host = torch.as_tensor(values)
    host = host if dtype is None else host.to(dtype)
    if torch.device(device).type == "cuda":
        host = host.pin_memory()
    return host.to(device, non_blocking=True)


class Slots:
    """Named tensors in one buffer, which one copy fills.

    `Slots(device, a=np.zeros((2, 3), np.float32), ...)["a"]` is a tensor of that shape and type, zero at first.
    """

    def __init__(self, device: str | torch.device, **examples: np.ndarray):
        self.examples, self.places, size = examples, {}, 0
        for name, example in examples.items():
            self.places[name] = slice(size, size + example.nbytes)
            size += -(-example.nbytes // ALIGNMENT) * ALIGNMENT
        self.memory = torch.zeros(size, dtype=torch.uint8, device=device)
        self.tensors = {
            name: self.memory[self.places[name]].view(torch.from_numpy(example).dtype).view(example.shape)
            for name, example in examples.items()
        }
        self.staged = None if self.memory.is_cuda else self.stage()

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def stage(self) -> tuple[Tensor, dict[str, np.ndarray]]:
        """A staging buffer on the host, pinned for a CUDA device, and its arrays by name."""
        memory = torch.empty(self.memory.shape, dtype=torch.uint8, pin_memory=self.memory.is_cuda)
        raw = memory.numpy()
        return memory, {
            name: raw[self.places[name]].view(example.dtype).reshape(example.shape)
            for name, example in self.examples.items()
        }

    def fill(self, **values) -> None:
        """Set every tensor from arrays or CPU tensors that broadcast to its shape. To a CUDA device without waiting,
        from a fresh buffer, which torch keeps until the copy is done."""
        if values.keys() != self.places.keys():
            raise ValueError(f"Slots: expected {sorted(self.places)}, got {sorted(values)}")
        memory, arrays = self.staged or self.stage()
        for name, value in values.items():
            arrays[name][...] = value
        self.memory.copy_(memory, non_blocking=True)
