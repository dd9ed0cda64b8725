"""Composite: against the float64 reference, its derivatives, the properties of alpha compositing, its errors."""

import pytest
import torch
from torch.autograd import gradcheck

from dreamfusion_ngp.ops import reference
from dreamfusion_ngp.ops.composite import Composited, composite

OPS = torch.ops.dreamfusion_ngp
STEP = 0.05


def problem(lengths, seed=0, dtype=torch.float32, scale=4.0, spare=0):
    """sigma, rgb, normal, t, offsets, rays_d for rays with so many samples each, and `spare` rows of no ray."""
    generator = torch.Generator().manual_seed(seed)
    n, rays = sum(lengths) + spare, len(lengths)
    sigma = torch.rand(n, generator=generator, dtype=torch.float64) ** 3 * scale
    rgb, normal, rays_d = (torch.randn(k, 3, generator=generator, dtype=torch.float64) for k in (n, n, rays))
    t = torch.cat([torch.arange(k) * STEP + 1 for k in (*lengths, spare)]).double() if n else sigma
    normal, rays_d = (torch.nn.functional.normalize(v, dim=1) for v in (normal, rays_d))
    offsets = torch.tensor([0, *lengths]).cumsum(0).int()
    return [*(v.float().to(dtype) for v in (sigma, rgb, normal, t)), offsets, rays_d.float().to(dtype)]


def doubled(inputs):
    return [v.double() if v.is_floating_point() else v for v in inputs]


def run(op, inputs, device="cpu", count=None):
    """Outputs, and gradients for fixed random output gradients."""
    tensors = [v.to(device) for v in inputs]
    leaves = [v.clone().requires_grad_() for v in tensors[:3]]
    outputs = op(*leaves, *tensors[3:], STEP, None if count is None else count.to(device))
    generator = torch.Generator().manual_seed(99)
    incoming = [torch.randn(v.shape, generator=generator, dtype=torch.float64).to(v) for v in outputs]
    return [*(v.detach() for v in outputs), *torch.autograd.grad(outputs, leaves, incoming, materialize_grads=True)]


def assert_close(got, want, tolerance):
    """Within `tolerance` of each number, or of the largest where that is below 1: gradients of the density are small.
    But 1 - exp(-x) of a small x has the rounding of 1."""
    for a, b in zip(got, want, strict=True):
        largest = float(b.abs().max()) if b.numel() else 0.0
        atol = tolerance * min(1.0, max(largest, 0.01))
        torch.testing.assert_close(a.cpu().double(), b.double(), atol=atol, rtol=tolerance)


LENGTHS = [[], [0], [1], [0, 0, 3, 0], [7, 1, 0, 33, 129], [5] * 300]


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_matches_the_reference(device, lengths):
    inputs = problem(lengths, 1)
    want = run(reference.composite, doubled(inputs))
    assert_close(run(composite, inputs, device), want, 1e-5)
    assert_close(run(composite, doubled(inputs)), want, 1e-12)


def test_matches_the_reference_where_rays_end_early(device):
    inputs = problem([40] * 50, 2, scale=400.0)
    want = run(reference.composite, doubled(inputs))
    after = torch.exp(-inputs[0].double() * STEP).view(50, 40).cumprod(1)
    assert (after < 1e-4).any(1).all(), "every ray must end"
    assert ((after * 1e4).log().abs() > 1e-5).all(), "none of them at the limit itself"
    assert_close(run(composite, inputs, device), want, 2e-5)
    assert_close(run(composite, doubled(inputs)), want, 1e-12)
    behind = (torch.cat([torch.ones(50, 1), after[:, :-1]], 1) < 1e-4).view(-1)
    for gradient in run(composite, inputs, device)[5:]:
        assert not gradient.cpu()[behind].any() and gradient.cpu()[~behind].any()


@pytest.mark.parametrize("count", [0, 1, 50, 174, 175, 1000])
def test_count_and_spare_rows(device, count):
    """Rows behind `count`, and rows of no ray, do not matter and get zero gradients."""
    inputs = problem([30, 100, 40], 3, spare=5)
    for v in inputs[:4]:
        v[min(count, 170) :] = float("nan")
    counter = torch.tensor([count])
    got = run(composite, inputs, device, counter)
    clean = [v.clone() for v in inputs]
    for v in clean[:4]:
        v[min(count, 170) :] = 0.0
    want = run(reference.composite, doubled(clean), count=counter)
    assert_close(got, want, 1e-5)
    assert all(not v[min(count, 170) :].any() for v in got[5:])


