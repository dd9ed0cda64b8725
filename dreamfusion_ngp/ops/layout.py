"""The shape of a hash-grid table: sizes of its levels, as rounded by this package or one of two others."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

INTERPOLATIONS = ("linear", "smoothstep")
CONVENTIONS = ("native", "tinycudann", "drjit")


@dataclass(frozen=True)
class GridLayout:
    """Shape of a hash-grid table, and the numbers that a lookup needs.

    All numbers that decide an index are computed once, here, so that they are the same on every device: level l has
    scale_l = base_resolution * b^l - 1 and ceil(scale_l) + 1 corners along an axis, where b^(levels - 1) =
    finest_resolution / base_resolution. Its corners are stored densely where they fit into 2^log2_table rows and are
    hashed where they do not; the number of rows is a multiple of 8. Levels follow each other in the table.

    convention: whose rounding. "native": scales in float64. "tinycudann": scales in float32, as in tiny-cuda-nn, up to
    the last bit or two of its exp2f (a GPU's may differ from the CPU's), so lookups hit the same places, and the few
    tables whose size differs there (where a scale is a whole number) have that size here. "drjit": the rows of a dense
    level are a multiple of `features`, not of 8.
    """

    levels: int = 16
    features: int = 2  # per level
    log2_table: int = 19  # log2 of the largest number of rows in a level
    base_resolution: int = 16
    finest_resolution: int = 2048
    interpolation: str = "linear"  # or "smoothstep": continuous first derivatives
    convention: str = "native"  # or "tinycudann", "drjit"

    def __post_init__(self) -> None:
        whole = {"levels": (1, 32), "features": (1, 8), "log2_table": (3, 26), "base_resolution": (1, 1 << 20)}
        for name, (low, high) in whole.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"GridLayout: {name} must be from {low} to {high}, got {getattr(self, name)}")
        if not self.base_resolution <= self.finest_resolution <= 1 << 20:
            raise ValueError(
                f"GridLayout: finest_resolution must be from base_resolution to {1 << 20}, got {self.finest_resolution}"
            )
        if self.levels * self.features > 64:
            raise ValueError(f"GridLayout: levels * features must be at most 64, got {self.levels * self.features}")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"GridLayout: interpolation must be one of {INTERPOLATIONS}, got {self.interpolation!r}")
        if self.convention not in CONVENTIONS:
            raise ValueError(f"GridLayout: convention must be one of {CONVENTIONS}, got {self.convention!r}")
        if self.convention == "drjit" and (self.smoothstep or self.base_resolution < 2):
            raise ValueError(
                "GridLayout: Dr.Jit interpolates linearly, between two or more corners of an axis: "
                f"got {self.interpolation!r} and base_resolution {self.base_resolution}"
            )

    @property
    def growth(self) -> float:
        """b, the ratio of the resolutions of successive levels: tiny-cuda-nn's and Dr.Jit's `per_level_scale`."""
        return (self.finest_resolution / self.base_resolution) ** (1 / max(1, self.levels - 1))

    @cached_property
    def _scale(self) -> list[float]:
        """The scales as the convention rounds them."""
        base, levels = self.base_resolution, range(self.levels)
        if self.convention == "drjit":  # HashEncoding._level_scale of Dr.Jit 1.5
            return [math.exp2(level * math.log2(self.growth)) * base - 1.0 for level in levels]
        if self.convention == "tinycudann":  # grid_scale of its grid.h
            # Rounded from float64: the last bit of numpy's own float32 functions depends on the CPU.
            one, log2 = np.float32(1), np.float32(math.log2(np.float32(self.growth)))
            powers = [np.float32(math.exp2(np.float32(level) * log2)) for level in levels]
            return [float(power * np.float32(base) - one) for power in powers]
        growth = math.log(self.finest_resolution / base) / max(1, self.levels - 1)
        return list(array("f", [base * math.exp(level * growth) - 1.0 for level in levels]))

    @cached_property
    def scale(self) -> tuple[float, ...]:
        """Cells along an axis, less half a cell at each end; rounded to float32, so that float64 lookups use the same
        cells."""
        return tuple(array("f", self._scale))

    @cached_property
    def resolution(self) -> tuple[int, ...]:
        """Corners along an axis, per level."""
        return tuple(math.ceil(s) + 1 for s in self._scale)

    @cached_property
    def offset(self) -> tuple[int, ...]:
        """First row of each level in the table, and the number of all rows."""
        offsets, multiple = [0], self.features if self.convention == "drjit" else 8
        for resolution in self.resolution:
            offsets.append(offsets[-1] + min(-(-(resolution**3) // multiple) * multiple, 1 << self.log2_table))
        return tuple(offsets)

    @property
    def entries(self) -> int:
        """Rows of the table; its shape is (entries, features)."""
        return self.offset[-1]

    @property
    def width(self) -> int:
        """Length of an encoding: levels * features."""
        return self.levels * self.features

    @property
    def smoothstep(self) -> bool:
        return self.interpolation == "smoothstep"

    @property
    def arguments(self) -> tuple[int, int, int, int, int, str, str]:
        """The fields, as the registered ops take a layout."""
        return tuple(getattr(self, field.name) for field in fields(self))
