"""The surface of a density field on a tetrahedral lattice, as a mesh that can be optimised (Shen et al. 2021, DMTet;
Lin et al. 2023, Magic3D, section 3.2)."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ..base.rng import later_seed
from ..config.schema import FieldConfig, MeshConfig
from .field import Field
from .fields import HashField
from .isolevel import iso_level, sample_grid
from .lattice import Band, Lattice
from .marching_tetrahedra import marching_tetrahedra
from .surface import Surface

CHUNK = 1 << 17  # points per call where nothing is differentiated
# Largest offset along an axis, in steps of the lattice. A corner and the opposite face are 1.41 steps apart, and come
# nearer by at most 2 * .4 * sqrt(3) = 1.39: no tetrahedron inverts.
FURTHEST = 0.4
# Edges between the tetrahedra that the surface crosses and the end of a new band. With 1 the surface passes a point of
# the lattice, and reaches the end, at nearly every step (docs/decisions/0206-a-step-of-the-mesh-stage.md).
MARGIN = 2
LEVEL_RESOLUTION = 64  # samples per axis to determine the iso-level of a volume
NO_BLOB = ("none", 0.0, 1.0)


class TetraSurface(Surface):
    """The surface where a field's density is `level`: marching tetrahedra of log(density / level) at the points of a
    lattice, which may move by less than a step.

    field: that of the volume; its density (the shape) and colours go on learning. detail: a finer hash grid, whose
    colours are added before the sigmoid. offset: (points of the lattice, 3), before tanh.
    Only a band around the surface is evaluated: the tetrahedra of points within three edges of the surface at the last
    `refresh_band`. If the surface reaches the border of the band, the band is rebuilt at once. New surface away from
    the band is missed.
    """

    log_level: Tensor
    near: Tensor
    value: Tensor  # of the band's points at the last `forward`

    def __init__(self, field: Field, config: MeshConfig, colors: FieldConfig, seed: int):
        """colors: settings of the volume's field, which `detail` shares but for its levels."""
        super().__init__()
        self.field, self.bound, self.config = field, field.bound, config
        self.detail = HashField(detail_config(colors, config), later_seed(seed, 1))
        with torch.no_grad():
            self.detail.w2.zero_()  # at first the colours are the volume's alone
        lattice = Lattice(config.resolution, field.bound)
        self.offset = torch.nn.Parameter(torch.zeros(lattice.size, 3))
        self.register_buffer("log_level", torch.zeros(()))
        self.register_buffer("near", torch.zeros(lattice.size, dtype=torch.bool))  # points of the band
        self.lattice = lattice
        self._band: Band | None = None
        self._base, self._rim = self.near.new_zeros(0), self.near.new_zeros(0)  # of the band's points

    @torch.no_grad()
    def begin(self) -> None:
        """Start from the field's surface. Raises ExportError for a field that is empty or not finite."""
        if self.field.level is not None:
            return self.begin_at(math.log(self.field.level))
        device = self.offset.device
        grid = sample_grid(self.field.density, self.bound, LEVEL_RESOLUTION, str(device))
        self.begin_at(math.log(iso_level(grid, 2 * self.bound / LEVEL_RESOLUTION)))

    def begin_at(self, log_level: float) -> None:
        """Start from the surface where the log of the field's density is `log_level`."""
        self.log_level.fill_(log_level)
        self.near.fill_(True)
        self.refresh_band()

    def parameter_groups(self) -> dict[str, list[torch.nn.Parameter]]:
        both = self.field.parameter_groups(), self.detail.parameter_groups()
        joined = {name: [p for groups in both for p in groups.get(name, [])] for name in {**both[0], **both[1]}}
        return {**joined, "offset": [self.offset]}

    def refresh(self) -> None:
        self.field.refresh()
        self.detail.refresh()

    @property
    def band(self) -> Band:
        """The band of the points `near`."""
        if self._band is None:
            if self.lattice.device != self.offset.device:
                self.lattice = Lattice(self.config.resolution, self.bound, self.offset.device)
            self._band = self.lattice.band(self.near.nonzero()[:, 0])
            self._base = self.lattice.positions(self._band.points)
            self._rim = self.lattice.on_the_rim(self._band.points)
        return self._band

    def values(self, x: Tensor) -> Tensor:
        """(N,) log(density / level) at world points x (N, 3): positive inside; differentiable by the field."""
        return self.field.log_solid(x) - self.log_level

    @torch.no_grad()
    def refresh_band(self) -> None:
        """Rebuild the band from the values at the points within two edges of the present one."""
        near = self.lattice.dilate(self.near.nonzero()[:, 0].to(self.lattice.device), 2)
        x = self.lattice.positions(near)
        inside = torch.cat([self.values(part) > 0 for part in x.split(CHUNK)]) & ~self.lattice.on_the_rim(near)
        solid = torch.zeros_like(self.near)
        solid[near] = inside
        outside = torch.zeros_like(self.near)
        outside[near] = ~inside
        region = solid | outside
        touched = self._mask(self.lattice.dilate(solid.nonzero()[:, 0])) & self._mask(
            self.lattice.dilate(outside.nonzero()[:, 0])
        )
        self.near.copy_(self._mask(self.lattice.dilate((touched & region).nonzero()[:, 0], MARGIN)) & region)
        self._band = None

    def _mask(self, points: Tensor) -> Tensor:
        mask = torch.zeros_like(self.near)
        mask[points] = True
        return mask

    def state(self) -> dict[str, Tensor]:
        return {"log_level": self.log_level, "near": self.near}

    def reopen(self) -> None:
        self._band = None
        self.refresh()

    def forward(self) -> tuple[Tensor, Tensor]:
        value, position = self.evaluate()
        if self.reaches_the_end(value):
            self.refresh_band()
            value, position = self.evaluate()
        self.value = value  # for the losses of this step
        return marching_tetrahedra(position, value, self.band)

    def evaluate(self) -> tuple[Tensor, Tensor]:
        """Values (P,) and displaced positions (P, 3) of the band's points. Points on the rim are outside, so the
        surface is closed."""
        band = self.band
        value = self.values(self._base)
        value = torch.where(self._rim, value.clamp(max=0.0) - 1.0, value)
        reach = FURTHEST * self.lattice.spacing
        return value, self._base + reach * torch.tanh(self.offset[band.points])

    @torch.no_grad()
    def reaches_the_end(self, value: Tensor) -> bool:
        """Whether the surface crosses an edge at the border of the band."""
        edges = self.band.edges
        ends = (value > 0).index_select(0, edges.flatten()).view(-1, 2)
        crossed = (ends[:, 0] != ends[:, 1]).nonzero()[:, 0]
        return bool((self.band.border & ~self._rim)[edges.index_select(0, crossed)].any())

    def paint(self, x: Tensor, face: Tensor, barycentric: Tensor) -> Tensor:
        return self.color(x.detach())

    def color(self, x: Tensor) -> Tensor:
        """(N, 3) display-referred colours in [0, 1] at world points x (N, 3)."""
        return torch.sigmoid(self.field(x)[1] + self.detail(x)[1])


def detail_config(colors: FieldConfig, config: MeshConfig) -> FieldConfig:
    """Settings of the hash grid of `TetraSurface.detail`."""

    return replace(
        colors,
        levels=config.detail_levels,
        features=2,
        log2_table=config.detail_log2_table,
        base_resolution=max(2, config.detail_finest // 8),
        finest_resolution=config.detail_finest,
        hidden=32,
        blob=NO_BLOB,
        density_bias=0.0,
        coarse_to_fine=(0, 0.0),
    )
