"""A signed distance as a radiance field: the hash grid's first output is the distance to the surface, and the density
follows from it (VolSDF, Yariv et al., NeurIPS 2021, equations 2 and 3; TextMesh, Tsalicoglou et al. 2023)."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ..config.schema import FieldConfig
from .field import CHUNK, Field
from .fields import HashField
from .isolevel import LEVEL

SHARPNESS = 150.0  # of `solid`: it falls by a factor of e over 1 / SHARPNESS world units
FURTHEST = 30.0  # of its exponent
FIRST = 0.1  # factor of the initial weights for the distance, so that the start is nearly the sphere alone
HALF = math.log(2.0)


def log_laplace_density(distance: Tensor, beta: Tensor) -> Tensor:
    """log(Psi_beta(-s) / beta) of distances s of any shape, negative inside, in world units: Psi is the distribution
    function of Laplace's distribution of zero mean and scale beta, exp(u / beta) / 2 for u <= 0 and 1 - exp(-u / beta)
    / 2 above. Finite, with finite gradients, wherever s / beta is."""
    alpha, log_beta = (expand_exactly(value, distance) for value in (1 / beta, beta.log()))
    tail = -distance.abs() * alpha  # <= 0 on both sides, so that no exponential overflows
    return torch.where(distance < 0, torch.log1p(-0.5 * tail.exp()), tail - HALF) - log_beta


def expand_exactly(value: Tensor, like: Tensor) -> Tensor:
    """A scalar () expanded to the shape of another tensor; its gradient is summed in float64, so that unused rows,
    whose gradient is zero, do not change the rounding: the result does not depend on buffer sizes in CUDA graphs."""
    return value.double().expand(like.shape).to(like.dtype)


class DistanceField(HashField):
    """s(x) = |x| - sphere + o(x), with o the first output of the hash grid's network; s < 0 inside. The density is
    alpha Psi_beta(-s), alpha = 1 / beta, where beta = floor + exp(log_beta) is learnt.

    forward returns h = log density, and as grad_h the negative gradient of s, which has the direction of dh/dx and
    length 1 where s is a distance: normals and the eikonal loss use the same output. The sphere is the cone of
    `ops.field` with the opposite sign: it costs nothing, and its gradient is exact.
    """

    level = LEVEL

    def __init__(self, config: FieldConfig, seed: int):
        radius = config.sphere
        super().__init__(replace(config, density="exp", blob=("cone", -radius, radius), density_bias=0.0), seed)
        self.floor = config.beta[1]
        self.log_beta = torch.nn.Parameter(torch.tensor(math.log(config.beta[0] - self.floor)))
        with torch.no_grad():
            self.w2[0] *= FIRST

    def parameter_groups(self) -> dict[str, list[torch.nn.Parameter]]:
        groups = super().parameter_groups()
        return {**groups, "grid": [*groups["grid"], self.log_beta]}

    @property
    def beta(self) -> Tensor:
        """() width of the surface, world units."""
        return self.floor + self.log_beta.exp()

    def forward(self, x: Tensor, count: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """x (N, 3) world -> h (N,) log density, rgb_raw (N, 3), grad_h (N, 3) = -ds/dx."""
        distance, rgb_raw, gradient = super().forward(x, count)
        return log_laplace_density(distance, self.beta), rgb_raw, -gradient

    @torch.no_grad()
    def distance(self, x: Tensor) -> Tensor:
        """(N,) signed distance at world points (N, 3), negative inside, in chunks, without gradient."""
        return torch.cat([self.first_output(part) for part in x.split(CHUNK)])

    @torch.no_grad()
    def density(self, x: Tensor) -> Tensor:
        return log_laplace_density(self.distance(x), self.beta).clamp(max=15.0).exp()

    def log_solid(self, x: Tensor) -> Tensor:
        distance = super().forward(x)[0]
        return math.log(LEVEL) - (SHARPNESS * distance).clamp(-FURTHEST, FURTHEST)


def make_field(config: FieldConfig, seed: int) -> Field:
    """The field of `config.kind` before its first step."""
    return {"density": HashField, "sdf": DistanceField}[config.kind](config, seed)
