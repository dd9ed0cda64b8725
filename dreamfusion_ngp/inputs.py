"""Numbers that change from step to step, in device memory that stays where it is: kernels read them there when they
run, so a CUDA graph that is run again sees those of its step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

ALIGNMENT = 16  # bytes, of every tensor


class Slots:
    """Named tensors in one piece of memory, which one copy fills.

    `Slots(device, a=np.zeros((2, 3), np.float32), ...)["a"]` is a tensor of that shape and type, zero at first.
    """

    def __init__(self, device: str | torch.device, **examples: np.ndarray):
        self.places, size = {}, 0
        for name, example in examples.items():
            self.places[name] = (slice(size, size + example.nbytes), example.dtype, example.shape)
            size += -(-example.nbytes // ALIGNMENT) * ALIGNMENT
        self.memory = torch.zeros(size, dtype=torch.uint8, device=device)
        self.tensors = {name: self.memory[self.places[name][0]].view(torch.from_numpy(example).dtype).view(example.shape)
                        for name, example in examples.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def fill(self, **values) -> None:
        """Give every tensor its values: arrays or CPU tensors of its shape, or what broadcasts to it. To a CUDA device
        without waiting: torch keeps the pinned memory that is copied from until the copy is done."""
        if set(values) != set(self.places):
            raise ValueError(f"Slots: expected {sorted(self.places)}, got {sorted(values)}")
        staged = torch.empty(self.memory.shape, dtype=torch.uint8, pin_memory=self.memory.is_cuda)
        raw = staged.numpy()
        for name, value in values.items():
            place, dtype, shape = self.places[name]
            raw[place].view(dtype).reshape(shape)[...] = value
        self.memory.copy_(staged, non_blocking=True)
