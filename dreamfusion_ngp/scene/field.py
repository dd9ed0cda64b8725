"""The interface of a radiance field: an nn.Module with a handful of methods."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

CHUNK = 1 << 17  # points per call of the queries without gradient; bounds the memory


class Field(torch.nn.Module):
    """A radiance field over the cube [-bound, bound]^3, in world units. A subclass defines `bound`, `activation`,
    `forward` and `parameter_groups`; the defaults of the other methods suit most fields.

    bound: half a side of the cube.  activation: how density follows from the first output h, "exp" (exp(min(h, 15))) or
    "softplus". The shade kernel applies it, fused with its derivative, so a field with another rule returns its log
    density and says "exp": for a signed distance s, h = log sigma(s). capturable: whether its calls can be captured in
    a CUDA graph. level: value of `solid` on the surface; None: not known, to be determined (scene/isolevel.py).
    """

    bound: float
    activation: str
    capturable = False
    level: float | None = None

    @abstractmethod
    def forward(self, x: Tensor, count: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """x (N, 3) world points -> h (N,) density before the activation, rgb_raw (N, 3) colour before the sigmoid,
        grad_h (N, 3) = dh/dx, whose negative direction is the normal; all with autograd. count: (1,) int64 tensor, the
        number of leading rows of x in use; the results of other rows are not read."""

    @abstractmethod
    def parameter_groups(self) -> dict[str, list[torch.nn.Parameter]]:
        """Every parameter in the group whose learning rate it takes: "grid" (`optim.lr_grid`) or "mlp"
        (`optim.lr_mlp`)."""

    def schedule(self, progress: float) -> dict[str, np.ndarray]:
        """Numbers (float32) that change during a run, at a fraction `progress` of it; their shapes are fixed."""
        return {}

    def bind(self, numbers: Mapping[str, Tensor]) -> None:
        """Read the numbers of `schedule` from these tensors, which the optimisation fills before each step."""

    def refresh(self) -> None:
        """Recompute what is derived from the parameters; called after every change of them."""

    def activate(self, h: Tensor) -> Tensor:
        """Density per world unit from h, any shape."""
        return torch.nn.functional.softplus(h) if self.activation == "softplus" else h.clamp(max=15.0).exp()

    @torch.no_grad()
    def density(self, x: Tensor) -> Tensor:
        """(N,) density per world unit at world points (N, 3), in chunks, without gradient."""
        return torch.cat([self.activate(self(part)[0]) for part in x.split(CHUNK)])

    def log_solid(self, x: Tensor) -> Tensor:
        """(N,) logarithm of `solid` at world points (N, 3), with autograd: about linear in the distance to the surface,
        greater inside."""
        h = self(x)[0]
        return h if self.activation == "exp" else self.activate(h).clamp(min=1e-30).log()

    @torch.no_grad()
    def solid(self, x: Tensor) -> Tensor:
        """(N,) the scalar field for mesh extraction, at world points (N, 3), in chunks, without gradient: the density,
        or another number that exceeds `level` inside."""
        if self.level is None:
            return self.density(x)
        return torch.cat([self.log_solid(part).exp() for part in x.split(CHUNK)])

    @torch.no_grad()
    def albedo(self, x: Tensor) -> Tensor:
        """(N, 3) display-referred colour in [0, 1] at world points (N, 3), in chunks, without gradient."""
        return torch.cat([torch.sigmoid(self(part)[1]) for part in x.split(CHUNK)])
