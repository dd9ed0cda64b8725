"""The radiance field: hash grid + small MLP -> pre-activation density, colour, density gradient. And the background
network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base.rng import Stream, generator
from ..config.schema import FieldConfig
from ..ops.field import field, field_density
from ..ops.hashgrid import GridLayout
from .field import CHUNK, Field
from .tinycudann_field import TinycudannEncoding, tinycudann_field


class HashField(Field):
    """Instant-NGP field (Mueller et al. 2022) with DreamFusion's density blob.

    Parameters: table (entries, features); w1 (hidden, levels * features), b1 (hidden); w2 (4, hidden), b2 (4): density
    and three colour outputs. All float32; with `half_table` every lookup reads a float16 copy of the table, `shadow`.
    level_weight (levels): factors of the levels; until `bind` those at the start of a run. With the backend
    "tinycudann" tiny-cuda-nn encodes, from the same table, and torch does the rest. Initial values are drawn from
    `seed` alone, the same on every device.
    """

    shadow: Tensor | None
    level_weight: Tensor

    def __init__(self, config: FieldConfig, seed: int):
        super().__init__()
        self.config, self.bound, self.activation = config, config.bound, config.density
        self.capturable = config.backend == "native"  # tiny-cuda-nn has its own streams and memory
        self.layout = GridLayout(
            levels=config.levels,
            features=config.features,
            log2_table=config.log2_table,
            base_resolution=config.base_resolution,
            finest_resolution=config.finest_resolution,
            interpolation=config.interpolation,
            convention=config.backend,
        )
        self.encoding = None  # of tiny-cuda-nn, made at the first use, when the device is known
        random = generator(seed, 0, Stream.INIT)
        width, hidden = config.levels * config.features, config.hidden

        def uniform(shape, limit):
            return torch.nn.Parameter(torch.tensor(random.uniform(-limit, limit, shape), dtype=torch.float32))

        self.table = uniform((self.layout.entries, config.features), 1e-4)
        self.w1, self.b1 = uniform((hidden, width), math.sqrt(6 / width)), uniform((hidden,), 0.0)
        self.w2, self.b2 = uniform((4, hidden), math.sqrt(6 / hidden)), uniform((4,), 0.0)
        with torch.no_grad():
            self.b2[0] = config.density_bias
        self.register_buffer("shadow", self.table.detach().half() if config.half_table else None, persistent=False)
        self.register_buffer("level_weight", torch.tensor(self.level_weight_at(0.0)), persistent=False)

    def parameter_groups(self) -> dict[str, list[torch.nn.Parameter]]:
        return {"grid": [self.table], "mlp": [self.w1, self.b1, self.w2, self.b2]}

    def open_encoding(self) -> None:
        """Make the encoding of another backend, on the table's device."""
        if self.config.backend == "tinycudann" and self.encoding is None:
            self.encoding = TinycudannEncoding(self.layout, self.table.device)

    def refresh(self) -> None:
        """Write the float16 copy of the table, if there is one; open another backend's encoding at the first call.
        Raises NativeError that says why there is none."""
        self.open_encoding()
        if self.shadow is not None:
            self.shadow.copy_(self.table.detach())

    def level_weight_at(self, progress: float) -> tuple[float, ...]:
        """Weight of every level at a fraction of the run: coarse-to-fine fades the fine levels in."""
        start, end = self.config.coarse_to_fine
        levels = self.config.levels
        if start <= 0 or progress >= end:
            return (1.0,) * levels
        active = start + (levels - start) * progress / end
        return tuple(min(1.0, max(0.0, active - level)) for level in range(levels))

    def schedule(self, progress: float) -> dict[str, np.ndarray]:
        return {"level_weight": np.array(self.level_weight_at(progress), np.float32)}

    def bind(self, numbers: Mapping[str, Tensor]) -> None:
        self.level_weight = numbers["level_weight"]

    def _arguments(self) -> tuple[tuple, dict[str, Any]]:
        c = self.config
        return (self.table, self.w1, self.b1, self.w2, self.b2, self.layout), dict(
            bound=c.bound, level_weight=self.level_weight, blob=c.blob, shadow=self.shadow, tensor_cores=c.tensor_cores
        )

    def forward(self, x: Tensor, count: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """x (N, 3) world -> h (N,) pre-activation density, rgb_raw (N, 3), grad_h (N, 3) = dh/dx in world units."""
        positional, named = self._arguments()
        if self.config.backend == "tinycudann":
            self.open_encoding()
            assert self.encoding is not None
            return tinycudann_field(
                x,
                self.encoding,
                *positional[:5],
                bound=named["bound"],
                blob=named["blob"],
                level_weight=self.level_weight,
                count=count,
            )
        return field(x, *positional, **named, count=count)

    @torch.no_grad()
    def first_output(self, x: Tensor) -> Tensor:
        """(N,) first output of the network, with the blob, at world points (N, 3), without gradient."""
        if self.config.backend == "tinycudann":
            return HashField.forward(self, x)[0]
        positional, named = self._arguments()
        return field_density(x, *positional, **named)

    @torch.no_grad()
    def density(self, x: Tensor) -> Tensor:
        return torch.cat([self.activate(self.first_output(part)) for part in x.split(CHUNK)])


class Background(torch.nn.Module):
    """Colour of a ray's direction: sines and cosines of 2^k pi d, one hidden ReLU layer, sigmoid (DreamFusion A.2)."""

    def __init__(self, config: FieldConfig, seed: int):
        super().__init__()
        random = generator(seed, 1, Stream.INIT)
        self.frequencies = config.background_frequencies
        width, hidden = 3 + 6 * self.frequencies, config.background_hidden

        def uniform(shape, limit):
            return torch.nn.Parameter(torch.tensor(random.uniform(-limit, limit, shape), dtype=torch.float32))

        self.w1, self.b1 = uniform((hidden, width), math.sqrt(6 / width)), uniform((hidden,), 0.0)
        self.w2, self.b2 = uniform((3, hidden), 0.1 * math.sqrt(6 / hidden)), uniform((3,), 0.0)

    def forward(self, direction: Tensor) -> Tensor:
        """Unit directions (R, 3) -> colours (R, 3) in [0, 1]."""
        scale = math.pi * 2.0 ** torch.arange(self.frequencies, device=direction.device, dtype=direction.dtype)
        angle = (direction[:, None, :] * scale[None, :, None]).flatten(1)
        features = torch.cat([direction, angle.sin(), angle.cos()], -1)
        hidden = torch.relu(torch.nn.functional.linear(features, self.w1, self.b1))
        return torch.sigmoid(torch.nn.functional.linear(hidden, self.w2, self.b2))


def random_background(n: int, random: np.random.Generator) -> Tensor:
    """(n, 3) float32: a grey with probability 0.25, else any colour. Without random backgrounds the field hides
    background-coloured plugs in the holes of objects."""
    color, grey = random.random((n, 3)), random.random((n, 1)) < 0.25
    return torch.tensor(np.where(grey, color[:, :1], color), dtype=torch.float32)
