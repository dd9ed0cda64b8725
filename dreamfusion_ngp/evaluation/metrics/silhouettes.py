"""Silhouettes of a field, compared with those of the true toy, from fixed cameras."""

from __future__ import annotations

import functools

import numpy as np
import torch

from ...scene.cameras import Cameras, orbit
from ...toybox.world.shapes import PARAMETERS
from ...toybox.world.tracer import silhouette, trace
from .volume import iou

# 24 views, the whole object in each: eight azimuths at three elevations (degrees).
AZIMUTHS = tuple(range(0, 360, 45))
ELEVATIONS = (-5.0, 20.0, 50.0)
VIEW_DISTANCE, VIEW_FOCAL = 1.6, 1.25  # world units, image widths
VIEW_RESOLUTION = 128  # pixels a side


def evaluation_cameras() -> Cameras:
    """The 24 fixed views, the eight azimuths of one elevation after the other."""
    return orbit(AZIMUTHS * len(ELEVATIONS), np.repeat(ELEVATIONS, len(AZIMUTHS)), VIEW_DISTANCE, VIEW_FOCAL)


@functools.cache
def true_silhouettes(name: str, resolution: int) -> np.ndarray:
    """(24, resolution, resolution) bool: the toy's, from the `evaluation_cameras`."""
    cameras = evaluation_cameras()
    return silhouette(trace(name, torch.zeros(len(cameras), PARAMETERS), cameras, resolution)).numpy()


def silhouette_iou(render_opacity, name: str, *, resolution: int = VIEW_RESOLUTION) -> list[float]:
    """IoU of the field's and the toy's silhouettes in each of the 24 `evaluation_cameras`, nothing aligned.

    render_opacity: callable, (Cameras of B views, resolution) -> (B, resolution, resolution) opacity, a tensor; a
    pixel belongs to the silhouette above 0.5, and to the toy's where at least half of it is covered.
    """
    cameras, truth = evaluation_cameras(), true_silhouettes(name, resolution)
    masks = []
    for i in range(0, len(cameras), len(AZIMUTHS)):
        part = slice(i, i + len(AZIMUTHS))
        views = Cameras(*(getattr(cameras, field)[part] for field in ("c2w", "focal", "azimuth", "elevation")))
        masks.append(torch.as_tensor(render_opacity(views, resolution)).detach().cpu().numpy() > 0.5)
    return [iou(a, b) for a, b in zip(np.concatenate(masks), truth, strict=True)]
