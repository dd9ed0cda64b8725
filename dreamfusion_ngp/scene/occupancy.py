"""The occupancy grid: where the scene may hold something."""

from __future__ import annotations

import torch

from ..base.rng import Stream, kernel_stream
from ..config.schema import RenderConfig
from ..ops.occupancy import cell_points, occupancy_update


class Occupancy(torch.nn.Module):
    """Which cells of the scene cube may hold something: a decaying maximum of the density and its bits (Mueller et al.
    2022)."""

    PARTS = 4  # an update refreshes every fourth cell; four updates cover all
    values: torch.Tensor  # (cells,) float32
    bits: torch.Tensor  # (cells / 8,) uint8

    def __init__(self, config: RenderConfig, bound: float):
        super().__init__()
        self.config, self.bound, self.resolution = config, bound, config.occupancy_resolution
        cells = self.resolution**3
        self.register_buffer("values", torch.zeros(cells))
        self.register_buffer("bits", torch.full((cells // 8,), 255, dtype=torch.uint8))

    @torch.no_grad()
    def update(self, density, seed: int, step: int, full: bool = False) -> None:
        """Refresh a quarter of the cells (or all) from density(x (N, 3)) -> (N,), at one jittered point per cell."""
        device = self.values.device
        first, stride = (0, 1) if full else ((step // self.config.occupancy_interval) % self.PARTS, self.PARTS)
        cells = torch.arange(first, self.resolution**3, stride, device=device)
        points = cell_points(cells, self.resolution, self.bound, seed, kernel_stream(step, Stream.OCCUPANCY))
        threshold = self.config.occupancy_threshold / self.config.step
        occupancy_update(
            self.values, self.bits, cells, density(points), decay=self.config.occupancy_decay, threshold=threshold
        )

    def fraction(self) -> float:
        """Share of occupied cells. Waits for the device."""
        return float((self.bits[:, None] >> torch.arange(8, device=self.bits.device) & 1).sum()) / len(self.values)
