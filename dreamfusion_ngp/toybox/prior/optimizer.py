"""The optimiser of the prior and of the judge: Muon on the hidden matrices, AdamW on the rest.

Muon (Jordan et al. 2024) replaces the momentum of a matrix by the nearest orthogonal one. A convolution's kernel counts
as the matrix (out, in * height * width).
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...base.errors import UsageError

MATRIX_RATE = 16.0  # Muon's learning rate in units of AdamW's: 0.02 where that is 1.25e-3
# Matrices that are not hidden: the first and last layers of the network (embedding tables are left out by type).
OUTER: tuple[str, ...] = ("conv_in", "conv_out")


def check_device(verb: str, device: str) -> None:
    """Raise UsageError where a training cannot use `device`."""
    if device != "cpu" and not (device.split(":")[0] == "cuda" and torch.cuda.is_available()):
        raise UsageError(f"{verb}: cannot use device {device!r} here")


class MuonAdamW:
    """Muon and AdamW behind one step; `parameters` lists what they train, in the order of the modules, without frozen
    ones. outer: names of layers that are not hidden.

    A step is `aim`, which computes the goals of the matrices, where Muon would take them at a learning rate of 1, with
    the same kernels every time (a CUDA graph can hold it), then `move`, by AdamW's learning rate of the step.

    With averaged gradients every process of `world` would compute the same update. Orthogonalisation is costly, so each
    process computes its share of the matrices and sends it to the others (a process group must exist).
    """

    def __init__(self, modules: list[nn.Module], rank: int = 0, world: int = 1, outer: tuple[str, ...] = OUTER):
        self.rank = rank
        self.parameters = trainable(modules)
        hidden = {id(p) for module in modules for p in hidden_matrices(module, outer)}
        self.matrices = [p for p in self.parameters if id(p) in hidden]
        self.flat = [as_matrix(p.detach(), p) for p in self.matrices]  # share the storage: a step moves the kernels
        by_size = sorted(self.flat, key=Tensor.numel, reverse=True)
        self.shares = [by_size[r::world] for r in range(world)]
        self.local = self.shares[rank]
        self.goals = [matrix.clone() for matrix in self.local]
        self.muon = torch.optim.Muon(self.goals, lr=1.0, momentum=0.95, weight_decay=0.01)
        rest = [p for p in self.parameters if id(p) not in hidden]
        self.adam = torch.optim.AdamW(rest, lr=0.0, betas=(0.9, 0.99), weight_decay=0.01, fused=True)

    def zero_grad(self) -> None:
        """In place: several CUDA graphs can then add to the same gradients."""
        grads = [p.grad for p in self.parameters if p.grad is not None]
        if grads:
            torch._foreach_zero_(grads)  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def aim(self) -> None:
        for matrix, p in zip(self.flat, self.matrices, strict=True):
            matrix.grad = None if p.grad is None else as_matrix(p.grad, p)
        torch._foreach_copy_(self.goals, self.local)  # pyright: ignore[reportPrivateImportUsage]
        for goal, matrix in zip(self.goals, self.local, strict=True):
            goal.grad = matrix.grad
        self.muon.step()

    @torch.no_grad()
    def move(self, rate: float) -> None:
        torch._foreach_lerp_(self.local, self.goals, rate * MATRIX_RATE)  # pyright: ignore[reportPrivateImportUsage]
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.step()
        if len(self.shares) > 1:
            self.exchange()

    @torch.no_grad()
    def exchange(self) -> None:
        """Every process sends the matrices of its share to the others."""
        for owner, share in enumerate(self.shares):
            packed = torch.cat([matrix.reshape(-1) for matrix in share])
            dist.broadcast(packed, owner)
            if owner != self.rank:
                for matrix, part in zip(share, packed.split([m.numel() for m in share]), strict=True):
                    matrix.copy_(part.view_as(matrix))


def trainable(modules: list[nn.Module]) -> list[nn.Parameter]:
    """The parameters of modules that require gradients, in order."""
    return [p for module in modules for p in module.parameters() if p.requires_grad]


def hidden_matrices(module: nn.Module, outer: tuple[str, ...] = OUTER) -> list[nn.Parameter]:
    """Weights with two or more axes of every layer that is neither an embedding nor one of `outer`."""
    return [
        p
        for name, layer in module.named_modules()
        if not isinstance(layer, nn.Embedding) and name not in outer
        for p in layer.parameters(recurse=False)
        if p.ndim >= 2 and p.requires_grad
    ]


def as_matrix(tensor: Tensor, parameter: Tensor) -> Tensor:
    """`tensor` (out, ...) as (out, -1) in the order in which `parameter` lies in memory: a view of the parameter itself
    in plain as in channels-last order."""
    channels_last = parameter.ndim == 4 and not parameter.is_contiguous()
    return (tensor.permute(0, 2, 3, 1) if channels_last else tensor).flatten(1)
