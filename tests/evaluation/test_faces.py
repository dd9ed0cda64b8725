"""Counting faces: true toys have one, toys that were symmetrised on purpose have as many as they were given."""

import functools

import pytest
import torch

from dreamfusion_ngp.evaluation.metrics.faces import count_faces, templates, turned_sums, variants
from dreamfusion_ngp.evaluation.pictures import Pictures, judging_cameras, toy_pictures
from dreamfusion_ngp.toybox.world.shapes import COLORS, DIRECTIONAL, PARAMETERS, distance

RED = COLORS["red"]


@functools.cache
def known(name):
    return templates(name, RED)


def worn(pictures, seed=0, width=5, noise=0.05):
    """Blurred over `width` pixels, and noisy, as results of an optimisation are."""
    g = torch.Generator().manual_seed(seed)

    def wear(x):
        flat = x.reshape(*x.shape[:3], -1).permute(0, 3, 1, 2)
        edge = torch.nn.functional.pad(flat, (width // 2,) * 4, mode="replicate")
        soft = torch.nn.functional.avg_pool2d(edge, width, 1).permute(0, 2, 3, 1).reshape(x.shape)
        return (soft + noise * torch.randn(x.shape, generator=g)).clamp(0, 1)

    return Pictures(*(wear(getattr(pictures, kind)) for kind in ("albedo", "lit", "clay", "opacity")))


@pytest.mark.parametrize("name", DIRECTIONAL)
def test_true_and_symmetrised_toys_come_out_right(name):
    """Every variant of every class with a front: clear, and worn as much as its door or its buttons can be."""
    for variant, (toy, faces) in variants(name).items():
        pictures = toy_pictures(toy, RED, resolution=64)
        clear, rough = count_faces(name, pictures, known(name)), count_faces(name, worn(pictures), known(name))
        assert clear.count == faces, (variant, clear)  # two ways to have a face twice may make the same toy
        assert clear.extra == rough.extra == max(0, faces - 1), (variant, clear, rough)
        assert (clear.margin > 0.9) == (variant == "true") and (rough.margin > 0) == (rough.count == 1), (clear, rough)
        assert (clear.astray == 0) == (variant == "true"), (variant, clear)


@pytest.mark.parametrize("name", ["chair", "car", "duck", "teapot"])
def test_other_proportions_of_a_true_toy_are_no_second_face(name):
    u = torch.rand(4, PARAMETERS, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for row in u:
        found = count_faces(name, worn(toy_pictures(name, RED, u=row.expand(8, -1), resolution=64)), known(name))
        assert (found.count, found.extra) == (1, 0)


def test_a_common_turn_is_no_second_face():
    turned = judging_cameras([(a + 135) % 360 for a in range(0, 360, 45)])
    found = count_faces("chair", toy_pictures("chair", RED, cameras=turned, resolution=64), known("chair"))
    assert (found.variant, found.count, found.astray) == ("true", 1, 0)


def test_single_views_that_show_the_front_again_are_astray():
    pictures = toy_pictures("duck", RED, resolution=64)
    swapped = pictures[torch.tensor([0, 1, 2, 3, 0, 5, 6, 7])]  # the back view shows the front
    assert count_faces("duck", swapped, known("duck")).astray == 1


def test_a_smaller_toy_is_compared_at_its_size():
    def small(p, v):
        from dreamfusion_ngp.toybox.world.shapes import TOYS

        return [(0.75 * d, slot) for d, slot in TOYS["car"](tuple(a / 0.75 for a in p), v)]

    pictures = toy_pictures(small, RED, resolution=64)
    assert count_faces("car", pictures, templates("car", RED, 0.75)).margin > 0.9
    assert count_faces("car", pictures, known("car")).margin < 0.9


def test_variants_are_the_shapes_they_say():
    u, x = torch.zeros(1, PARAMETERS), torch.rand(3, 1, 500, generator=torch.Generator().manual_seed(2)) - 0.5
    p, back, side = tuple(x), (-x[0], x[1], -x[2]), (-x[2], x[1], x[0])
    assert not torch.allclose(distance("duck", p, u), distance("duck", back, u), atol=1e-2)
    two, four = variants("duck")["2 in one"][0], variants("duck")["4 in one"][0]
    assert torch.allclose(distance(two, p, u), distance(two, back, u), atol=1e-5)
    assert torch.allclose(distance(four, p, u), distance(four, side, u), atol=1e-5)
    assert (distance(two, p, u) <= distance("duck", p, u) + 1e-6).all()
    heads, in_front = variants("duck")["positive half twice"][0], x[2] > 0
    assert torch.equal(distance(heads, p, u)[in_front], distance("duck", p, u)[in_front])
    assert torch.equal(distance(heads, p, u), distance(heads, (x[0], x[1], -x[2]), u))


def test_turned_sums_follow_the_azimuths():
    difference = torch.ones(8, 24)
    difference[torch.arange(8), (3 * torch.arange(8) + 5) % 24] = 0
    sums = turned_sums(difference)
    assert int(sums.argmin()) == 5 and float(sums[5]) == 0 and float(sums[0]) == 8