@pytest.fixture
def filled_memory():
    """What nobody has written to is NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("part", [(0, 1), (1, 3), (2, 2), (3, 3)])
def test_offsets_may_be_those_of_a_few_of_the_rays(device, filled_memory, part):
    """Rows of the other rays, before and behind, get zero gradients."""
    first, last = part
    inputs = problem([30, 100, 40], 18, spare=5)
    inputs[4:] = inputs[4][first : last + 1], inputs[5][first:last]
    want = run(reference.composite, doubled(inputs))
    assert_close(run(composite, inputs, device), want, 1e-5)
    assert_close(run(composite, doubled(inputs)), want, 1e-12)


def test_gradcheck():
    inputs = problem([6, 0, 1, 9], 4, torch.float64)
    leaves = [v.requires_grad_() for v in inputs[:3]]

    def outputs(*v):
        c = composite(*v, *inputs[3:], STEP)
        return c.rgb, c.opacity, c.depth, c.normal

    assert gradcheck(outputs, leaves, atol=1e-8)


def test_gradcheck_of_the_orientation_term():
    """Its weights pass no gradient: checked by the normal, with sigma held; and sigma's gradient is zero."""
    sigma, rgb, normal, *rest = problem([6, 0, 1, 9], 5, torch.float64)
    assert gradcheck(lambda n: composite(sigma, rgb, n, *rest, STEP).orient, (normal.requires_grad_(),), atol=1e-8)
    (gradient,) = torch.autograd.grad(composite(sigma.requires_grad_(), rgb, normal, *rest, STEP).orient.sum(), sigma)
    assert not gradient.any()


def test_opacity_is_one_minus_the_transmittance(device):
    lengths = [20] * 30
    inputs = problem(lengths, 6)
    got = composite(*(v.to(device) for v in inputs), STEP)
    want = 1 - torch.exp(-inputs[0].view(30, 20).sum(1) * STEP)
    torch.testing.assert_close(got.opacity.cpu(), want)


def test_weights_add_up_to_the_opacity(device):
    sigma, _, normal, t, *rest = (v.to(device) for v in problem([50] * 20, 7, scale=100.0))
    got = composite(sigma, torch.ones_like(normal), normal, torch.full_like(t, 3.0), *rest, STEP)
    torch.testing.assert_close(got.rgb, got.opacity[:, None].expand(-1, 3))
    torch.testing.assert_close(got.depth, 3 * got.opacity)
    assert (got.opacity <= 1 + 1e-6).all() and (got.opacity > 0.99).all()


def test_an_opaque_first_sample_hides_the_rest(device):
    inputs = problem([10] * 4, 8)
    inputs[0].view(4, 10)[:, 0] = 1e6
    inputs[0].view(4, 10)[1, 0] = float("inf")
    got = run(composite, inputs, device)
    c = Composited(*(v.cpu() for v in got[:5]))
    assert torch.equal(c.rgb, inputs[1].view(4, 10, 3)[:, 0]) and torch.equal(c.opacity, torch.ones(4))
    assert torch.equal(c.depth, inputs[3].view(4, 10)[:, 0])
    assert all(v.isfinite().all() for v in got)
    for gradient in got[5:]:
        assert not gradient.cpu().view(4, 10, -1)[:, 1:].any()


def test_empty_space_changes_nothing():
    """Samples of zero density may stand anywhere; the order of the others is what counts."""
    inputs = problem([12], 9)
    order = torch.tensor([5, 0, 1, 2, 6, 3, 4, 7, 8, 9, 10, 11])
    inputs[0][5:7] = 0.0
    moved = [v[order] for v in inputs[:4]] + inputs[4:]
    assert_close(composite(*moved, STEP), composite(*inputs, STEP), 1e-6)
    inputs[0][5:7] = 1.0
    moved[0] = inputs[0][order]
    assert not torch.allclose(composite(*moved, STEP).rgb, composite(*inputs, STEP).rgb, atol=1e-3)


def test_rays_do_not_mix():
    """Permuting whole rays permutes the results, bit for bit."""
    inputs = problem([15] * 40, 10)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    moved = [v.view(40, 15, -1)[order].reshape(v.shape) for v in inputs[:4]] + [inputs[4], inputs[5][order]]
    for a, b in zip(composite(*moved, STEP), composite(*inputs, STEP), strict=True):
        assert torch.equal(a, b[order])


