"""Mean pictures: what a caption determines when noise hides everything.

At full noise the optimal prediction of a denoiser is the mean of all pictures that fit the caption. A picture is linear
in the colours of its parts, so the mean over proportions, cameras and lights needs one mask per part, for every class
and every view's words, and holds for any colours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ...base.slots import sent
from ...config.prompts import DEGREE_VIEWS, degree_views
from ...config.schema import LightConfig
from ...scene.cameras import Cameras
from ...scene.lights import ALBEDO, LAMBERTIAN, TEXTURELESS, sample_light_positions, shading_rows
from ..world.shapes import CLASSES, SLOT_COLORS
from ..world.tracer import GBuffer, shade

LIGHTS_PER_VIEW = 2
SLOTS = len(SLOT_COLORS)


@dataclass(frozen=True)
class Means:
    """k means. sums: (k, 2, SLOTS, H, W), over `count` (k,) views: each part's coverage of a pixel, and the light it
    reflects. azimuth, elevation: (k,) arrays, radians, of one of the views of each."""

    sums: torch.Tensor
    count: np.ndarray
    azimuth: np.ndarray
    elevation: np.ndarray


class MeanPictures:
    """Running means by class and view words, of all views that were ever added."""

    def __init__(self, lights: LightConfig, device: str | torch.device):
        self.lights, self.device = lights, device
        shape = (len(CLASSES), DEGREE_VIEWS)
        # A gigabyte, of which the CPU allocates only what is written.
        zeros = np.zeros((*shape, 2, SLOTS, 64, 64), np.float32)
        self.sums, self.count = torch.from_numpy(zeros).to(device), np.zeros(shape, int)
        self.angles: list[list[tuple[float, float]]] = [[] for _ in CLASSES]

    def add(self, index: int, buffer: GBuffer, cameras: Cameras, random: np.random.Generator) -> None:
        """Add the views of `buffer` (on the device), one per camera (on the CPU), of the class `index`."""
        n = len(cameras)
        masks = torch.nn.functional.one_hot(buffer.slot.long(), SLOTS).movedim(-1, 1)
        coverage = masks * (buffer.alpha.float() / 255)[:, None]
        white, black, light = coverage.new_ones(n, SLOTS, 3), coverage.new_zeros(1), coverage.new_zeros(())
        for _ in range(LIGHTS_PER_VIEW):
            positions = sample_light_positions(self.lights, cameras.position, random)
            rows = sent(shading_rows(self.lights, positions, np.full(n, LAMBERTIAN)), self.device)
            light = light + shade(buffer, white, rows, black)[..., 0] / LIGHTS_PER_VIEW
        azimuth, elevation = cameras.azimuth.double().numpy(), cameras.elevation.double().numpy()
        words = degree_views(azimuth, elevation)
        self.sums[index].index_add_(0, sent(words, self.device), torch.stack([coverage, masks * light[:, None]], 1))
        np.add.at(self.count[index], words, 1)
        self.angles[index] += zip(azimuth, elevation, strict=True)

    def draw(self, classes: np.ndarray, random: np.random.Generator) -> Means:
        """For each of `classes` (k,) the mean picture of one view's words, drawn in proportion to their views."""
        chosen = [self.angles[c][random.integers(len(self.angles[c]))] for c in classes]
        azimuth, elevation = np.array(chosen).T
        words = degree_views(azimuth, elevation)
        return Means(
            self.sums[sent(classes, self.device), sent(words, self.device)],
            self.count[classes, words],
            azimuth,
            elevation,
        )


def pictures(means: Means, colors: torch.Tensor, modes: np.ndarray, background: float) -> torch.Tensor:
    """(k, H, W, 3) the mean pictures with parts in colors (k, SLOTS, 3), by shading modes (k,), over a grey
    background."""
    device = means.sums.device
    unlit, plain, count = (
        sent(values, device, torch.float32).view(-1, 1, 1, 1)
        for values in (modes == ALBEDO, modes == TEXTURELESS, means.count)
    )
    coverage, light = means.sums.unbind(1)
    weights = light + unlit * (coverage - light)
    colors = torch.maximum(colors, plain[..., 0])
    behind = (count[..., 0] - coverage.sum(1))[..., None] * background
    return (torch.einsum("nshw,nsc->nhwc", weights, colors) + behind) / count
