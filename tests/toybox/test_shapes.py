"""The toys: bounds, proportions, part colours, and how different their sides look."""

import functools
import math

import pytest
import torch

from dreamfusion_ngp.scene.cameras import orbit
from dreamfusion_ngp.toybox.world import shapes
from dreamfusion_ngp.toybox.world import tracer as world
from dreamfusion_ngp.toybox.world.shapes import (
    CLASSES,
    COLORS,
    DIRECTIONAL,
    PARAMETERS,
    SLOTS,
    distance,
    distance_and_slot,
    parts,
)

CANONICAL = torch.zeros(1, PARAMETERS)


def cloud(n, extent=0.75, seed=0):
    g = torch.Generator().manual_seed(seed)
    return (torch.rand(n, 3, generator=g) * 2 - 1) * extent


def proportions(n, seed=0):
    """Random ones, and as many corners of the cube of proportions."""
    g = torch.Generator().manual_seed(seed)
    u = torch.rand(n, PARAMETERS, generator=g) * 2 - 1
    return torch.cat([u, torch.sign(torch.rand(n, PARAMETERS, generator=g) - 0.5)])


def points_for(u, points):
    return tuple(a.expand(len(u), -1) for a in points.T[:, None])


def test_the_world_is_as_large_as_promised():
    assert len(CLASSES) >= 18 and len(set(CLASSES)) == len(CLASSES) and len(COLORS) == 11
    assert len(DIRECTIONAL) >= 10 and set(DIRECTIONAL) <= set(CLASSES)
    assert all(0 <= c <= 1 for color in COLORS.values() for c in color)
    assert shapes.SLOT_COLORS.shape == (len(SLOTS), 3)
    for name in ("sphere", "mug", "chair", "snowman", "airplane", "torus", "house"):
        assert name in CLASSES


@pytest.mark.parametrize("name", CLASSES)
def test_every_proportion_stays_within_the_extent(name):
    """A shell of 30,000 points just outside EXTENT is free for 64 proportions, half of them extreme."""
    shell = torch.nn.functional.normalize(cloud(30_000), dim=-1)
    u = proportions(32)
    assert distance(name, points_for(u, shell * world.EXTENT), u).min() > 0


@pytest.mark.parametrize("name", CLASSES)
def test_every_proportion_is_a_solid_body(name):
    """Volume by counting: never empty and never close to filling the cube, and no proportion changes it more than
    fivefold."""
    points = cloud(20_000, 0.7, 1)
    u = proportions(12, 1)
    share = (distance(name, points_for(u, points), u) < 0).float().mean(1) * 1.4**3
    assert share.min() > 0.008 and share.max() < 0.5
    assert share.max() / share.min() < 5


@pytest.mark.parametrize("name", CLASSES)
def test_the_canonical_toy_has_radius_about_a_half(name):
    points = cloud(60_000, 0.7, 2)
    inside = points[distance(name, points_for(CANONICAL, points), CANONICAL)[0] < 0]
    radius = inside.norm(dim=-1).max()
    assert 0.35 < radius < 0.58
    assert (inside.amax(0) + inside.amin(0)).abs().max() / 2 < 0.12, "roughly centred"


@pytest.mark.parametrize("name", CLASSES)
def test_proportions_change_the_shape(name):
    """Three parameters stretch every toy; the others that a class uses change it too."""
    points = cloud(4000, 0.6, 3)
    base = distance(name, points_for(CANONICAL, points), CANONICAL)
    for i in range(3):
        u = CANONICAL.clone()
        u[0, i] = 1.0
        assert not torch.allclose(distance(name, points_for(u, points), u), base)
    stretched = torch.tensor([[1.0, 0, 0, 0, 0, 0, 0, 0]])
    shifted = points * torch.tensor([1 + shapes.STRETCH, 1, 1])
    assert (
        torch.equal(distance(name, points_for(stretched, shifted), stretched) < -1e-4, base < -1e-4)
        or ((distance(name, points_for(stretched, shifted), stretched) < 0) == (base < 0)).float().mean() > 0.999
    )


@pytest.mark.parametrize("name", CLASSES)
def test_the_distance_never_skips_the_surface(name):
    """Sphere tracing advances by 0.95 of the value: no point closer than that may lie on the other side."""
    points, u = cloud(3000, 0.7, 4), proportions(2, 4)
    d = distance(name, points_for(u, points), u)
    g = torch.Generator().manual_seed(5)
    for _ in range(6):
        direction = torch.nn.functional.normalize(torch.randn(len(u), len(points), 3, generator=g), dim=-1)
        other = points[None] + 0.95 * d.clamp(min=0)[..., None] * direction
        assert (distance(name, tuple(other.unbind(-1)), u)[d > 0] > -1e-5).all()


