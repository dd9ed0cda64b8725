"""Fits a lattice surface to another surface: its field learns the signed distance and the colours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..base.errors import MeshError
from ..base.rng import Stream, generator
from ..scene.solid import Solid
from ..scene.surface import Surface
from ..scene.tetra_surface import TetraSurface

STEPS = 250
BATCH = 1 << 12  # points of each kind per step
WIDTH = 0.03  # world units over which log(density / level) changes by 1
FURTHEST = 4.0  # clamps log(density / level): beyond it, only the sign matters
SPREADS = (0.01, 0.08)  # world units around the surface, of the sampled points
POINTS = 1 << 17  # around the surface with each spread, and evenly in the cube
LEARNING_RATE = 1e-2


@dataclass(frozen=True)
class Targets:
    """Points (N, 3) and their log(density / level) (N,); points (M, 3) on the surface and their colours (M, 3)."""

    x: Tensor
    value: Tensor
    on: Tensor
    color: Tensor


def adopt(surface: TetraSurface, source: Surface, seed: int) -> None:
    """Give `surface` the shape and the colours of `source`, whose triangles need not be closed. Raises MeshError where
    they enclose nothing."""
    device = surface.offset.device
    targets = targets_of(source, surface.bound, seed)
    if not bool((targets.value > 0).any()):
        raise MeshError("nothing is inside of its triangles: there is no solid whose shape could be refined")
    learn(surface, Targets(*(v.to(device) for v in vars(targets).values())), seed)
    surface.begin_at(0.0)


@torch.no_grad()
def targets_of(source: Surface, bound: float, seed: int) -> Targets:
    vertices, faces = source()
    solid = Solid(vertices.cpu().numpy(), faces.long().cpu().numpy(), bound, seed)
    random = generator(seed, 1, Stream.INIT)
    x = [solid.points(POINTS, spread, random) for spread in SPREADS]
    x = np.concatenate([*x, random.uniform(-bound, bound, (POINTS, 3))]).clip(-bound, bound)
    distance, _ = solid.nearest(x)
    samples = solid.samples
    on = torch.from_numpy(samples.position).float()
    face, barycentric = torch.from_numpy(samples.face), torch.from_numpy(samples.barycentric).float()
    where = faces.device
    color = source.paint(on.to(where), face.int().to(where), barycentric.to(where))
    value = torch.from_numpy(distance / WIDTH).float().clamp(-FURTHEST, FURTHEST)
    return Targets(torch.from_numpy(x).float(), value, on, color.cpu())


def learn(surface: TetraSurface, targets: Targets, seed: int) -> None:
    """STEPS steps of Adam on the field's density and on all colours."""
    parameters = [p for group in ("grid", "mlp") for p in surface.parameter_groups()[group]]
    optimiser = torch.optim.Adam(parameters, LEARNING_RATE, betas=(0.9, 0.99), eps=1e-15)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS, LEARNING_RATE / 30)
    random, device = generator(seed, 2, Stream.INIT), targets.x.device
    for _ in range(STEPS):
        rows = torch.from_numpy(random.integers(len(targets.x), size=BATCH)).to(device)
        some = torch.from_numpy(random.integers(len(targets.on), size=BATCH)).to(device)
        value = surface.values(targets.x[rows]) + surface.log_level  # log density, whose level is 1
        shape = (value - targets.value[rows]).abs().mean()
        color = (surface.color(targets.on[some]) - targets.color[some]).square().mean()
        optimiser.zero_grad(set_to_none=False)
        (shape + 10 * color).backward()
        optimiser.step()
        schedule.step()
        surface.refresh()
