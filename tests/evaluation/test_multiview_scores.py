"""Whether rows of pictures are judged as four sides of one toy: true rows, and rows of which each shows another."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dreamfusion_ngp.config.presets import FRAMED_CAMERAS
from dreamfusion_ngp.evaluation import multiview
from dreamfusion_ngp.evaluation.backdrop import backdrop
from dreamfusion_ngp.evaluation.judge import SIZE, load_judge
from dreamfusion_ngp.evaluation.multiview import Bank, is_one_toy, judge_rows, row_requests
from dreamfusion_ngp.evaluation.pictures import FLAT
from dreamfusion_ngp.guidance.multiview import VIEWS
from dreamfusion_ngp.scene.cameras import orbit
from dreamfusion_ngp.toybox.prior.loss import backgrounds, random_colors
from dreamfusion_ngp.toybox.world.shapes import CLASSES, COLORS, PARAMETERS
from dreamfusion_ngp.toybox.world.tracer import shade, trace


@pytest.fixture(scope="module", autouse=True)
def small():
    """A bank of fewer toys is quicker, and stricter."""
    patch = pytest.MonkeyPatch()
    whole = multiview.bank
    patch.setattr(multiview, "bank", lambda name, elevation: whole(name, elevation, 12))
    yield
    patch.undo()


def mugs(n: int):
    row = next(row for row in row_requests(len(CLASSES)) if row[0].name == "mug")
    return [[replace(request, color=color, elevation=15) for request in row] for color in list(COLORS)[:n]]


def true_rows(requests: list, seed: int = 0, one: bool = True) -> torch.Tensor:
    """(n, VIEWS, 64, 64, 3) true pictures for requests, with random proportions, colours and backgrounds as in the
    prior's training. one: one toy per row, else another one in every picture."""
    random, rows, names = np.random.default_rng([seed, 13]), [], list(COLORS)
    times = VIEWS if one else 1
    for sides in requests:
        n = VIEWS // times
        focal = random.uniform(*FRAMED_CAMERAS.focal, n).repeat(times)
        distance = focal * random.uniform(*FRAMED_CAMERAS.distance, n).repeat(times)
        cameras = orbit([w.azimuth for w in sides], sides[0].elevation, distance, focal)
        u = torch.tensor(random.uniform(-1, 1, (n, PARAMETERS)).repeat(times, 0), dtype=torch.float32)
        colors = random_colors(np.full(n, names.index(sides[0].color)), random).repeat_interleave(times, 0)
        behind = backgrounds(n, SIZE, random).repeat_interleave(times, 0)
        buffer = trace(sides[0].name, u, cameras, SIZE)
        rows.append(shade(buffer, colors, torch.tensor([FLAT]).expand(VIEWS, -1), behind))
    return torch.stack(rows).clamp(0, 1)


def test_requests_have_every_class_from_four_sides():
    rows = row_requests(40)
    assert {row[0].name for row in rows[:20]} == set(CLASSES) and len({row[0].color for row in rows}) > 8
    for row in rows:
        assert [request.azimuth for request in row] == [0, 90, 180, 270]
        assert len({(request.name, request.color, request.elevation) for request in row}) == 1


def test_one_toy_passes_and_four_do_not():
    asked = mugs(6)
    ones, mixed = true_rows(asked, seed=3), true_rows(asked, seed=3, one=False)
    assert all(is_one_toy(row, "mug", 15) for row in ones)
    assert not any(is_one_toy(row, "mug", 15) for row in mixed)


def test_a_side_of_another_colour_or_shape_is_found():
    asked = mugs(2)
    row = true_rows(asked, seed=3)[0]
    inverted = row.clone()
    inverted[2] = 1 - inverted[2]
    assert is_one_toy(row, "mug", 15) and not is_one_toy(inverted, "mug", 15)
    empty = backdrop(row)
    assert not is_one_toy(empty, "mug", 15), "no toy is none"


def test_shares_are_of_pictures_and_of_rows():
    asked = mugs(3)
    rows = true_rows(asked, seed=3)
    rows[1] = true_rows(asked, seed=4, one=False)[1]
    found = judge_rows(load_judge(), rows, asked)
    assert found["samples"] == 3 and found["one"] <= 0.67 and found["right"] <= found["one"]
    assert found["class"] >= 0.5 and found["classes"] == {"mug": found["right"]}


def test_a_bank_knows_its_parts():
    toys = multiview.bank("mug", 15)
    assert isinstance(toys, Bank) and toys.silhouettes().shape == (12, 4, 64, 64)
    slots = toys.slots(0)
    assert slots.shape == (4, 64, 64) and slots.min() == -1 and slots.max() >= 0
