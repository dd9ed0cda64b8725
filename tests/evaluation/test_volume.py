"""The volumetric IoU against exact solids, counted on a million points of a sequence of its own."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import qmc
from support.analytic import ball, columns, solid, toy, toy_distance

from dreamfusion_ngp.evaluation.metrics import volume
from dreamfusion_ngp.evaluation.metrics.volume import fill_cavities, volumetric_iou
from dreamfusion_ngp.scene.isolevel import cell_centres
from dreamfusion_ngp.toybox.world.shapes import CLASSES, PARAMETERS, distance

BOUND, BOX = 0.75, 0.72  # BOX: half the side of the cube that holds both solids
WITHIN = 0.003


def stretched(x):
    return x / torch.tensor([1.10, 0.93, 1.05])


def sheared(x):
    return torch.stack([x[:, 0] + 0.15 * x[:, 1], x[:, 1], x[:, 2] + 0.1 * x[:, 0]], -1)


def larger(x):
    return x / 1.07


def turned_about_y(x, yaw):
    c, s = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    return torch.stack([c * x[:, 0] - s * x[:, 2], x[:, 1], s * x[:, 0] + c * x[:, 2]], -1)


def contains(name, x):
    return distance(name, columns(x), torch.zeros(1, PARAMETERS))[0] < 0


def with_a_plate(name, x):
    """The toy and a disc that is half as thick as a cell of the search's grid."""
    return contains(name, x) | ((x[:, 1] - 0.1).abs() < 0.003) & (x.norm(dim=1) < 0.45)


KINDS = {
    "stretched": lambda name, x: contains(name, stretched(x)),
    "sheared": lambda name, x: contains(name, sheared(x)),
    "larger": lambda name, x: contains(name, larger(x)),
    "with a plate": with_a_plate,
}
CASES = [(name, list(KINDS)[i % len(KINDS)]) for i, name in enumerate(CLASSES)]


@pytest.fixture(scope="module")
def million():
    return torch.tensor((2 * qmc.Sobol(3, seed=7).random_base2(20) - 1) * BOX, dtype=torch.float32)


def counted(name, exact, points, yaw, scale):
    ours, theirs = exact(name, points), contains(name, turned_about_y(points, yaw) / scale)
    return float((ours & theirs).sum() / (ours | theirs).sum())


@pytest.mark.parametrize("name, kind", CASES)
def test_the_iou_is_that_of_a_million_points(million, name, kind):
    exact = KINDS[kind]
    result = volumetric_iou(lambda x: 50.0 * exact(name, x), name, BOUND)
    assert result.iou == pytest.approx(counted(name, exact, million, result.yaw, result.scale), abs=WITHIN)


@pytest.mark.parametrize("name", ["table", "airplane"])
def test_no_better_pose_is_near(million, name):
    exact = KINDS["stretched"]
    result = volumetric_iou(lambda x: 50.0 * exact(name, x), name, BOUND)
    nearby = [(result.yaw + turn, result.scale * ratio) for turn in (-2, 0, 2) for ratio in (0.97, 1, 1.03)]
    some = million[: 2**18]  # of this sequence any power of two is even; by chance they would err by .001
    assert result.unaligned == pytest.approx(counted(name, exact, million, 0, 1), abs=WITHIN)
    assert result.iou > max(counted(name, exact, some, yaw, scale) for yaw, scale in nearby) - WITHIN


def test_the_figure_does_not_hang_on_its_points(monkeypatch):
    field = toy("table")
    figures = []
    for seed in (11, 12, 13):
        monkeypatch.setattr(volume, "FIGURE_SEED", seed)
        figures.append(volumetric_iou(lambda x: field(stretched(x)), "table", BOUND).iou)
    assert 0 < max(figures) - min(figures) < WITHIN  # other points, the same figure


def test_a_surface_that_no_cell_centre_meets_is_counted():
    """A plate between two layers of cell centres: the grid does not see it, the points do."""
    layer = cell_centres(BOUND, volume.CELLS)[volume.CELLS // 2 + 10] + BOUND / volume.CELLS

    def field(x):
        plate = ((x[:, 1] - layer).abs() < 0.004) & (x[:, [0, 2]].abs() < 0.6).all(1)
        return 50.0 * (contains("sphere", x) | plate)

    ball_volume, disc = 4 / 3 * math.pi * 0.38**3, math.pi * (0.38**2 - layer**2)
    expected = ball_volume / (ball_volume + 0.008 * (1.2**2 - disc))
    assert volumetric_iou(field, "sphere", BOUND).unaligned == pytest.approx(expected, abs=WITHIN)


def test_a_closed_cavity_is_filled_to_its_walls():
    hollow = solid(lambda x: torch.maximum(ball((0, 0, 0), 0.38)(x), -ball((0.02, 0.01, 0), 0.31)(x)))
    result = volumetric_iou(hollow, "sphere", BOUND)
    assert result.unaligned > 1 - WITHIN


def test_no_toy_has_a_closed_cavity():
    axis = cell_centres(0.6, 96)
    points = torch.tensor(
        np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3), dtype=torch.float32
    )
    for name in CLASSES:
        inside = contains(name, points).view(96, 96, 96).numpy()
        assert (fill_cavities(inside) == inside).all(), name


def test_a_toy_lies_within_its_reach():
    points = torch.tensor((2 * qmc.Sobol(3, seed=3).random_base2(17) - 1) * BOX, dtype=torch.float32)
    for name in CLASSES:
        farthest = points[toy_distance(name)(points) < 0].norm(dim=1).max()
        assert farthest < volume.reach(name) < farthest + 0.2
