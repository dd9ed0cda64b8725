"""Signed-distance primitives: sign against a plain inside test, size against brute force over points of the surface."""

import math

import pytest
import torch

from dreamfusion_ngp.toybox.world import sdf

C = (0.07, -0.04, 0.05)  # an off-centre position, so that a forgotten shift shows


def rotate(p, axis):
    """Coordinates (across, along, across) of p - C for a shape with this axis."""
    q = [a - c for a, c in zip(p, C, strict=True)]
    return q[(axis + 1) % 3], q[axis], q[(axis + 2) % 3]


def in_box(p):
    """Rounding 0: with it the corners are cut, which only the distance tests can see."""
    return (abs(p[0] - C[0]) < 0.3) & (abs(p[1] - C[1]) < 0.2) & (abs(p[2] - C[2]) < 0.1)


def in_round_box(p):
    q = [(abs(a - c) - h + 0.05).clamp(min=0) for a, c, h in zip(p, C, (0.3, 0.2, 0.1), strict=True)]
    return q[0] ** 2 + q[1] ** 2 + q[2] ** 2 < 0.05**2


def in_cylinder(p, axis=1):
    a, y, b = rotate(p, axis)
    return (a * a + b * b < 0.2**2) & (abs(y) < 0.3)


def in_torus(p, axis=1):
    a, y, b = rotate(p, axis)
    return (torch.sqrt(a * a + b * b) - 0.3) ** 2 + y * y < 0.1**2


def in_cone(p, axis=1, low=0.3, high=0.1):
    a, y, b = rotate(p, axis)
    return (abs(y) < 0.25) & (torch.sqrt(a * a + b * b) < low + (high - low) * (y + 0.25) / 0.5)


def in_capsule(p):
    a, b = torch.tensor([-0.2, -0.1, 0.0]).double(), torch.tensor([0.25, 0.2, 0.1]).double()
    q = torch.stack(p, -1) - a
    along = (q @ (b - a) / (b - a).square().sum()).clamp(0, 1)
    return (q - along[..., None] * (b - a)).norm(dim=-1) < 0.12


def in_pyramid(p):
    x, y, z = (a - c for a, c in zip(p, C, strict=True))
    half = 0.3 * (0.25 - y) / 0.5
    return (abs(y) < 0.25) & (abs(x) < half) & (abs(z) < half)


def in_roof(p):
    x, y, z = (a - c for a, c in zip(p, C, strict=True))
    return (y > 0) & (y < 0.2) & (abs(x) < 0.35) & (abs(z) < 0.3 * (0.2 - y) / 0.2)


def in_ellipsoid(p, r):
    return sum(((a - c) / b) ** 2 for a, c, b in zip(p, C, r, strict=True)) < 1


# name: distance, inside, share of the true distance that it reaches at least (1: exact)
PRIMITIVES = {
    "sphere": (
        lambda p: sdf.sphere(p, C, 0.3),
        lambda p: sum((a - c) ** 2 for a, c in zip(p, C, strict=True)) < 0.09,
        1.0,
    ),
    "box": (lambda p: sdf.box(p, C, (0.3, 0.2, 0.1), 0.0), in_box, 1.0),
    "rounded box": (lambda p: sdf.box(p, C, (0.3, 0.2, 0.1), 0.05), in_round_box, 1.0),
    "cylinder x": (lambda p: sdf.cylinder(p, C, 0.2, 0.3, axis=0), lambda p: in_cylinder(p, 0), 1.0),
    "cylinder y": (lambda p: sdf.cylinder(p, C, 0.2, 0.3), in_cylinder, 1.0),
    "cylinder z": (lambda p: sdf.cylinder(p, C, 0.2, 0.3, axis=2), lambda p: in_cylinder(p, 2), 1.0),
    "torus y": (lambda p: sdf.torus(p, C, 0.3, 0.1), in_torus, 1.0),
    "torus z": (lambda p: sdf.torus(p, C, 0.3, 0.1, axis=2), lambda p: in_torus(p, 2), 1.0),
    "cone": (lambda p: sdf.cone(p, C, 0.25, 0.3, 0.1), in_cone, 1.0),
    "cone z": (lambda p: sdf.cone(p, C, 0.25, 0.3, 0.1, axis=2), lambda p: in_cone(p, 2), 1.0),
    "cone widening": (lambda p: sdf.cone(p, C, 0.25, 0.05, 0.3), lambda p: in_cone(p, 1, 0.05, 0.3), 1.0),
    "capsule": (lambda p: sdf.capsule(p, (-0.2, -0.1, 0.0), (0.25, 0.2, 0.1), 0.12), in_capsule, 1.0),
    # Bounds: the largest of plane distances, and the quotient for ellipsoids, exact to first order at the surface.
    "pyramid": (lambda p: sdf.pyramid(p, C, 0.25, 0.3), in_pyramid, 0.3),
    "roof": (lambda p: sdf.roof(p, C, 0.35, 0.3, 0.2), in_roof, 0.25),
    "ellipsoid": (lambda p: sdf.ellipsoid(p, C, (0.2, 0.3, 0.4)), lambda p: in_ellipsoid(p, (0.2, 0.3, 0.4)), 0.7),
    "flat ellipsoid": (
        lambda p: sdf.ellipsoid(p, C, (0.1, 0.04, 0.1)),
        lambda p: in_ellipsoid(p, (0.1, 0.04, 0.1)),
        0.5,
    ),
}
EXACT = [name for name, (_, _, share) in PRIMITIVES.items() if share == 1.0]


