"""Figures of a few points, for tests that ask whether there are figures and not what they are."""

import pytest

from dreamfusion_ngp.evaluation import figures
from dreamfusion_ngp.evaluation.metrics import closed_mesh, surface, volume


def coarsen(patch: pytest.MonkeyPatch) -> None:
    """Until `patch` is undone, solids and surfaces are compared on a twentieth of the points."""
    patch.setattr(volume, "CELLS", 48)
    patch.setattr(volume, "STRATA", 24)
    patch.setattr(volume, "toy_volume", volume.toy_volume.__wrapped__)  # which would keep what it has counted
    for module in (figures, closed_mesh):
        patch.setattr(module, "toy_surface", surface.toy_surface.__wrapped__)  # the same
    patch.setattr(surface, "RESOLUTION", 48)
    patch.setattr(surface, "POINTS", 1024)
    patch.setattr(closed_mesh, "SAMPLES", 50_000)
