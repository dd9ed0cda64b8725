"""Marching tetrahedra: closed surfaces of known shapes, outwards, with exact gradients."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from dreamfusion_ngp.scene.lattice import Band, Lattice
from dreamfusion_ngp.scene.marching_tetrahedra import marching_tetrahedra


def surface(resolution, function, bound=1.0):
    lattice = Lattice(resolution, bound)
    band = lattice.band(torch.arange(lattice.size))
    x = lattice.positions(band.points).double()
    return marching_tetrahedra(x, function(x), band), lattice


def measures(vertices, faces):
    """Volume, area, whether every edge has one face on each side, Euler's number."""
    index = faces.long()
    a, b, c = vertices[index].unbind(1)
    volume = float((a * torch.linalg.cross(b, c)).sum()) / 6
    area = float(torch.linalg.cross(b - a, c - a).norm(dim=1).sum()) / 2
    start, end, n = index.flatten(), index.roll(-1, 1).flatten(), len(vertices)
    forward, backward = (start * n + end).sort().values, (end * n + start).sort().values
    closed = torch.equal(forward, backward) and bool((forward.diff() > 0).all())
    return volume, area, closed, n - len(start) // 2 + len(faces)


def test_ball():
    (vertices, faces), lattice = surface(32, lambda x: 0.6 - x.norm(dim=1))
    volume, area, closed, euler = measures(vertices, faces)
    assert closed and euler == 2 and faces.dtype == torch.int32
    assert volume == pytest.approx(4 / 3 * math.pi * 0.216, rel=0.02)
    assert area == pytest.approx(4 * math.pi * 0.36, rel=0.02)
    assert float((vertices.norm(dim=1) - 0.6).abs().max()) < 0.1 * lattice.spacing
    assert len(vertices) == int(faces.max()) + 1 == len(faces.unique())


def test_normals_point_outwards():
    (vertices, faces), _ = surface(24, lambda x: 0.6 - (x - 0.1).norm(dim=1))
    a, b, c = vertices[faces.long()].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    big = normal.norm(dim=1) > 1e-6
    assert ((normal * ((a + b + c) / 3 - 0.1)).sum(1)[big] > 0).all()


def test_torus():
    def torus(x):
        return 0.2 - torch.stack([x[:, :2].norm(dim=1) - 0.55, x[:, 2]], 1).norm(dim=1)

    (vertices, faces), _ = surface(48, torus)
    volume, area, closed, euler = measures(vertices, faces)
    assert closed and euler == 0
    assert volume == pytest.approx(2 * math.pi**2 * 0.55 * 0.04, rel=0.02)
    assert area == pytest.approx(4 * math.pi**2 * 0.55 * 0.2, rel=0.02)


def test_noise_is_closed():
    generator = torch.Generator().manual_seed(0)

    def noise(x):
        value = torch.randn(len(x), generator=generator, dtype=torch.float64)
        return torch.where((x.abs() > 0.8).any(1), -1.0, value)

    (vertices, faces), _ = surface(16, noise)
    assert measures(vertices, faces)[2] and len(faces) > 1000


def one_tetrahedron():
    pairs = torch.tensor([[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]])
    border = torch.zeros(4, dtype=torch.bool)
    return Band(torch.arange(4), torch.arange(4)[None], pairs, torch.arange(6)[None], border)


CORNERS = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)


@pytest.mark.parametrize("inside", range(16))
def test_every_case_of_one_tetrahedron(inside):
    value = torch.tensor([0.5 if inside >> k & 1 else -0.25 for k in range(4)], dtype=torch.float64)
    vertices, faces = marching_tetrahedra(CORNERS, value, one_tetrahedron())
    count = bin(inside).count("1")
    assert len(faces) == [0, 1, 2, 1, 0][count] and len(vertices) == [0, 3, 4, 3, 0][count]
    if not len(faces):
        return
    a, b, c = vertices[faces.long()].unbind(1)
    outwards = CORNERS[value < 0].mean(0) - CORNERS[value > 0].mean(0)
    assert (torch.linalg.cross(b - a, c - a) @ outwards > 0).all()
    ends = [(i, o) for i in range(4) for o in range(4) if value[i] > 0 > value[o]]
    want = torch.stack([CORNERS[i] / 3 + CORNERS[o] * 2 / 3 for i, o in ends])  # two thirds of the way out
    assert torch.cdist(want, vertices).amin(1).max() < 1e-12


def test_gradcheck():
    generator = torch.Generator().manual_seed(1)
    lattice = Lattice(4, 1.0)
    band = lattice.band(torch.arange(lattice.size))
    value = torch.randn(lattice.size, generator=generator, dtype=torch.float64)
    value = (value.sign() * (value.abs() + 0.1)).requires_grad_()
    position = lattice.positions(band.points).double().requires_grad_()
    assert gradcheck(lambda x, s: marching_tetrahedra(x, s, band)[0], (position, value))


def test_full_and_empty_have_no_surface():
    for value in (1.0, -1.0, 0.0):
        (vertices, faces), _ = surface(8, lambda x, value=value: torch.full((len(x),), value, dtype=torch.float64))
        assert vertices.shape == (0, 3) and faces.shape == (0, 3)


def test_zero_is_outside_and_nothing_is_lost_by_it():
    """Values that are exactly 0 at many points: a ball whose radius is a distance of the lattice."""
    (vertices, faces), _ = surface(16, lambda x: 0.25 - x.square().sum(1))
    assert vertices.isfinite().all()
    assert measures(vertices, faces)[0] == pytest.approx(4 / 3 * math.pi * 0.125, rel=0.1)
    tiny = torch.tensor([1e-30, -1e-30, -1e-30, -1e-30], dtype=torch.float64)
    vertices, _ = marching_tetrahedra(CORNERS, tiny, one_tetrahedron())
    assert vertices.amax(0).tolist() == pytest.approx([0.5] * 3)


def test_order_does_not_depend_on_how_far_the_band_reaches():
    lattice = Lattice(16, 1.0)
    found = []
    for reach in (0.3, 0.4, 2.0):
        points = torch.arange(lattice.size)
        points = points[(lattice.positions(points).norm(dim=1) - 0.5).abs() < reach]
        band = lattice.band(points)
        x = lattice.positions(points)
        found.append(marching_tetrahedra(x, 0.5 - x.norm(dim=1), band))
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))
