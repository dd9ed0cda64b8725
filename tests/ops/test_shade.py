"""Shade: against the float64 reference, its derivatives, what the shading modes promise, extreme inputs, its errors."""

import pytest
import torch
from torch.autograd import gradcheck

from dreamfusion_ngp.ops import reference
from dreamfusion_ngp.ops.shade import shade

OPS = torch.ops.dreamfusion_ngp
ALBEDO, LAMBERTIAN, TEXTURELESS = [2.0, 1, 0, 1, 0, 0], [0.3, 2, 1, 0.1, 0.9, 0], [-1.0, 1, 2, 0.2, 0.8, 1]
RAYS_PER_VIEW = 10


def problem(n, seed=0, dtype=torch.float32):
    """h, rgb_raw, grad_h, x, ray_id, view: three views in the three shading modes."""
    generator = torch.Generator().manual_seed(seed)
    h, rgb_raw, grad_h = (torch.randn(k, generator=generator, dtype=torch.float64) for k in ((n,), (n, 3), (n, 3)))
    h, rgb_raw = 3 * h, 2 * rgb_raw
    x = torch.rand(n, 3, generator=generator, dtype=torch.float64) - 0.5
    ray_id = (torch.arange(n) * 3 * RAYS_PER_VIEW // max(n, 1)).int()
    floats = [v.float().to(dtype) for v in (h, rgb_raw, grad_h, x)]
    return [*floats, ray_id, torch.tensor([ALBEDO, LAMBERTIAN, TEXTURELESS])]


def run(op, inputs, device="cpu", **options):
    """Outputs, and gradients for fixed random output gradients."""
    tensors = [v.to(device) for v in inputs]
    leaves = [v.clone().requires_grad_() for v in tensors[:3]]
    outputs = op(*leaves, *tensors[3:], RAYS_PER_VIEW, **{"density": "softplus"} | options)
    generator = torch.Generator().manual_seed(99)
    incoming = [torch.randn(v.shape, generator=generator, dtype=torch.float64).to(v) for v in outputs]
    return [*(v.detach() for v in outputs), *torch.autograd.grad(outputs, leaves, incoming)]


def assert_close(got, want, tolerance):
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.cpu().double(), b.double(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("density", ["softplus", "exp"])
@pytest.mark.parametrize("n", [0, 1, 7, 1000, 3001])
def test_matches_the_reference(device, density, n):
    exact = [v.double() if v.is_floating_point() else v for v in problem(n)[:5]] + problem(n)[5:]
    want = run(reference.shade, exact, density=density)
    assert_close(run(shade, problem(n), device, density=density), want, 2e-5)
    assert_close(run(shade, exact, density=density), want, 1e-12)


@pytest.mark.parametrize("count", [0, 1, 500, 999, 1000, 5000])
def test_rows_from_count_on_are_zero(device, count):
    inputs = problem(1000, 1)
    for v in inputs[:4]:
        v[count:] = float("nan")  # what lies there must not matter
    counter = torch.tensor([count])
    got = run(shade, inputs, device, count=counter.to(device))
    live = [v[:count] for v in inputs[:5]] + inputs[5:]
    for a, b in zip(got[:3], run(shade, live)[:3], strict=True):
        torch.testing.assert_close(a[:count].cpu(), b, atol=1e-6, rtol=1e-5)
    assert all(not v[count:].any() for v in got) and all(v.isfinite().all() for v in got)


@pytest.mark.parametrize("density", ["softplus", "exp"])
def test_gradcheck(density):
    h, rgb_raw, grad_h, *rest = problem(24, 2, torch.float64)
    leaves = [v.requires_grad_() for v in (h, rgb_raw, grad_h)]
    assert gradcheck(lambda *v: shade(*v, *rest, RAYS_PER_VIEW, density=density, eps=0.3), leaves, atol=1e-7, rtol=1e-5)


def test_gradcheck_beyond_the_limit_of_exp():
    """Value and gradient are those of one function, min(h, 15) included."""
    h = torch.tensor([14.0, 14.9, 15.1, 40.0], dtype=torch.float64, requires_grad=True)
    rest = [v[:4] for v in problem(4, 3, torch.float64)[1:5]]
    view = problem(4)[5]

    def logarithm(h):
        return shade(h, *rest, view, RAYS_PER_VIEW, density="exp")[0].log()

    assert gradcheck(logarithm, (h,))
    assert logarithm(h).tolist() == pytest.approx([14.0, 14.9, 15.0, 15.0])
    assert torch.autograd.grad(logarithm(h).sum(), h)[0].tolist() == pytest.approx([1, 1, 0, 0])


def one_mode(mode, light=None, n=200, seed=4):
    inputs = problem(n, seed)
    row = torch.tensor(mode)
    if light is not None:
        row[:3] = torch.tensor(light)
    inputs[5] = row.repeat(3, 1)
    return inputs


def test_albedo_does_not_depend_on_the_light():
    def colours(mode):
        return [shade(*one_mode(mode, light), RAYS_PER_VIEW, density="exp")[1] for light in ([5.0, 0, 0], [-3.0, 1, 2])]

    here, there = colours(ALBEDO)
    assert torch.equal(here, there)
    torch.testing.assert_close(here, one_mode(ALBEDO)[1].sigmoid())
    assert not torch.equal(*colours(LAMBERTIAN))


def test_textureless_ignores_the_colour():
    inputs = one_mode(TEXTURELESS)
    other = [inputs[0], torch.full_like(inputs[1], float("nan")), *inputs[2:]]
    white, same = (run(shade, v) for v in (inputs, other))
    assert torch.equal(white[1], same[1]) and not same[4].any() and same[4].isfinite().all()
    assert torch.equal(white[1][:, 0], white[1][:, 1]) and torch.equal(white[1][:, 0], white[1][:, 2])
    assert white[5].abs().sum() > 0, "the shape still learns"


def test_lambert():
    """A surface that faces the light, one at 60 degrees to it, one turned away."""
    grad_h = -torch.tensor([[0, 0, 1.0], [0, 0.75**0.5, 0.5], [0, 0, -1]]) * 1e4
    view = torch.tensor([[0.0, 0, 3, 0.1, 0.9, 0]])
    white = torch.full((3, 3), 50.0)
    zeros, ray_id = torch.zeros(3, 3), torch.zeros(3, dtype=torch.int32)
    _, rgb, normal = shade(torch.zeros(3), white, grad_h, zeros, ray_id, view, 1, density="exp")
    torch.testing.assert_close(normal, -grad_h / 1e4)
    torch.testing.assert_close(rgb[:, 0], torch.tensor([1.0, 0.1 + 0.45, 0.1]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("density", ["softplus", "exp"])
def test_extremes_are_finite(device, density):
    n = 60
    inputs = problem(n, 5)
    inputs[0][:40] = torch.tensor([1e4, -1e4, 88.0, -104.0]).repeat(10)
    inputs[1][20:50] = torch.tensor([1e4, -1e4, 0.0])
    inputs[2][::3] = 0.0
    inputs[2][1::6] = 1e15
    inputs[3][5] = inputs[5][0, :3]  # a sample in the light
    for value in run(shade, inputs, device, density=density):
        assert value.isfinite().all()
    _, _, normal, *_ = run(shade, inputs, device)
    assert not normal[::3].any() and (normal.square().sum(1) <= 1 + 1e-5).all()


@pytest.mark.parametrize("density", ["softplus", "exp"])
def test_nan_is_not_hidden(device, density):
    """A diverged field has to be seen where it is checked, not become a wall or empty space."""
    inputs = problem(6, 12)
    inputs[0][2], inputs[1][0, 1], inputs[2][4, 0] = (float("nan"),) * 3
    sigma, rgb, normal, d_h, *_ = run(shade, inputs, device, density=density)
    assert sigma.isnan().nonzero().tolist() == [[2]] and d_h.isnan().nonzero().tolist() == [[2]]
    assert rgb[0, 1].isnan() and normal[4].isnan().all()


def test_views_follow_the_rays_and_stay_in_range():
    inputs = problem(4, 6)
    inputs[4] = torch.tensor([0, 10, 25, 2**31 - 1], dtype=torch.int32)
    got = shade(*inputs, RAYS_PER_VIEW, density="softplus")[1]
    for i, view in enumerate([0, 1, 2, 2]):
        alone = [v[i : i + 1] for v in inputs[:4]] + [torch.zeros(1, dtype=torch.int32), inputs[5][view : view + 1]]
        assert torch.equal(got[i : i + 1], shade(*alone, RAYS_PER_VIEW, density="softplus")[1])


def test_same_bits_for_any_number_of_threads(restore_threads):
    results = []
    for threads in (1, 2, 3, 8, 8):
        torch.set_num_threads(threads)
        results.append(run(shade, problem(20000, 7)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_takes_tensors_that_are_not_contiguous(device):
    inputs = problem(300, 8)
    apart = [torch.stack([v, v * float("nan") if v.is_floating_point() else -v], -1)[..., 0] for v in inputs]
    assert not any(v.is_contiguous() for v in apart)
    assert_close(run(shade, apart, device), [v.cpu() for v in run(shade, inputs, device)], 0)


def test_expanded_gradients():
    """sum() hands down a gradient with stride zero."""
    inputs = problem(50, 9)
    leaf = inputs[0].clone().requires_grad_()
    shade(leaf, *inputs[1:], RAYS_PER_VIEW, density="exp")[0].sum().backward()
    torch.testing.assert_close(leaf.grad, inputs[0].exp())


def test_second_differentiation_is_refused():
    inputs = problem(5, 10)
    leaf = inputs[0].requires_grad_()
    (gradient,) = torch.autograd.grad(shade(*inputs, RAYS_PER_VIEW, density="exp")[0].sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="shade: differentiable once"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    "change, error, name",
    [
        (dict(h=torch.zeros(4, 1)), ValueError, "h"),
        (dict(h=torch.zeros(4, dtype=torch.float16)), TypeError, "h"),
        (dict(rgb_raw=torch.zeros(4, 4)), ValueError, "rgb_raw"),
        (dict(grad_h=torch.zeros(3, 3)), ValueError, "grad_h"),
        (dict(x=torch.zeros(4, 3, dtype=torch.float64)), TypeError, "x"),
        (dict(ray_id=torch.zeros(4, dtype=torch.int64)), TypeError, "ray_id"),
        (dict(view=torch.zeros(1, 5)), ValueError, "view"),
        (dict(view=torch.zeros(0, 6)), ValueError, "view"),
        (dict(view=torch.zeros(1, 6, device="meta")), ValueError, "view"),
        (dict(rays_per_view=0), ValueError, "rays_per_view"),
        (dict(density="relu"), ValueError, "density"),
        (dict(eps=0.0), ValueError, "eps"),
        (dict(count=torch.zeros(1, dtype=torch.int32)), TypeError, "count"),
        (dict(count=torch.zeros(2, dtype=torch.int64)), ValueError, "count"),
    ],
)
def test_errors_name_the_argument(change, error, name):
    arguments = dict(
        h=torch.zeros(4),
        rgb_raw=torch.zeros(4, 3),
        grad_h=torch.zeros(4, 3),
        x=torch.zeros(4, 3),
        ray_id=torch.zeros(4, dtype=torch.int32),
        view=torch.zeros(1, 6),
        rays_per_view=4,
        density="exp",
    )
    with pytest.raises(error, match=f"shade: {name} "):
        shade(**arguments | change)


def test_opcheck(device):
    inputs = [v.to(device) for v in problem(10, 11)]
    count = torch.tensor([8], device=device)
    leaves = [v.requires_grad_() for v in inputs[:3]]
    for n in (None, count):
        torch.library.opcheck(OPS.shade.default, (*leaves, *inputs[3:], n, RAYS_PER_VIEW, True, 0.01))
    incoming = [torch.ones(s, device=device) for s in ((10,), (10, 3), (10, 3))]
    inputs = [v.detach() for v in inputs]
    torch.library.opcheck(OPS.shade_backward.default, (*incoming, *inputs, count, RAYS_PER_VIEW, False, 0.01))
