"""A signed distance as a field: the sphere that it starts as, its density, its one gradient, its level, its steps."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.tiny_runs import TINY, run

from dreamfusion_ngp.base.errors import UsageError
from dreamfusion_ngp.config.checks import check_config
from dreamfusion_ngp.config.presets import preset
from dreamfusion_ngp.config.schema import FieldConfig, MeshConfig
from dreamfusion_ngp.export.isosurface import extract_mesh, signed_volume
from dreamfusion_ngp.render.losses import eikonal_loss
from dreamfusion_ngp.runs.checkpoint import load_checkpoint, save_checkpoint
from dreamfusion_ngp.scene.distance_field import DistanceField, log_laplace_density, make_field
from dreamfusion_ngp.scene.fields import HashField
from dreamfusion_ngp.scene.isolevel import LEVEL
from dreamfusion_ngp.scene.tetra_surface import TetraSurface

SMALL = replace(TINY.field, kind="sdf", sphere=0.4, beta=(0.05, 0.004))
RUN = replace(TINY, field=SMALL, loss=replace(TINY.loss, eikonal=0.1, eikonal_points=64))


def points(n, seed=0, half=0.7):
    return torch.tensor(np.random.default_rng(seed).uniform(-half, half, (n, 3)), dtype=torch.float32)


def wobbled(scale=300.0, config=SMALL, seed=0):
    """A field whose hash grid moves the sphere by some hundredths."""
    field = make_field(config, seed)
    with torch.no_grad():
        field.table.mul_(scale)
    return field


@pytest.mark.parametrize(
    ("config", "within", "slope"), [(SMALL, 1e-4, 2e-3), (replace(FieldConfig(), kind="sdf", sphere=0.5), 1e-4, 0.05)]
)
def test_starts_as_a_sphere(config, within, slope):
    """Distance to the analytic one, and the length of its gradient to 1; of the second, a grid to 2048, the finest
    levels tilt the gradient most."""
    field, x = make_field(config, 0), points(4000)
    truth = x.norm(dim=-1) - config.sphere
    assert (field.distance(x) - truth).abs().max() < within
    _, rgb_raw, grad_h = field(x)
    assert (grad_h.norm(dim=-1) - 1).abs().max() < slope
    assert (grad_h + torch.nn.functional.normalize(x, dim=-1)).abs().max() < slope
    assert (torch.sigmoid(rgb_raw) - 0.5).abs().max() < 0.01, "colour starts at grey"
    on = torch.nn.functional.normalize(x, dim=-1) * config.sphere
    assert field.distance(on).abs().max() < within, "the level set has the radius"


def test_the_density_is_laplace_s_on_both_sides():
    """alpha Psi_beta(-s) by its two formulas, in float64; what the shade op makes of h is the same density."""
    field, beta = wobbled(), 0.05
    x = points(2000)
    s = field.distance(x).double().numpy()
    assert (s < 0).sum() > 100 and (s > 0).sum() > 100
    psi = np.where(-s <= 0, np.exp(-s.clip(0) / beta) / 2, 1 - np.exp(s.clip(max=0) / beta) / 2)
    torch.testing.assert_close(field.density(x).double(), torch.tensor(psi / beta), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(field.activate(field(x)[0]).detach(), field.density(x), rtol=1e-5, atol=1e-8)


def test_tails_do_not_overflow_and_have_gradients():
    s = torch.tensor([-1e4, -3.0, -1e-6, 0.0, 1e-6, 3.0, 1e4], requires_grad=True)
    beta = torch.tensor(1e-3, requires_grad=True)
    h = log_laplace_density(s, beta)
    torch.testing.assert_close(h.exp().detach()[:3], torch.tensor([1000.0, 1000.0, 500.0]), rtol=2e-3, atol=0)
    assert float(h[5].detach()) == pytest.approx(-3000 - math.log(2) + math.log(1000), rel=1e-5)
    h.sum().backward()
    assert s.grad.isfinite().all() and beta.grad.isfinite() and (s.grad <= 0).all()
    assert s.grad[0] == 0 and s.grad[6] == pytest.approx(-1000)


def test_density_and_beta_have_the_gradients_of_the_formula():
    s = torch.tensor([-0.2, -0.03, 0.02, 0.3], dtype=torch.float64, requires_grad=True)
    beta = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, beta: log_laplace_density(s, beta).exp(), (s, beta))


def test_beta_is_learnt_and_stays_above_its_floor():
    field = make_field(SMALL, 0)
    assert float(field.beta.detach()) == pytest.approx(0.05)
    field(points(50))[0].sum().backward()
    assert field.log_beta.grad.isfinite() and field.log_beta.grad != 0
    with torch.no_grad():
        field.log_beta.fill_(-50.0)
    assert float(field.beta.detach()) == pytest.approx(0.004) and field.density(points(50)).isfinite().all()


def test_normals_are_the_gradient_of_the_distance():
    """grad_h against central differences of the distance, in float64."""
    field, step = wobbled(1000.0).double(), 1e-6
    x = points(200).double()
    grad_h = field(x)[2].detach()
    for axis in range(3):
        away = torch.zeros(3, dtype=torch.float64)
        away[axis] = step
        slope = (field.distance(x + away) - field.distance(x - away)) / (2 * step)
        close = (slope + grad_h[:, axis]).abs() < 1e-4
        assert close.double().mean() > 0.98, "but for points beside a corner of ReLU"


def test_the_eikonal_loss_reaches_the_grid_through_the_gradient_output():
    """Its derivative by every parameter against finite differences along a random direction, in float64."""
    field = wobbled(1000.0).double()
    x = points(60).double()
    parameters = [field.table, field.w1, field.b1, field.w2]
    loss = eikonal_loss(field(x)[2])
    gradients = torch.autograd.grad(loss, parameters)
    assert 0 < float(loss.detach()) < 10 and all(
        g.isfinite().all() and g.any() for g in gradients if g is not gradients[2]
    )
    random = torch.Generator().manual_seed(0)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        along = torch.randn(parameter.shape, generator=random, dtype=torch.float64) * parameter.detach().abs().mean()
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * 1e-7 * along)
                values.append(float(eikonal_loss(field(x)[2].detach())))
                parameter.sub_(sign * 1e-7 * along)
        measured = (values[0] - values[1]) / 2e-7
        assert measured == pytest.approx(float((gradient * along).sum()), rel=1e-4, abs=1e-8)


def test_the_eikonal_loss_counts_rows_in_use():
    gradient = torch.tensor([[1.0, 0, 0], [0, 3.0, 0], [0, 0, 0]], requires_grad=True)
    assert float(eikonal_loss(gradient)) == pytest.approx((0 + 4 + 1) / 3, rel=1e-4)
    used = eikonal_loss(gradient, torch.tensor([2]))
    assert float(used) == pytest.approx(2.0)
    used.backward()
    assert gradient.grad.isfinite().all() and not gradient.grad[2].any()
    assert float(eikonal_loss(gradient, torch.tensor([0]))) == 0.0


def test_the_surface_is_where_the_distance_is_zero():
    """By its level, without a search; the width of the density has no part in it."""
    volumes = []
    for beta in (0.05, 0.2):
        field = make_field(replace(SMALL, beta=(beta, 0.004)), 0)
        mesh, figures = extract_mesh(field.solid, field.bound, resolution=64, faces=0, level=field.level)
        assert figures["level"] == field.level == LEVEL and figures["watertight"]
        assert np.linalg.norm(mesh.vertices, axis=1) == pytest.approx(0.4, abs=1e-3)
        volumes.append(signed_volume(mesh))
    assert volumes[0] == volumes[1] == pytest.approx(4 / 3 * math.pi * 0.4**3, rel=0.01)


def test_a_mesh_stage_goes_on_with_it():
    field = wobbled()
    surface = TetraSurface(field, MeshConfig(resolution=32, detail_levels=2, detail_finest=32), SMALL, 0)
    surface.begin()
    vertices, faces = surface()
    assert len(faces) > 500 and field.distance(vertices.detach()).abs().max() < 5e-3
    x = points(100)
    torch.testing.assert_close(surface.values(x).sign().detach(), -field.distance(x).sign())


def test_the_kind_chooses_the_class_and_what_does_not_fit_is_refused():
    assert type(make_field(TINY.field, 0)) is HashField and type(make_field(SMALL, 0)) is DistanceField
    check_config(RUN)
    for wrong, text in (
        (replace(TINY, loss=replace(TINY.loss, eikonal=0.1)), "loss.eikonal is for a signed distance"),
        (replace(RUN, field=replace(SMALL, beta=(0.01, 0.01))), "field.beta"),
        (replace(RUN, field=replace(SMALL, sphere=0.9)), "field.sphere"),
        (replace(RUN, field=replace(SMALL, kind="occupancy")), "field.kind must be one of density, sdf"),
    ):
        with pytest.raises(UsageError, match=text):
            check_config(wrong)


def test_steps_and_a_resumed_run(tmp_path):
    """The beta is learnt with the rest, the gradient's length is held near 1, and a resumed run is the same run."""
    whole, records = run(replace(RUN, steps=10))
    assert all(0 <= record["eikonal"] < 1 for record in records) and records[-1]["eikonal"] > 0
    assert float(whole.field.beta.detach()) != pytest.approx(0.05, abs=1e-6)
    part, _ = run(replace(RUN, steps=10), stop_after=4)
    save_checkpoint(tmp_path / "c", part)
    again, _ = run(None, state=load_checkpoint(tmp_path / "c", "cpu"))
    assert "field.log_beta" in whole.tensors()
    assert all(torch.equal(a, b) for a, b in zip(whole.tensors().values(), again.tensors().values(), strict=True))
    free, _ = run(replace(RUN, steps=10, loss=replace(RUN.loss, eikonal=0.0)))
    x = points(2000, half=0.5)
    miss = [float(eikonal_loss(state.field(x)[2]).detach()) for state in (whole, free)]
    assert miss[0] < miss[1]


def test_the_grid_knows_where_the_density_is():
    """After an update only cells near the surface or inside are occupied, none in the corners of the cube."""
    state, _ = run(replace(RUN, steps=1, render=replace(RUN.render, occupancy_threshold=0.05)))
    assert 0.05 < state.occupied() < 0.5


def test_the_same_numbers_from_every_backend_of_the_config():
    assert preset("fast").field.kind == "density"
    field = wobbled()
    x = points(300)
    torch.testing.assert_close(field.first_output(x), field.distance(x))
    half = make_field(replace(SMALL, half_table=True), 0)
    half.refresh()
    torch.testing.assert_close(half.distance(x), make_field(SMALL, 0).distance(x), atol=1e-5, rtol=1e-4)
