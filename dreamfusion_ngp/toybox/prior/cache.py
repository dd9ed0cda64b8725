"""Traced views of toys, kept on a device: a ring buffer of G-buffers for every class, and their cameras."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ...base.slots import sent
from ...scene.cameras import Cameras
from ..world.shapes import CLASSES
from ..world.tracer import GBuffer


@dataclass(frozen=True)
class TracedViews:
    """n views. buffer: on the device. position: (n, 3) CPU tensor, of the cameras in world units. azimuth, elevation:
    (n,) arrays, radians. framed: (n,) bool array, as given to `Shelves.add`."""

    buffer: GBuffer
    position: torch.Tensor
    azimuth: np.ndarray
    elevation: np.ndarray
    framed: np.ndarray


class Shelves:
    """`room` views of every class; new ones replace the oldest of their class. The CPU allocates memory only as it is
    written."""

    def __init__(self, room: int, device: str | torch.device = "cpu", resolution: int = 64):
        self.room, self.device, shape = room, device, (len(CLASSES), room, resolution, resolution)

        def empty(dtype, *channels):
            return torch.empty(*shape, *channels, dtype=dtype, device=device)

        self.buffer = GBuffer(empty(torch.int8, 3), empty(torch.int8, 3), empty(torch.uint8), empty(torch.uint8))
        self.position = np.zeros((*shape[:2], 3), np.float32)
        self.angles, self.framed = np.zeros((*shape[:2], 2)), np.zeros(shape[:2], bool)
        self.added = np.zeros(len(CLASSES), int)  # ever

    def filled(self) -> np.ndarray:
        """(classes,) number of views of each class."""
        return np.minimum(self.added, self.room)

    def add(self, index: int, buffer: GBuffer, cameras: Cameras, framed: bool = True) -> None:
        """Add views of the class `index`, one per camera (on the CPU); of more than `room` views the first are
        dropped."""
        n = len(cameras)
        rows = (self.added[index] + np.arange(n))[-self.room :] % self.room
        there = sent(rows, self.device)
        for name in ("position", "normal", "slot", "alpha"):
            getattr(self.buffer, name)[index, there] = getattr(buffer, name)[-self.room :]
        self.position[index, rows] = cameras.position[-self.room :]
        self.angles[index, rows] = torch.stack([cameras.azimuth, cameras.elevation], -1)[-self.room :]
        self.framed[index, rows] = framed
        self.added[index] += n

    def draw(self, classes: np.ndarray, random: np.random.Generator) -> TracedViews:
        """A random view of each of `classes` (n,), none of which may be empty."""
        return self.at(classes, random.integers(self.filled()[classes]))

    def draw_rings(self, classes: np.ndarray, views: int, random: np.random.Generator) -> TracedViews:
        """`views` consecutively added views for each of `classes` (n,): all views of a class must have been added in
        groups of that size, which divides `room`."""
        first = random.integers(self.filled()[classes] // views) * views
        rows = (first[:, None] + np.arange(views)).ravel()
        return self.at(np.repeat(classes, views), rows)

    def at(self, classes: np.ndarray, rows: np.ndarray) -> TracedViews:
        """The views of `classes` (n,) in `rows` (n,)."""
        buffer = self.buffer[sent(classes, self.device), sent(rows, self.device)]
        azimuth, elevation = self.angles[classes, rows].T
        return TracedViews(
            buffer, torch.from_numpy(self.position[classes, rows]), azimuth, elevation, self.framed[classes, rows]
        )
