"""The lattice: its tetrahedra fill the cube once, its bands are what is near, its places are what numbers say."""

import pytest
import torch

from dreamfusion_ngp.scene.lattice import PAIRS, Lattice


def everything(lattice):
    return torch.arange(lattice.size)


@pytest.mark.parametrize("resolution", [4, 6, 12])
def test_tetrahedra_fill_the_cube_but_for_its_rim(resolution):
    """All of one volume, with a positive orientation, each once; between centres of cubes that are neighbours."""
    lattice = Lattice(resolution, 0.75)
    band = lattice.band(everything(lattice))
    x = lattice.positions(band.points)[band.tetrahedra].double()
    volume = torch.linalg.det(x[:, 1:] - x[:, :1]) / 6
    side, n = 2 * lattice.spacing, lattice.cubes
    torch.testing.assert_close(volume, torch.full_like(volume, side**3 / 12))
    assert len(volume) == 12 * n * n * (n - 1)
    keys = {tuple(sorted(t)) for t in band.tetrahedra.tolist()}
    assert len(keys) == len(volume)


def test_random_points_are_in_one_tetrahedron():
    lattice = Lattice(8, 1.0)
    band = lattice.band(everything(lattice))
    corners = lattice.positions(band.points)[band.tetrahedra].double()
    generator = torch.Generator().manual_seed(0)
    points = (torch.rand(200, 3, generator=generator, dtype=torch.float64) - 0.5) * 1.4  # off the rim
    inverse = torch.linalg.inv((corners[:, 1:] - corners[:, :1]).transpose(1, 2))
    b = (inverse[None] @ (points[:, None] - corners[None, :, 0])[..., None])[..., 0]
    b = torch.cat([1 - b.sum(-1, keepdim=True), b], -1)
    assert ((b > 0).all(-1).sum(1) == 1).all()


def test_places():
    lattice = Lattice(6, 0.6)
    x = lattice.positions(everything(lattice))
    grid = lattice.grid_points
    assert lattice.size == 4**3 + 3**3 and grid == 64
    assert x[0].tolist() == pytest.approx([-0.6] * 3) and x[grid - 1].tolist() == pytest.approx([0.6] * 3)
    assert x[1].tolist() == pytest.approx([-0.6, -0.6, -0.2])  # z runs first
    assert x[grid].tolist() == pytest.approx([-0.4] * 3) and x[-1].tolist() == pytest.approx([0.4] * 3)
    assert len({tuple(v) for v in (x * 1e4).round().int().tolist()}) == lattice.size


def test_edges_are_those_of_the_tetrahedra_each_once():
    lattice = Lattice(8, 1.0)
    band = lattice.band(everything(lattice))
    ends = band.edges[band.tetrahedron_edges]  # (T, 6, 2)
    want = band.tetrahedra[:, PAIRS].sort(-1).values
    assert torch.equal(ends, want)
    assert len({tuple(e) for e in band.edges.tolist()}) == len(band.edges)
    x = lattice.positions(band.points)
    length = (x[band.edges[:, 0]] - x[band.edges[:, 1]]).norm(dim=1) / lattice.spacing
    assert set(length.mul(1e3).round().int().tolist()) == {1732, 2000}


def test_a_point_grows_to_its_neighbours():
    lattice = Lattice(12, 1.0)
    place = lattice.place(everything(lattice))
    for middle in ([6, 6, 6], [5, 7, 5]):
        start = int((place == torch.tensor(middle)).all(1).nonzero())
        near = lattice.dilate(torch.tensor([start]))
        away = (place[near] - place[start]).abs()
        assert len(near) == 15 and (away.square().sum(1) <= 4).all()
        two = lattice.dilate(torch.tensor([start]), 2)
        assert torch.equal(two, lattice.dilate(near)) and torch.equal(two, two.sort().values)


def test_a_band_is_part_of_the_whole():
    lattice = Lattice(12, 1.0)
    whole = lattice.band(everything(lattice))
    chosen = (lattice.positions(everything(lattice)).norm(dim=1) < 0.5).nonzero()[:, 0]
    part = lattice.band(chosen)
    inside = set(chosen.tolist())
    want = [t for t in whole.points[whole.tetrahedra].tolist() if inside.issuperset(t)]
    assert part.points[part.tetrahedra].tolist() == want and want
    neighbours = {p: set() for p in inside}
    for a, b in whole.points[whole.edges].tolist():
        for p, q in ((a, b), (b, a)):
            if p in inside:
                neighbours[p].add(q)
    border = [not neighbours[p] <= inside for p in part.points.tolist()]
    assert part.border.tolist() == border and any(border) and not all(border)
    assert not whole.border.any()


def test_the_rim_is_what_no_whole_tetrahedron_surrounds():
    lattice = Lattice(8, 1.0)
    rim = lattice.on_the_rim(everything(lattice))
    x = lattice.positions(everything(lattice)).abs().amax(1)
    assert torch.equal(rim, x > 1 - 1.5 * lattice.spacing)


@pytest.mark.parametrize("resolution", [2, 3, 9, 0, -4])
def test_resolution_is_even(resolution):
    with pytest.raises(ValueError, match=f"resolution must be an even number, at least 4, got {resolution}"):
        Lattice(resolution, 1.0)


def test_no_points():
    band = Lattice(8, 1.0).band(torch.zeros(0, dtype=torch.int64))
    assert band.tetrahedra.shape == (0, 4) and band.edges.shape == (0, 2) and band.tetrahedron_edges.shape == (0, 6)
