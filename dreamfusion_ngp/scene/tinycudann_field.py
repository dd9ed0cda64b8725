"""The field with tiny-cuda-nn's hash-grid encoding, the rest in torch. For comparison; the kernels of `ops.field` take
a fraction of the time and memory (benches/RESULTS.md).

Normals are analytic, as in `ops.field`: grad_h is the autograd gradient with create_graph=True, and the gradient of the
shading goes through the second backward of tiny-cuda-nn's grid (its fully fused network has none, hence the network in
torch). Calls follow the public interface of tiny-cuda-nn 2.0.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from ..base.errors import NativeError
from ..ops import reference
from ..ops.exchange import tinycudann_config
from ..ops.hashgrid import GridLayout, hashgrid_encode
from ..ops.rows import zero_rows


class TinycudannEncoding:
    """A `tinycudann.Encoding` in float32 that takes its table at every call. layout: of convention "tinycudann".

    Raises NativeError if the package is not installed or cannot be used, if it works on another kind of device, and if
    its lookups in a table do not match those of this package's kernels.
    """

    def __init__(self, layout: GridLayout, device: torch.device):
        self.layout = layout
        try:
            import tinycudann  # pyright: ignore[reportMissingImports]

            with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
                self.module = tinycudann.Encoding(3, tinycudann_config(layout), dtype=torch.float32)
        except ImportError:
            raise _unusable("the package tinycudann is not installed") from None
        except Exception as error:  # it asks for a GPU when it is imported
            raise _unusable((str(error).strip().splitlines() or [type(error).__name__])[0]) from None
        self.module.jit_fusion = False  # its JIT kernels have no second backward
        where = self.module.params.device.type
        if where != device.type:
            raise _unusable(f"tinycudann works on {where}, and this is on {device.type}")
        self._check(device)

    def __call__(self, u: Tensor, table: Tensor) -> Tensor:
        """Points (N, 3) in [0, 1], table (entries, features) -> (N, levels * features), differentiable twice."""
        return torch.func.functional_call(self.module, {"params": table.flatten()}, (u,)).float()

    @torch.no_grad()
    def _check(self, device: torch.device) -> None:
        """A resolution that depends on rounding can differ on a GPU; then almost every row differs."""
        size, random = self.module.params.numel(), torch.Generator().manual_seed(0)
        table = torch.rand(self.layout.entries, self.layout.features, generator=random).to(device)
        u = torch.rand(1024, 3, generator=random).to(device)
        if size != table.numel() or (self(u, table) - hashgrid_encode(u, table, self.layout)).abs().max() > 0.05:
            raise _unusable(
                f"its table of {size} numbers is looked up otherwise than the {table.numel()} here; try "
                "another field.finest_resolution"
            )


def _unusable(why: str) -> NativeError:
    return NativeError(f'field.backend "tinycudann": {why} (a run with field.backend "native" does not need it)')


def tinycudann_field(
    x: Tensor,
    encoding: TinycudannEncoding,
    table: Tensor,
    W1: Tensor,
    b1: Tensor,
    W2: Tensor,
    b2: Tensor,
    *,
    bound: float,
    level_weight: Tensor,
    blob: tuple[str, float, float],
    count: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """h (N,), rgb_raw (N, 3), grad_h (N, 3) of `ops.field.field`, with the same arguments except for the encoding."""
    if not len(x):
        return x.new_zeros(0), x.new_zeros(0, 3), x.new_zeros(0, 3)
    learning = torch.is_grad_enabled()
    with torch.enable_grad():
        x = zero_rows(x.detach(), count).requires_grad_()
        e = encoding(((x + bound) / (2 * bound)).clamp(0, 1), table)
        e = e * level_weight.repeat_interleave(encoding.layout.features)
        o = torch.relu(e @ W1.T + b1) @ W2.T + b2
        (grad_o,) = torch.autograd.grad(o[:, 0].sum(), x, create_graph=learning)
    bump, bump_grad = reference.blob_density(x.detach(), blob)

    def finished(value: Tensor) -> Tensor:
        return zero_rows(value if learning else value.detach(), count)

    return finished(o[:, 0] + bump), finished(o[:, 1:]), finished(grad_o + bump_grad)
