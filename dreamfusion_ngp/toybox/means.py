"""Mean pictures: what a caption says when noise hides all else.

At full noise the right answer of a denoiser is the mean of all pictures that the caption may mean. A picture is linear
in the colours of its parts, so the mean over proportions, cameras and lights needs one mask per part, kept for every
class and every view's words, and holds for any colours.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from ..cameras import Cameras
from ..config import LightConfig
from ..lights import ALBEDO, LAMBERTIAN, TEXTURELESS, sample_light_positions, shading_rows
from ..prompts import degree_view
from .shapes import SLOT_COLORS
from .world import GBuffer, shade

LIGHTS_PER_VIEW = 2
SLOTS = len(SLOT_COLORS)


@dataclass
class Mean:
    """Sums over `count` views, (SLOTS, H, W) each: how much of a pixel a part covers, and how much light it sends.
    angles: (azimuth, elevation) of every view, radians."""

    coverage: torch.Tensor
    light: torch.Tensor
    count: int = 0
    angles: list[tuple[float, float]] = field(default_factory=list)


class MeanPictures:
    """Running means by class and view words, of all views that were ever added."""

    def __init__(self, lights: LightConfig):
        self.lights = lights
        self.means: dict[int, dict[str, Mean]] = {}

    def add(self, index: int, buffer: GBuffer, cameras: Cameras, random: np.random.Generator) -> None:
        """Add the views of `buffer`, one per camera, of the class `index`."""
        n, height, width = buffer.slot.shape
        parts = torch.nn.functional.one_hot(buffer.slot.long(), SLOTS).movedim(-1, 1)
        coverage = parts * (buffer.alpha.float() / 255)[:, None]
        white, black, light = torch.ones(n, SLOTS, 3), torch.zeros(1), 0.0
        for _ in range(LIGHTS_PER_VIEW):
            positions = sample_light_positions(self.lights, cameras.position, random)
            rows = shading_rows(self.lights, positions, np.full(n, LAMBERTIAN))
            light = light + shade(buffer, white, rows, black)[..., 0] / LIGHTS_PER_VIEW
        light = parts * light[:, None]
        of_class = self.means.setdefault(index, {})
        for i, angles in enumerate(zip(cameras.azimuth.tolist(), cameras.elevation.tolist())):
            word = degree_view(*angles)
            if word not in of_class:
                of_class[word] = Mean(torch.zeros(SLOTS, height, width), torch.zeros(SLOTS, height, width))
            mean = of_class[word]
            mean.coverage += coverage[i]
            mean.light += light[i]
            mean.count += 1
            mean.angles.append(angles)

    def draw(self, index: int, random: np.random.Generator) -> tuple[Mean, float, float]:
        """The mean of one view's words of a class, as often as cameras see it, with the angles of one of its views."""
        means = list(self.means[index].values())
        counts = np.array([mean.count for mean in means])
        mean = means[random.choice(len(means), p=counts / counts.sum())]
        return mean, *mean.angles[random.integers(mean.count)]


def picture(mean: Mean, colors: torch.Tensor, mode: int, background: float) -> torch.Tensor:
    """(H, W, 3) the mean picture with parts in colors (SLOTS, 3), by shading mode, before a grey background."""
    parts = mean.coverage if mode == ALBEDO else mean.light
    if mode == TEXTURELESS:
        colors = torch.ones_like(colors)
    behind = (mean.count - mean.coverage.sum(0))[..., None] * background
    return (torch.einsum("shw,sc->hwc", parts, colors) + behind) / mean.count