def test_finer_steps_agree_with_coarse_ones():
    """Density times length is what counts: two half steps are one step."""
    coarse = problem([16] * 10, 11)
    fine = [v.repeat_interleave(2, 0) for v in coarse[:4]] + [coarse[4] * 2, coarse[5]]
    assert_close(composite(*fine, STEP / 2), composite(*coarse, STEP), 1e-5)


def test_orientation_term_counts_surfaces_that_face_away():
    sigma, rgb, _, t, offsets, rays_d = problem([3, 3], 12)
    towards = -rays_d.repeat_interleave(3, 0)
    assert not composite(sigma, rgb, towards, t, offsets, rays_d, STEP).orient.any()
    away = composite(sigma, rgb, -towards, t, offsets, rays_d, STEP)
    torch.testing.assert_close(away.orient, away.opacity)


def test_same_bits_for_any_number_of_threads(restore_threads):
    inputs = problem([17, 0, 60, 3] * 300, 13, scale=60.0)
    results = []
    for threads in (1, 2, 3, 8, 8):
        torch.set_num_threads(threads)
        results.append(run(composite, inputs))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_takes_tensors_that_are_not_contiguous(device):
    inputs = problem([9, 4, 20], 14)
    apart = [torch.stack([v, v * float("nan") if v.is_floating_point() else -v], -1)[..., 0] for v in inputs]
    assert not any(v.is_contiguous() for v in apart)
    assert_close(run(composite, apart, device), [v.cpu() for v in run(composite, inputs, device)], 0)


def test_offsets_that_lie_do_not_reach_outside(device):
    inputs = problem([5, 5], 15)
    for lie in ([-7, 5, 900], [0, 900, 10], [8, 2, 10]):
        inputs[4] = torch.tensor(lie, dtype=torch.int32)
        assert composite(*(v.to(device) for v in inputs), STEP).opacity.isfinite().all()


def test_second_differentiation_is_refused():
    inputs = problem([4], 16)
    leaf = inputs[1].requires_grad_()
    (gradient,) = torch.autograd.grad(composite(*inputs, STEP).rgb.square().sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="composite: differentiable once"):
        gradient.sum().backward()


@pytest.mark.parametrize(
    "change, error, name",
    [
        (dict(sigma=torch.zeros(4, 1)), ValueError, "sigma"),
        (dict(sigma=torch.zeros(4, dtype=torch.bfloat16)), TypeError, "sigma"),
        (dict(rgb=torch.zeros(4, 4)), ValueError, "rgb"),
        (dict(normal=torch.zeros(3, 3)), ValueError, "normal"),
        (dict(t=torch.zeros(4, 1)), ValueError, "t"),
        (dict(t=torch.zeros(4, dtype=torch.float64)), TypeError, "t"),
        (dict(offsets=torch.zeros(2, dtype=torch.int32)), ValueError, "offsets"),
        (dict(offsets=torch.zeros(3, dtype=torch.int64)), TypeError, "offsets"),
        (dict(rays_d=torch.zeros(2, 2)), ValueError, "rays_d"),
        (dict(rays_d=torch.zeros(2, 3, device="meta")), ValueError, "rays_d"),
        (dict(step=-0.1), ValueError, "step"),
        (dict(count=4), TypeError, "count"),
    ],
)
def test_errors_name_the_argument(change, error, name):
    arguments = dict(
        sigma=torch.zeros(4),
        rgb=torch.zeros(4, 3),
        normal=torch.zeros(4, 3),
        t=torch.zeros(4),
        offsets=torch.zeros(3, dtype=torch.int32),
        rays_d=torch.zeros(2, 3),
        step=0.1,
    )
    with pytest.raises(error, match=f"composite: {name} "):
        composite(**arguments | change)


def test_opcheck(device):
    inputs = [v.to(device) for v in problem([3, 4], 17)]
    count = torch.tensor([6], device=device)
    for n in (None, count):
        torch.library.opcheck(OPS.composite.default, (*[v.requires_grad_() for v in inputs[:3]], *inputs[3:], n, STEP))
    inputs = [v.detach() for v in inputs]
    outputs = [v.detach() for v in composite(*inputs, STEP)]
    torch.library.opcheck(
        OPS.composite_backward.default, (*[torch.ones_like(v) for v in outputs], *outputs[:4], *inputs, count, STEP)
    )