def cloud(n, seed=0, extent=0.8):
    g = torch.Generator().manual_seed(seed)
    return (torch.rand(n, 3, generator=g, dtype=torch.float64) * 2 - 1) * extent


def evaluate(name, points):
    return PRIMITIVES[name][0](tuple(points.unbind(-1)))


def surface(inside, n=4000):
    """Points of the surface by bisection between points on both sides: needs the inside test only."""
    points = torch.cat([cloud(20 * n, 1, 0.6), torch.tensor(C) + cloud(10 * n, 2, 0.1)])
    flags = inside(tuple(points.unbind(-1)))
    a = points[flags][torch.arange(n) % int(flags.sum())]
    b = points[~flags][:n]
    for _ in range(40):
        middle = (a + b) / 2
        now = inside(tuple(middle.unbind(-1)))[:, None]
        a, b = torch.where(now, middle, a), torch.where(now, b, middle)
    return a


def way_to(inside, found, points):
    """Distance from outside points to the solid by brute force: the nearest of its surface points, then random steps
    that stay inside and come closer. Never too short; up to 0.015 too long at edges, along which few steps stay
    inside."""
    nearest = found[torch.cdist(points, found).argmin(1)]
    best = (points - nearest).norm(dim=-1)
    g = torch.Generator().manual_seed(0)
    for _ in range(400):
        size = 0.1 * 10 ** (-3 * torch.rand(len(points), 1, generator=g, dtype=torch.float64))
        trial = nearest + size * torch.randn(nearest.shape, generator=g, dtype=torch.float64)
        way = (points - trial).norm(dim=-1)
        closer = inside(tuple(trial.unbind(-1))) & (way < best)
        nearest, best = torch.where(closer[:, None], trial, nearest), torch.where(closer, way, best)
    return best


@pytest.mark.parametrize("name", PRIMITIVES)
def test_the_sign_is_that_of_a_plain_inside_test(name):
    points = torch.cat([cloud(20_000), torch.tensor(C) + cloud(20_000, 1, 0.12)])
    d, inside = evaluate(name, points), PRIMITIVES[name][1](tuple(points.unbind(-1)))
    clear = d.abs() > 1e-5
    assert inside.sum() > 50 and torch.equal((d < 0)[clear], inside[clear])


@pytest.mark.parametrize("name", PRIMITIVES)
def test_outside_it_is_the_distance_or_a_lower_bound(name):
    _, inside, share = PRIMITIVES[name]
    found = surface(inside)
    assert evaluate(name, found).abs().max() < 2e-5, "zero on the surface"
    points = cloud(1000, 2)
    d = evaluate(name, points)
    points, d = points[d > 0.02], d[d > 0.02]
    true = way_to(inside, found, points)
    assert (d <= true + 1e-5).all(), "never more than the way to any point of the solid"
    assert (d >= share * true - 0.015).all()


@pytest.mark.parametrize("name", EXACT)
def test_exact_ones_are_exact_inside_too(name):
    _, inside, _ = PRIMITIVES[name]
    found, points = surface(inside), cloud(4000, 3, 0.5)
    d = evaluate(name, points)
    points, d = points[d < -0.03], d[d < -0.03]
    true = torch.cdist(points, found).min(1).values
    assert len(d) > 20 and (true + d).min() > -1e-5 and (true + d).max() < 0.02


