"""Which side of a toy a picture shows, and which sides look alike, as the two ends of a table do."""

from __future__ import annotations

from functools import cache

import torch

from ..toybox.world.shapes import COLORS
from .metrics.faces import features
from .pictures import judging_cameras, toy_pictures
from .retrieval import AZIMUTH_STEP, Retrieval, retrieved_azimuths

NEAR = 30  # degrees
LIKE = 0.125  # difference of pictures; a turn by 15 degrees makes .05 of a snowman, .14 of a mug, .35 of an airplane


@cache
def alike(name: str) -> torch.Tensor:
    """(24, 24) bool: whether azimuth j counts as i (in steps of AZIMUTH_STEP), because it is NEAR, or because the true
    toy of the class looks much the same from there (LIKE)."""
    cameras = judging_cameras(range(0, 360, AZIMUTH_STEP))
    vectors = features(toy_pictures(name, COLORS["red"], cameras=cameras, resolution=64))
    turn = (torch.arange(len(vectors))[:, None] - torch.arange(len(vectors))) * AZIMUTH_STEP
    near = ((turn + 180) % 360 - 180).abs() <= NEAR
    return near | (torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist") <= LIKE)


def right_sides(retrieval: Retrieval, pictures: torch.Tensor, name: str, azimuths: list[int]) -> torch.Tensor:
    """(N,) bool: whether each of the pictures (N, H, W, 3) of a class retrieves its azimuth (degrees, multiples of
    AZIMUTH_STEP), or one from which the toy looks `alike`."""
    index = retrieved_azimuths(retrieval, pictures, name) // AZIMUTH_STEP
    return alike(name)[torch.tensor(azimuths) // AZIMUTH_STEP, index]
