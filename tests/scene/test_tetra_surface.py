"""A volume's surface as a mesh: it starts where export sees it, its band follows it, its offsets are bounded."""

from dataclasses import replace

import pytest
import torch
from support.tiny_runs import TINY

from dreamfusion_ngp.base.errors import ExportError
from dreamfusion_ngp.config.schema import MeshConfig
from dreamfusion_ngp.export.isosurface import extract_mesh, signed_volume
from dreamfusion_ngp.scene.fields import HashField
from dreamfusion_ngp.scene.tetra_surface import FURTHEST, TetraSurface

CONFIG = MeshConfig(resolution=32, detail_levels=2, detail_finest=64, detail_log2_table=10)


def ball_field(strength=8.0, radius=0.4, **settings):
    """A field whose density is a cone around the origin, wobbled by its hash grid."""
    field = HashField(replace(TINY.field, blob=("cone", strength, radius), **settings), 0)
    with torch.no_grad():
        field.table.mul_(3000)
    return field


def begun(field, config=CONFIG):
    surface = TetraSurface(field, config, field.config, 0)
    surface.begin()
    return surface


@pytest.mark.parametrize("density", ["exp", "softplus"])
def test_starts_as_the_surface_that_export_sees(density):
    field = ball_field(density=density, strength=8.0 if density == "exp" else 30.0)
    surface = begun(field)
    vertices, faces = surface()
    mesh, figures = extract_mesh(field.density, field.bound, resolution=64, faces=0)
    volume = (lambda v: float((v[:, 0] * torch.linalg.cross(v[:, 1], v[:, 2])).sum()) / 6)(vertices[faces.long()])
    assert volume == pytest.approx(signed_volume(mesh), rel=0.1) and volume > 0.02
    from scipy.spatial import KDTree

    distance = KDTree(mesh.vertices).query(vertices.detach().numpy())[0]
    assert distance.max() < surface.lattice.spacing and distance.mean() < 0.3 * surface.lattice.spacing
    assert float(surface.log_level.exp()) == pytest.approx(figures["level"], rel=0.1)


def test_colours_start_as_the_volume_s():
    field = ball_field()
    surface = begun(field)
    vertices, _ = surface()
    x = vertices.detach()[:50]
    torch.testing.assert_close(surface.color(x), field.albedo(x))
    torch.testing.assert_close(surface.paint(x, x[:, 0], x), field.albedo(x))


def test_every_parameter_has_a_rate_and_learns():
    surface = begun(ball_field())
    groups = surface.parameter_groups()
    listed = [p for group in groups.values() for p in group]
    assert {id(p) for p in listed} == {id(p) for p in surface.parameters()} and len(listed) == 11
    vertices, _ = surface()
    loss = vertices.square().sum() + surface.color(vertices.detach()).sum()
    gradients = torch.autograd.grad(loss, listed)
    missing = [g for g, p in zip(gradients, listed, strict=True) if not g.any() and p is not surface.detail.table]
    silent = {id(p) for p in (surface.detail.w1, surface.detail.b1)}  # until w2 is no longer zero
    assert len(missing) == len(silent)


def test_the_band_is_small_and_follows_the_surface():
    """The level is raised and lowered step by step: the ball shrinks and grows through many bands, always closed."""
    surface = begun(ball_field())
    assert int(surface.near.sum()) < 0.4 * surface.lattice.size
    volumes = []
    for level in [*torch.linspace(0.5, 4.0, 8), *torch.linspace(4.0, 0.5, 8)]:
        surface.log_level.fill_(float(level))
        vertices, faces = surface()
        corners = vertices[faces.long()]
        volumes.append(float((corners[:, 0] * torch.linalg.cross(corners[:, 1], corners[:, 2])).sum()) / 6)
        index = faces.long()
        start, end, n = index.flatten(), index.roll(-1, 1).flatten(), len(vertices)
        assert torch.equal((start * n + end).sort().values, (end * n + start).sort().values)
        assert not surface.reaches_the_end(surface.value)
    assert volumes[:8] == sorted(volumes[:8], reverse=True) and volumes[8:] == sorted(volumes[8:])
    assert volumes[0] == pytest.approx(volumes[-1], rel=1e-5) and volumes[0] > 2 * volumes[7]
    whole = begun(surface.field)
    whole.log_level.fill_(0.5)
    assert torch.equal(whole()[0], vertices), "the band that moved is as good as one of the whole lattice"


def test_a_surface_that_moves_a_little_keeps_its_band(monkeypatch):
    """By less than a lattice step in eight: the mesh is that of a new band, and no band is made for it."""
    surface, rebuilt = begun(ball_field()), []
    surface()
    monkeypatch.setattr(surface, "refresh_band", lambda: rebuilt.append(True))
    slope = 8.0 / 0.4  # of the blob's log density, per world unit
    passed = surface.value > 0
    for _ in range(8):
        surface.log_level += 0.1 * surface.lattice.spacing * slope
        surface()
    assert not rebuilt and int((passed & (surface.value < 0)).sum()) > 8, "it passed points of the lattice"
    monkeypatch.undo()
    vertices, faces = surface()
    surface.refresh_band()
    again = surface()
    assert torch.equal(vertices, again[0]) and torch.equal(faces, again[1])


def test_offsets_are_bounded():
    surface = begun(ball_field())
    vertices, faces = surface()
    with torch.no_grad():
        surface.offset.copy_(100 * torch.randn(surface.offset.shape, generator=torch.Generator().manual_seed(0)))
    moved, same = surface()
    assert torch.equal(faces, same)
    furthest = float((moved - vertices).abs().max())
    assert 0.5 * FURTHEST * surface.lattice.spacing < furthest <= FURTHEST * surface.lattice.spacing * 1.001


def test_no_tetrahedron_turns_over():
    """Whatever the offsets."""
    surface = begun(ball_field())
    with torch.no_grad():
        surface.offset.copy_(100 * torch.randn(surface.offset.shape, generator=torch.Generator().manual_seed(0)))
    _, position = surface.evaluate()
    corners = position[surface.band.tetrahedra].double()
    assert (torch.linalg.det(corners[:, 1:] - corners[:, :1]) > 0).all()


def test_a_solid_that_fills_the_cube_is_closed_at_its_rim():
    surface = begun(ball_field(strength=8.0, radius=3.0))
    vertices, faces = surface()
    index = faces.long()
    start, end, n = index.flatten(), index.roll(-1, 1).flatten(), len(vertices)
    assert n and torch.equal((start * n + end).sort().values, (end * n + start).sort().values)
    assert float(vertices.abs().max()) < surface.bound


def test_an_empty_volume_is_an_error():
    with pytest.raises(ExportError, match="empty"):
        begun(HashField(replace(TINY.field, blob=("none", 0.0, 1.0), density_bias=-12.0), 0))
