"""Traced views of toys, kept on a device: G-buffers of every class in a ring, and the cameras that saw them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ...base.slots import sent
from ...scene.cameras import Cameras
from ..world.shapes import CLASSES
from ..world.tracer import GBuffer


@dataclass(frozen=True)
class Seen:
    """n views. buffer: on the device. position: (n, 3) CPU tensor, of the cameras in world units. azimuth, elevation:
    (n,) arrays, radians. framed: (n,) bool array, what `Shelves.add` was told."""

    buffer: GBuffer
    position: torch.Tensor
    azimuth: np.ndarray
    elevation: np.ndarray
    framed: np.ndarray


class Shelves:
    """`room` views of every class; new ones replace the oldest of their class. Memory that was never written is not
    taken."""

    def __init__(self, room: int, device: str | torch.device = "cpu", resolution: int = 64):
        self.room, self.device, shape = room, device, (len(CLASSES), room, resolution, resolution)

        def empty(dtype, *channels):
            return torch.empty(*shape, *channels, dtype=dtype, device=device)

        self.buffer = GBuffer(empty(torch.int8, 3), empty(torch.int8, 3), empty(torch.uint8), empty(torch.uint8))
        self.position = np.zeros((*shape[:2], 3), np.float32)
        self.angles, self.framed = np.zeros((*shape[:2], 2)), np.zeros(shape[:2], bool)
        self.added = np.zeros(len(CLASSES), int)  # ever

    def filled(self) -> np.ndarray:
        """(classes,) views of each class that there are."""
        return np.minimum(self.added, self.room)

    def add(self, index: int, buffer: GBuffer, cameras: Cameras, framed: bool = True) -> None:
        """Views of the class `index`, one per camera (on the CPU); the first of more than there is room for go."""
        n = len(cameras)
        rows = (self.added[index] + np.arange(n))[-self.room :] % self.room
        there = sent(rows, self.device)
        for name in ("position", "normal", "slot", "alpha"):
            getattr(self.buffer, name)[index, there] = getattr(buffer, name)[-self.room :]
        self.position[index, rows] = cameras.position[-self.room :]
        self.angles[index, rows] = torch.stack([cameras.azimuth, cameras.elevation], -1)[-self.room :]
        self.framed[index, rows] = framed
        self.added[index] += n

    def draw(self, classes: np.ndarray, random: np.random.Generator) -> Seen:
        """A random view of each of `classes` (n,), which must all have some."""
        return self.at(classes, random.integers(self.filled()[classes]))

    def draw_rings(self, classes: np.ndarray, views: int, random: np.random.Generator) -> Seen:
        """`views` views that were added side by side for each of `classes` (n,): all views of a class must have come in
        groups of so many, for which there is room."""
        first = random.integers(self.filled()[classes] // views) * views
        rows = (first[:, None] + np.arange(views)).ravel()
        return self.at(np.repeat(classes, views), rows)

    def at(self, classes: np.ndarray, rows: np.ndarray) -> Seen:
        """The views of `classes` (n,) in `rows` (n,)."""
        buffer = self.buffer[sent(classes, self.device), sent(rows, self.device)]
        azimuth, elevation = self.angles[classes, rows].T
        return Seen(
            buffer, torch.from_numpy(self.position[classes, rows]), azimuth, elevation, self.framed[classes, rows]
        )