@pytest.mark.parametrize("name", CLASSES)
def test_parts_have_valid_slots_and_the_main_one_shows(name):
    points, u = cloud(8000, 0.6, 6), proportions(2, 6)
    found = parts(name, points_for(u, points), u)
    assert all(0 <= slot < len(SLOTS) for _, slot in found) and shapes.MAIN in {slot for _, slot in found}
    d, slot = distance_and_slot(name, points_for(u, points), u)
    assert torch.equal(d, distance(name, points_for(u, points), u)) and slot.dtype == torch.uint8
    assert set(slot.unique().tolist()) <= {s for _, s in found}
    near = d.abs() < 0.02
    assert (slot[near] == shapes.MAIN).float().mean() > 0.2


@pytest.mark.parametrize("name", CLASSES)
def test_a_batch_equals_its_instances_one_by_one(name):
    points, u = cloud(500, 0.7, 7), proportions(2, 7)
    d, slot = distance_and_slot(name, points_for(u, points), u)
    for i in range(len(u)):
        one, one_slot = distance_and_slot(name, points_for(u[i : i + 1], points), u[i : i + 1])
        assert torch.allclose(d[i], one[0], atol=1e-6)
        assert (slot[i] == one_slot[0]).float().mean() > 0.999


@functools.cache
def look(name, azimuths, color="red"):
    """Albedo pictures (B, H, W, 3) over gray, and silhouettes, of the canonical toy."""
    cameras = orbit(azimuths, 15.0, 1.3, 1.25)
    buffer = world.trace(name, torch.zeros(len(azimuths), PARAMETERS), cameras, 48)
    colors = world.part_colors(torch.tensor(COLORS[color])[None]).expand(len(azimuths), -1, -1)
    view = torch.tensor([[0.0, 0, 2, 1, 0, 0]]).expand(len(azimuths), -1)
    return world.shade(buffer, colors, view, torch.tensor(0.5)), world.silhouette(buffer)


def difference(name, a, b, azimuths=(0, 90, 137, 180)):
    """Share of the pixels of either picture that differ by more than a fifth in some channel."""
    images, silhouettes = (
        torch.stack([pair[azimuths.index(a)], pair[azimuths.index(b)]]) for pair in look(name, azimuths)
    )
    either = (silhouettes[0] | silhouettes[1]).sum()
    return float(((images[0] - images[1]).abs().amax(-1) > 0.2).sum() / either)


@pytest.mark.parametrize("name", DIRECTIONAL)
def test_directional_toys_look_different_from_front_and_side(name):
    assert difference(name, 0, 90) > 0.05


def test_at_least_ten_toys_have_three_different_faces():
    """Front and side, front and back, side and back: each pair differs in at least 2 % of the toy's pixels."""
    different = [
        name
        for name in CLASSES
        if min(difference(name, 0, 90), difference(name, 0, 180), difference(name, 90, 180)) > 0.02
    ]
    assert len(different) >= 10, different
    assert "sphere" not in different and "torus" not in different


def test_bodies_of_revolution_look_the_same_from_all_sides():
    for name in ("sphere", "cylinder", "cone", "torus", "lamp", "tree"):
        assert difference(name, 0, 137) < 0.01, name


def test_the_front_faces_plus_z():
    """What a face is known by shows in the front view and not in the back view."""
    for name, slot in (
        ("snowman", "orange"),
        ("duck", "orange"),
        ("car", "yellow"),
        ("house", "wood"),
        ("table", "dark"),
    ):
        cameras = orbit([0, 180], 10.0, 1.3, 1.25)
        seen = world.trace(name, torch.zeros(2, PARAMETERS), cameras, 48).slot == SLOTS.index(slot)
        assert seen[0].sum() > 5 > seen[1].sum(), name
    chair = look("chair", (90,))[1][0].nonzero()
    assert chair[chair[:, 0] < 12][:, 1].float().mean() > 24, "seen from +X the chair's back is on the right, at -Z"


def test_left_and_right_of_the_mug():
    """The handle is on +X: on the right in the front view."""
    silhouette = look("mug", (0, 180))[1]
    columns = torch.arange(48).float()
    centre = [(s.float().sum(0) * columns).sum() / s.sum() for s in silhouette]
    assert centre[0] != centre[1] and math.isclose(float(centre[0] + centre[1]), 47, abs_tol=1.0)
    widest = silhouette[0].any(0).nonzero()[:, 0]
    rows = silhouette[0].sum(0)
    assert rows[widest[-1] - 2] < rows[widest[0] + 2], "the thin handle ends the silhouette on the right"
