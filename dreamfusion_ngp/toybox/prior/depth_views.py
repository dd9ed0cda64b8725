"""Training data of the depth prior: latents of toys from four sides, and their depth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ...base.slots import sent
from ...config.presets import FRAMED_CAMERAS
from ...guidance.multiview import VIEWS
from ...scene.cameras import Cameras, sample_cameras
from ...scene.lights import sample_modes
from ..world.shapes import CLASSES, COLORS, PARAMETERS
from ..world.tracer import POSITION_SCALE, GBuffer, silhouette, trace
from .autoencoder import FACTOR, LATENTS, SIDE
from .cache import TracedViews
from .latents import encode
from .loss import CLASS_WEIGHTS, LIGHTS, TrainPriorConfig
from .multiview_training import RING_CAMERAS, shade_rings

SHADES = 4  # latents of every ring, with different colours, lights and backgrounds
# Half of the rings are near the horizon, as are the canonical views of a texture.
LEVEL_SHARE, LEVEL = 0.5, (-10.0, 20.0)  # degrees
# Most pictures are in flat colours, as painted views are.
PAINTED = replace(LIGHTS, lit_probability=0.5, textureless_probability=0.25)


@dataclass(frozen=True)
class LatentRings:
    """n rings. z: (n, VIEWS, 4, 32, 32) float32, depth: (n, VIEWS, 256, 256) float32, world units, 0 where there is no
    surface; both on the device. The rest are arrays: (n,) rows of the colours, (n,) shading modes, (n, VIEWS)
    radians."""

    z: Tensor
    depth: Tensor
    color: np.ndarray
    modes: np.ndarray
    azimuth: np.ndarray
    elevation: np.ndarray


class RingLatents:
    """A ring buffer for every class of encoded rings: VIEWS sides of one toy, a quarter turn apart, SHADES of each."""

    def __init__(self, config: TrainPriorConfig, vae, random: np.random.Generator, device: str):
        self.config, self.vae, self.random, self.device = config, vae, random, device
        self.room, self.next = max(1, config.views_per_class // VIEWS), 0
        shape = (len(CLASSES), self.room)
        latent = (LATENTS, SIDE // FACTOR, SIDE // FACTOR)
        self.z = torch.empty(*shape, SHADES, VIEWS, *latent, dtype=torch.float16, device=device)
        self.depth = torch.empty(*shape, VIEWS, SIDE, SIDE, dtype=torch.float16, device=device)
        self.labels, self.angles = np.zeros((*shape, SHADES, 2), int), np.zeros((*shape, VIEWS, 2))
        self.added = np.zeros(len(CLASSES), int)  # ever

    def fill(self) -> None:
        """Trace a chunk of every class; the rest follows during the training."""
        for _ in CLASSES:
            self.grow()

    def grow(self) -> None:
        """Trace a chunk of rings of the next class, shade each SHADES times and encode the pictures."""
        index = self.next % len(CLASSES)
        self.next += 1
        for _ in range(max(1, self.config.chunk // VIEWS)):
            self.add(index)

    def add(self, index: int) -> None:
        row, self.added[index] = self.added[index] % self.room, self.added[index] + 1
        level = self.random.random() < LEVEL_SHARE
        camera = replace(RING_CAMERAS, elevation=LEVEL if level else FRAMED_CAMERAS.elevation)
        cameras = sample_cameras(camera, VIEWS, self.random)
        u = sent(self.random.uniform(-1, 1, (1, PARAMETERS)).repeat(VIEWS, 0), self.device, torch.float32)
        buffer = trace(CLASSES[index], u, cameras.to(self.device), SIDE)
        self.depth[index, row] = depth_of(buffer, cameras.to(self.device)).half()
        angles = np.stack([cameras.azimuth.numpy(), cameras.elevation.numpy()], -1)
        self.angles[index, row] = angles
        azimuth, elevation = angles.T
        views = TracedViews(buffer, cameras.position, azimuth, elevation, np.ones(VIEWS, bool))
        for shade in range(SHADES):
            color, mode = self.random.integers(len(COLORS), size=1), sample_modes(PAINTED, 1, 1.0, self.random)
            image = shade_rings(views, color, mode, self.random).permute(0, 3, 1, 2).contiguous() * 2 - 1
            self.z[index, row, shade] = encode(self.vae, image).half()
            self.labels[index, row, shade] = color[0], mode[0]

    def draw(self, n: int, random: np.random.Generator) -> tuple[np.ndarray, LatentRings]:
        """(n,) class indices, and a ring of each."""
        weights = CLASS_WEIGHTS * (self.added > 0)
        classes = random.choice(len(CLASSES), size=n, p=weights / weights.sum())
        rows, shades = random.integers(np.minimum(self.added, self.room)[classes]), random.integers(SHADES, size=n)
        color, modes = self.labels[classes, rows, shades].T
        azimuth, elevation = np.moveaxis(self.angles[classes, rows], -1, 0)
        where = [sent(values, self.device) for values in (classes, rows, shades)]
        z, depth = self.z[tuple(where)].float(), self.depth[tuple(where[:2])].float()
        return classes, LatentRings(z, depth, color, modes, azimuth, elevation)


def depth_of(buffer: GBuffer, cameras: Cameras) -> Tensor:
    """(B, H, W) float32: depth along the viewing axis in world units where a toy covers at least half of a pixel, else
    0."""
    sight = buffer.position.float() / POSITION_SCALE - cameras.position[:, None, None]
    depth = -(sight * cameras.c2w[:, None, None, :, 2]).sum(-1)
    return torch.where(silhouette(buffer), depth, 0.0)
