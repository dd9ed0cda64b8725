"""The field's values and derivatives: against the float64 reference, against differences, and at its edges."""

import pytest
import torch
from support.field_cases import NAMES, SMALL, TINY, check, cotangents, network, points, relative_error, run

from dreamfusion_ngp.ops import reference
from dreamfusion_ngp.ops.field import field, field_density
from dreamfusion_ngp.ops.hashgrid import GridLayout

pytestmark = pytest.mark.usefixtures("simd")


@pytest.mark.parametrize("levels, hidden, interpolation", [(16, 64, "linear"), (8, 32, "smoothstep")])
def test_the_shapes_of_the_presets_match_the_reference(device, levels, hidden, interpolation):
    """They have CUDA kernels of their own."""
    layout = GridLayout(
        levels=levels, log2_table=9, base_resolution=4, finest_resolution=30, interpolation=interpolation
    )
    check(device, layout, hidden, 300, blob=("gaussian", 5.0, 0.3), x=points(layout, 300, margin=2e-3))


@pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
@pytest.mark.parametrize("n", [0, 1, 31, 33, 1000])
def test_matches_the_reference(device, interpolation, n):
    check(device, GridLayout(interpolation=interpolation, **SMALL), 32, n, blob=("gaussian", 5.0, 0.3))


@pytest.mark.parametrize("features, hidden", [(1, 1), (1, 19), (2, 64), (4, 5), (8, 33), (2, 128)])
def test_every_width_matches_the_reference(device, features, hidden):
    check(device, GridLayout(features=features, **SMALL), hidden, 100)


def test_largest_network_matches_the_reference(device):
    layout = GridLayout(levels=32, features=2, log2_table=8, base_resolution=4, finest_resolution=20)
    check(device, layout, 128, 70, x=points(layout, 70, margin=1e-4), tolerance=1e-4)


@pytest.mark.parametrize("blob", [("none", 0.0, 1.0), ("gaussian", 5.0, 0.2), ("cone", 10.0, 0.5)])
@pytest.mark.parametrize("bound", [0.5, 2.0])
def test_blob_and_bound(device, blob, bound):
    check(device, GridLayout(**SMALL), 16, 100, blob=blob, bound=bound)


@pytest.mark.parametrize("kind, value", [("gaussian", 5.0), ("cone", 5.0)])
def test_blob_at_the_origin(device, kind, value):
    layout = GridLayout(**SMALL)
    tensors = [torch.zeros_like(t).float().to(device) for t in network(layout, 8)]
    settings = dict(bound=1.0, level_weight=[1.0] * 4, blob=(kind, value, 0.5))
    h, _, grad_h = field(torch.tensor([[0.0, 0, 0], [0.25, 0, 0]], device=device), *tensors, layout, **settings)
    assert h[0].item() == pytest.approx(value, rel=1e-3)
    assert not grad_h[0].any()
    assert grad_h[1, 0] < 0 and not grad_h[1, 1:].any()


@pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
def test_grad_h_is_the_derivative_of_h(interpolation):
    """By differences of h in float64, so independent of every formula for grad_h."""
    layout = GridLayout(interpolation=interpolation, **SMALL)
    tensors = network(layout, 16)
    settings = dict(bound=1.5, level_weight=[1.0, 0.5, 0.25, 1.0], blob=("gaussian", 5.0, 0.4))
    x = points(layout, 50, bound=1.5)
    grad_h = field(x, *tensors, layout, **settings)[2]
    step = 1e-7
    for axis in range(3):
        shift = torch.zeros(3, dtype=torch.float64)
        shift[axis] = step
        rise = field(x + shift, *tensors, layout, **settings)[0] - field(x - shift, *tensors, layout, **settings)[0]
        torch.testing.assert_close(rise / (2 * step), grad_h[:, axis], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weights", [[1.0, 0.5, 0.0, 0.0], [0.0, 0.0, 1.0, 0.3], [0.0] * 4])
def test_level_weights(device, weights):
    check(device, GridLayout(**SMALL), 32, 100, level_weight=weights, blob=("gaussian", 1.0, 0.5))


def test_levels_of_weight_zero_are_not_read(device):
    layout = GridLayout(**SMALL)
    tensors = network(layout, 16)
    tensors[0][layout.offset[2] :] = float("nan")
    args = points(layout, 100), tensors, layout, cotangents(100), device, torch.float32
    results = run(field, *args, level_weight=[1.0, 1.0, 0.0, 0.0])
    assert all(torch.isfinite(r).all() for r in results)
    assert not results[3][layout.offset[2] :].any() and results[3][: layout.offset[2]].any()


def test_outside_the_bound(device):
    """The lookup clamps; the encoding's derivative of an axis outside is zero, the blob's is not."""
    layout = GridLayout(interpolation="smoothstep", **SMALL)
    x = torch.tensor([[1.5, 0.1, 0.2], [0.3, -7.0, 1.1], [1.0, -1.0, 0.0], [-3.0, 3.0, 3.0]], dtype=torch.float64)
    check(device, layout, 16, 4, x=x, blob=("gaussian", 5.0, 1.0))
    tensors = [t.float().to(device) for t in network(layout, 16)]
    grad_h = field(x.float().to(device), *tensors, layout, bound=1.0, level_weight=[1.0] * 4)[2]
    assert torch.equal(grad_h == 0, torch.tensor([[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1]], device=device).bool())


def test_cell_faces(device):
    """On a face the value is continuous; the linear derivative across it is that of the upper cell."""
    layout = GridLayout(levels=2, log2_table=12, base_resolution=5, finest_resolution=9)  # scales 4 and 8: exact faces
    x = 2 * torch.cartesian_prod(*[torch.tensor([0.125, 0.375, 0.4375, 0.5, 0.875], dtype=torch.float64)] * 3) - 1
    check(device, layout, 16, len(x), x=x)


def test_density_is_h_without_gradient(device):
    layout = GridLayout(**SMALL)
    x = points(layout, 200).float().to(device)
    tensors = [t.float().to(device).requires_grad_() for t in network(layout, 32)]
    settings = dict(bound=1.0, level_weight=[1.0, 1.0, 0.5, 0.0], blob=("cone", 3.0, 0.5))
    h = field_density(x, *tensors, layout, **settings)
    assert not h.requires_grad
    torch.testing.assert_close(h, field(x, *tensors, layout, **settings)[0].detach())
    want = reference.field_density(x.double(), *[t.double() for t in tensors], layout, **settings)
    assert relative_error(h, want.cpu()) < 1e-5


@pytest.mark.parametrize("blob", [("none", 0.0, 1.0), ("gaussian", 5.0, 0.4)])
def test_gradcheck_through_every_output(blob):
    """Table, weights and biases through h, rgb_raw and grad_h; no hidden unit is near its kink."""
    x, tensors = points(TINY, 6), [t.requires_grad_() for t in network(TINY, 5, seed=4)]
    u, (table, W1, b1, _, _) = (x + 1) / 2, tensors
    z = reference.hashgrid_encode(u, table, TINY) * torch.tensor([1.0, 1.0, 0.7, 0.7]) @ W1.T + b1
    assert z.abs().min() > 1e-3 and (z > 0).any() and (z < 0).any()
    settings = dict(bound=1.0, level_weight=[1.0, 0.7], blob=blob)
    assert torch.autograd.gradcheck(lambda *t: field(x, *t, TINY, **settings), tensors)


def test_x_gets_no_gradient():
    x, tensors = points(TINY, 3).requires_grad_(), [t.requires_grad_() for t in network(TINY, 5)]
    sum(o.sum() for o in field(x, *tensors, TINY, bound=1.0, level_weight=[1.0, 1.0])).backward()
    assert x.grad is None and all(t.grad is not None for t in tensors)


@pytest.mark.parametrize("levels", [4, 8, 16])
def test_a_shadow_is_read_in_the_tables_place(device, levels):
    """As a table with the shadow's values, and the gradient is the table's, in its precision."""
    layout = GridLayout(levels=levels, log2_table=9, base_resolution=4, finest_resolution=30)
    tensors, grads, x = network(layout, 24), cotangents(200), points(layout, 200, margin=2e-3)
    shadow = tensors[0].half()
    want = run(reference.field, x, [shadow.double(), *tensors[1:]], layout, grads)
    got = run(field, x, tensors, layout, grads, device, torch.float32, shadow=shadow.to(device))
    for name, g, w in zip(NAMES, got, want, strict=True):
        assert g.dtype == torch.float32 and relative_error(g, w) < 2e-5, name
    plain = run(field, x, tensors, layout, grads, device, torch.float32)
    assert 1e-5 < relative_error(plain[0], want[0]) < 1e-2, "without the shadow it is the table"
    near = [t.float().to(device) for t in (x, *tensors)]
    h = field_density(*near, layout, bound=1.0, level_weight=[1.0] * levels, shadow=shadow.to(device))
    assert relative_error(h, want[0]) < 2e-5


@pytest.mark.parametrize("levels, hidden", [(16, 64), (8, 32), (8, 21), (4, 16)])
@pytest.mark.parametrize("n", [1, 32, 1000])
def test_tensor_cores_are_as_exact_as_they_say(device, levels, hidden, n):
    """No hidden unit is near its kink. Where there are no such kernels the option changes nothing."""
    layout = GridLayout(levels=levels, log2_table=9, base_resolution=4, finest_resolution=30)
    tensors, x = network(layout, hidden), points(layout, 10 * n, margin=2e-3)
    z = reference.hashgrid_encode((x + 1) / 2, tensors[0], layout) @ tensors[1].T + tensors[2]
    x = x[z.abs().min(1).values > 1e-3][:n]
    assert len(x) == n
    grads = cotangents(n)
    plain = run(field, x, tensors, layout, grads, device, torch.float32)
    got = run(field, x, tensors, layout, grads, device, torch.float32, tensor_cores=True)
    want = run(reference.field, x, tensors, layout, grads)
    for name, g, w in zip(NAMES, got, want, strict=True):
        assert relative_error(g, w) < 1e-4, name
    kernels = device == "cuda" and levels in (8, 16) and torch.cuda.get_device_capability()[0] >= 8
    assert torch.equal(got[0], plain[0]) != kernels
