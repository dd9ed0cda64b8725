"""Cases of meshes: rasterising, interpolating and antialiasing a bumpy ball, forward and backward."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..ops.antialias import antialias
from ..ops.interpolate import interpolate
from ..ops.rasterise import rasterise
from .cases import Case

TRIANGLES = 50_000  # about
FILLED = 0.9  # of the picture's side
GRAY = 0.5


class Ball:
    """A ball with bumps, seen by a pinhole camera from 2.6 units: closed, about `TRIANGLES` triangles, half of which
    face the camera; colours at vertices. A loss that weighs pixels smoothly.

    position: (B, V, 4) float64, clip space, of views from all around. faces: (F, 3) int32. colors: (1, V, 3) and
    weights: (B, H, H, 3) float64.
    """

    def __init__(self, resolution: int, device: torch.device, triangles: int = TRIANGLES, views: int = 1):
        self.device, self.resolution = device, resolution
        rings = max(3, round(math.sqrt(triangles / 4)))
        self.faces, unit = sphere(rings, 2 * rings)
        radius = 0.85 * (1 + 0.1 * np.sin(7 * unit[:, 0]) * np.sin(6 * unit[:, 1]) * np.sin(5 * unit[:, 2]))
        x = torch.from_numpy(unit * radius[:, None])
        turn = torch.arange(views, dtype=torch.float64)[:, None] * (2 * math.pi / views)
        right = turn.cos() * x[:, 0] + turn.sin() * x[:, 2]
        z, near, far, focal = turn.cos() * x[:, 2] - turn.sin() * x[:, 0] - 2.6, 1.0, 5.0, FILLED * 1.45
        depth = (z * (far + near) + 2 * far * near) / (near - far)
        self.position = torch.stack([2 * focal * right, (2 * focal * x[:, 1]).expand_as(z), depth, -z], -1)
        self.colors = (x * 0.5 + 0.5)[None]
        ramp = torch.linspace(0, 1, resolution, dtype=torch.float64)
        self.weights = (1 + ramp[:, None] * ramp)[None, ..., None].expand(views, -1, -1, 3).contiguous()

    def step(self, dtype: torch.dtype, device: torch.device) -> Callable[[], tuple[Tensor, ...]]:
        """A function that draws the picture and pulls the weights back to positions and colours."""
        position, colors = (v.to(device, dtype).requires_grad_() for v in (self.position, self.colors))
        faces, weights = self.faces.to(device), self.weights.to(device, dtype)
        size = (self.resolution, self.resolution)

        def call() -> tuple[Tensor, ...]:
            fragments = rasterise(position, faces, size, cull=True)
            picture = interpolate(colors - GRAY, faces, fragments) + GRAY  # 0 where nothing is, so over gray
            return torch.autograd.grad(antialias(picture, position, faces, fragments), (position, colors), weights)

        return call


def sphere(rings: int, segments: int) -> tuple[Tensor, np.ndarray]:
    """faces (F, 3) int32, facing outwards, and unit vectors (V, 3) of a sphere of circles of latitude."""
    latitude = np.pi * (np.arange(1, rings) / rings)
    longitude = 2 * np.pi * np.arange(segments) / segments
    ring = np.stack(
        [
            np.outer(np.sin(latitude), np.sin(longitude)),
            np.outer(np.cos(latitude), np.ones(segments)),
            np.outer(np.sin(latitude), np.cos(longitude)),
        ],
        -1,
    ).reshape(-1, 3)
    points = np.concatenate([[[0.0, 1, 0]], ring, [[0.0, -1, 0]]])
    here, there = np.arange(segments), np.roll(np.arange(segments), -1)
    top = np.stack([np.zeros_like(here), 1 + here, 1 + there], -1)
    rows = 1 + segments * np.arange(rings - 2)[:, None]
    a, b, c, d = (rows + here, rows + segments + here, rows + segments + there, rows + there)
    middle = np.stack([a, b, c, a, c, d], -1).reshape(-1, 3)
    last, end = 1 + segments * (rings - 2), len(points) - 1
    bottom = np.stack([last + here, np.full_like(here, end), last + there], -1)
    return torch.from_numpy(np.concatenate([top, middle, bottom]).astype(np.int32)), points


def mesh_cases(ball: Ball) -> list[Case]:
    def gradient(dtype, device):
        return lambda: ball.step(dtype, device)()[0]

    return [
        Case(
            "raster forward + backward" + ("" if len(ball.position) == 1 else f", {len(ball.position)} views"),
            len(ball.position) * len(ball.faces),
            ball.step(torch.float32, ball.device),
            sample=gradient(torch.float32, ball.device),
            truth=gradient(torch.float64, torch.device("cpu")),
        )
    ]