@pytest.mark.parametrize("name", [*EXACT, "pyramid", "roof"])
def test_one_lipschitz(name):
    """The quotient for ellipsoids is not: it is a bound by the test above."""
    a = cloud(20_000, 4)
    b = torch.cat([cloud(10_000, 5), a[10_000:] + 0.01 * cloud(10_000, 6)])
    change = (evaluate(name, a) - evaluate(name, b)).abs()
    assert (change <= (a - b).norm(dim=-1) + 2e-6).all()


@pytest.mark.parametrize(
    "name, axes",
    [
        ("sphere", (0, 1, 2)),
        ("box", (0, 1, 2)),
        ("cylinder y", (0, 1, 2)),
        ("torus y", (0, 1, 2)),
        ("cone", (0, 2)),
        ("pyramid", (0, 2)),
        ("roof", (0, 2)),
        ("ellipsoid", (0, 1, 2)),
    ],
)
def test_symmetric_axes(name, axes):
    offset, centre = cloud(2000, 7), torch.tensor(C, dtype=torch.float64)
    for axis in axes:
        mirrored = offset.clone()
        mirrored[:, axis] *= -1
        assert torch.allclose(evaluate(name, centre + offset), evaluate(name, centre + mirrored), atol=1e-9)
    for axis in set(range(3)) - set(axes):
        mirrored = offset.clone()
        mirrored[:, axis] *= -1
        assert (evaluate(name, centre + offset) - evaluate(name, centre + mirrored)).abs().max() > 0.05


def test_rotation_symmetry_around_the_axis():
    points = cloud(2000, 8) + torch.tensor(C)
    q = points - torch.tensor(C)
    turned = torch.stack([q[:, 2], q[:, 1], -q[:, 0]], -1) + torch.tensor(C)
    for name in ("cylinder y", "torus y", "cone", "pyramid", "sphere"):
        assert torch.allclose(evaluate(name, points), evaluate(name, turned), atol=1e-7), name


def test_combinations():
    """Signs of union, intersection and difference follow set algebra; the values are bounds."""
    p = tuple(cloud(5000, 9).unbind(-1))
    a, b = sdf.sphere(p, (0.1, 0, 0), 0.4), sdf.box(p, (-0.1, 0, 0), (0.3, 0.3, 0.3))
    assert torch.equal(sdf.union(a, b) < 0, (a < 0) | (b < 0))
    assert torch.equal(sdf.union(a), a)
    assert torch.equal(sdf.intersect(a, b) < 0, (a < 0) & (b < 0))
    assert torch.equal(sdf.subtract(a, b) < 0, (a < 0) & (b > 0))


def test_mirror_doubles_a_shape():
    p = tuple(cloud(5000, 10).unbind(-1))
    both = sdf.sphere(sdf.mirror(p, 0), (0.3, 0, 0), 0.2)
    assert torch.equal(both, sdf.union(sdf.sphere(p, (0.3, 0, 0), 0.2), sdf.sphere(p, (-0.3, 0, 0), 0.2)))


def test_sizes_may_be_tensors_one_per_instance():
    p = tuple(cloud(300, 11).float().view(3, 100, 3).unbind(-1))
    r = torch.tensor([[0.1], [0.2], [0.3]])
    for i in range(3):
        one = tuple(a[i : i + 1] for a in p)
        assert torch.equal(
            sdf.cylinder(p, (0, r, 0), r, 0.2)[i], sdf.cylinder(one, (0, float(r[i]), 0), float(r[i]), 0.2)[0]
        )
        assert torch.allclose(
            sdf.cone(p, (0, 0, 0), 0.2, r, 0.1)[i], sdf.cone(one, (0, 0, 0), 0.2, float(r[i]), 0.1)[0]
        )


def test_gradients_are_finite_at_centres():
    for distance in (lambda p: sdf.sphere(p, (0, 0, 0), 0.3), lambda p: sdf.torus(p, (0, 0, 0), 0.3, 0.1)):
        p = torch.zeros(3, 1, requires_grad=True)
        distance(tuple(p)).sum().backward()
        assert torch.isfinite(p.grad).all()
    assert math.isclose(float(sdf.sphere((torch.zeros(1),) * 3, (0, 0, 0), 0.3)), -0.3, abs_tol=1e-5)
