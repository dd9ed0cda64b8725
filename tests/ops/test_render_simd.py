"""Shading, compositing and marching in the vector loops of each instruction set, and the field's backward without the
rows that have no gradient: against float64, at lengths around a vector's and a block's, and beyond what is usual."""

import math

import pytest
import torch

from dreamfusion_ngp.ops import reference
from dreamfusion_ngp.ops.composite import composite
from dreamfusion_ngp.ops.field import field
from dreamfusion_ngp.ops.hashgrid import GridLayout
from dreamfusion_ngp.ops.march import march
from dreamfusion_ngp.ops.shade import shade

STEP = 0.05
VIEWS = torch.tensor([[2.0, 1, 0, 1, 0, 0], [0.3, 2, 1, 0.1, 0.9, 0], [-1.0, 1, 2, 0.2, 0.8, 1]])
LENGTHS = [1, 3, 4, 7, 8, 15, 16, 17, 63, 64, 65, 200, 3001]


def doubled(tensors):
    return [t.double() if t.is_floating_point() else t for t in tensors]


def with_gradients(op, leaves, rest, seed=5):
    """Outputs of op(*leaves, *rest), and the leaves' gradients for fixed random gradients of the outputs."""
    leaves = [v.detach().clone().requires_grad_() for v in leaves]
    outputs = op(*leaves, *rest)
    g = torch.Generator().manual_seed(seed)
    incoming = [torch.randn(v.shape, generator=g, dtype=torch.float64).to(v) for v in outputs]
    return [*(v.detach() for v in outputs), *torch.autograd.grad(outputs, leaves, incoming)]


def shade_problem(n):
    g = torch.Generator().manual_seed(n)
    h, rgb_raw, grad_h, x = (torch.randn(s, generator=g) for s in ((n,), (n, 3), (n, 3), (n, 3)))
    ray_id = (torch.arange(n) * 30 // n).int()  # ten rays in each of three views
    return [4 * h, 2 * rgb_raw, grad_h], [0.5 * x, ray_id]


@pytest.mark.parametrize("density", ["softplus", "exp"])
@pytest.mark.parametrize("n", LENGTHS)
def test_shade_matches_float64(simd, density, n):
    leaves, (x, ray_id) = shade_problem(n)

    def run(op, leaves, x):
        return with_gradients(lambda *a: op(*a, VIEWS, 10, density=density), leaves, [x, ray_id])

    want = run(reference.shade, doubled(leaves), x.double())
    for got, exact in zip(run(shade, leaves, x), want, strict=True):
        torch.testing.assert_close(got.double(), exact, atol=2e-6 * max(1.0, float(exact.abs().max())), rtol=2e-5)


@pytest.mark.parametrize("density", ["softplus", "exp"])
def test_exponentials_hold_over_the_whole_range(simd, density):
    """Every density and its slope, from where e^h is no more a normal float to far beyond the limit."""
    h = torch.cat([torch.linspace(-87, 14.9, 20000), torch.linspace(16, 700, 100), torch.tensor([-1e30])])
    n = len(h)
    rest = [torch.zeros(n, 3), torch.ones(n, 3), torch.zeros(n, 3), torch.zeros(n, dtype=torch.int32), VIEWS, 1]
    leaf = h.clone().requires_grad_()
    sigma, rgb, _ = shade(leaf, *rest, density=density)
    exact = h.double().requires_grad_()
    want = reference.shade(exact, *doubled(rest[:3]), *rest[3:], density=density)[0]
    (slope,) = torch.autograd.grad(sigma.sum(), leaf)
    (want_slope,) = torch.autograd.grad(want.sum(), exact)
    for got, true in ((sigma.detach(), want.detach()), (slope, want_slope)):
        torch.testing.assert_close(got.double(), true, rtol=1e-6, atol=1e-37)
    torch.testing.assert_close(rgb.detach(), torch.full((n, 3), 0.5))


def test_nan_and_infinity_stay_in_their_row(simd):
    leaves, rest = shade_problem(100)
    clean = shade(*leaves, *rest, VIEWS, 10, density="exp")
    leaves[0][7], leaves[1][40, 1], leaves[2][70, 2] = math.nan, math.inf, math.nan
    sigma, rgb, normal = shade(*leaves, *rest, VIEWS, 10, density="exp")
    assert (
        sigma[7].isnan()
        and rgb[40, 1]
        == shade(leaves[0], leaves[1].clamp(max=100), leaves[2], *rest, VIEWS, 10, density="exp")[1][40, 1]
    )
    assert normal[70].isnan().all()
    others = torch.ones(100, dtype=torch.bool)
    others[[7, 40, 70]] = False
    for got, want in zip((sigma, rgb, normal), clean, strict=True):
        assert torch.equal(got[others], want[others])


def composite_problem(lengths, scale=4.0, spare=0):
    g = torch.Generator().manual_seed(len(lengths))
    n, rays = sum(lengths) + spare, len(lengths)
    sigma = torch.rand(n, generator=g) ** 3 * scale
    rgb, normal, rays_d = (torch.randn(k, 3, generator=g) for k in (n, n, rays))
    normal, rays_d = (torch.nn.functional.normalize(v, dim=1) for v in (normal, rays_d))
    t = torch.cat([torch.arange(k) * STEP + 1 for k in (*lengths, spare)])
    return [sigma, rgb, normal], [t, torch.tensor([0, *lengths]).cumsum(0).int(), rays_d]


@pytest.mark.parametrize("scale", [4.0, 400.0], ids=["through", "ends early"])
@pytest.mark.parametrize("spare", [0, 5])
@pytest.mark.parametrize("lengths", [[n] for n in LENGTHS[:-1]] + [[0, 1, 17, 0, 5, 16, 0, 64, 3] * 30], ids=len)
def test_composite_matches_float64(simd, lengths, spare, scale):
    leaves, (t, offsets, rays_d) = composite_problem(lengths, scale, spare)
    got = with_gradients(composite, leaves, [t, offsets, rays_d, STEP])
    want = with_gradients(reference.composite, doubled(leaves), [t.double(), offsets, rays_d.double(), STEP])
    for a, b in zip(got, want, strict=True):
        largest = float(b.abs().max()) if b.numel() else 0.0  # gradients of the density are small
        torch.testing.assert_close(a.double(), b, atol=2e-5 * min(1.0, max(largest, 0.01)), rtol=2e-5)


def test_composite_of_a_ray_does_not_depend_on_its_place(simd):
    """Exponentials are taken a vector ahead: whatever lies before and behind a ray must not matter, to the bit."""
    leaves, (t, offsets, rays_d) = composite_problem([9] * 40)
    together = with_gradients(composite, leaves, [t, offsets, rays_d, STEP])[:5]
    for ray in (0, 1, 17, 39):
        rows = slice(9 * ray, 9 * ray + 9)
        alone = composite(
            *(v[rows] for v in leaves), t[rows], torch.tensor([0, 9], dtype=torch.int32), rays_d[ray : ray + 1], STEP
        )
        for a, b in zip(together, alone, strict=True):
            assert torch.equal(a[ray : ray + 1], b)


def test_same_bits_for_any_number_of_threads(simd, restore_threads):
    shaded, composited = shade_problem(20011), composite_problem([3, 0, 70, 21] * 300)
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(
            with_gradients(lambda *a: shade(*a, VIEWS, 10, density="exp"), *shaded)
            + with_gradients(lambda *a: composite(*a, STEP), *composited)
        )
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("budget", [1 << 16, 200])
@pytest.mark.parametrize("every", [1, 2, 3, 8, 16])
def test_march_through_many_stretches(every, budget):
    """Slabs of cells, one of `every`, across the rays: from one stretch of samples to more than are remembered."""
    r = 64
    cells = torch.zeros(r, r, r, dtype=torch.bool)
    cells[::every] = True
    bits = (cells.view(-1, 8).long() * 2 ** torch.arange(8)).sum(1).to(torch.uint8)
    down = torch.linspace(-0.9, 0.9, 40)
    origins = torch.stack([torch.full_like(down, -3), down, down / 3], 1)
    directions = torch.nn.functional.normalize(torch.stack([torch.ones(40), 0.1 * down, -0.2 * down], 1), dim=1)
    named = dict(resolution=r, bound=1.0, near=0.1, step=0.011, budget=budget, seed=3, stream=1)
    got = march(origins, directions, bits, **named)
    want = reference.march(origins, directions, bits, **named)
    assert int(got.info[1]) > 0 or budget > 200
    for name, a, b in zip(got._fields, got, want, strict=True):
        torch.testing.assert_close(a, b.to(a.dtype), msg=name, atol=1e-6, rtol=1e-6)


class Network:
    """A small field, its points, and gradients of its outputs."""

    LAYOUT = GridLayout(levels=4, log2_table=12, base_resolution=8, finest_resolution=64, interpolation="smoothstep")

    def __init__(self, n):
        g = torch.Generator().manual_seed(1)
        shapes = [(self.LAYOUT.entries, 2), (24, 8), (24,), (4, 24), (4,)]
        self.x = torch.rand(n, 3, generator=g) * 2 - 1
        self.parameters = [0.4 * torch.randn(s, generator=g) for s in shapes]
        self.incoming = [torch.randn(s, generator=g) for s in ((n,), (n, 3), (n, 3))]

    def gradients(self, rows=slice(None)) -> list[torch.Tensor]:
        leaves = [p.clone().requires_grad_() for p in self.parameters]
        outputs = field(self.x[rows], *leaves, self.LAYOUT, bound=1.0, level_weight=[1.0] * 4, blob=("cone", 3.0, 0.5))
        return list(torch.autograd.grad(outputs, leaves, [d[rows].contiguous() for d in self.incoming]))


@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 0.999])
@pytest.mark.parametrize("n", [1, 65, 5000])
def test_rows_without_gradient_are_left_out_exactly(simd, n, share):
    problem = Network(n)
    kept = torch.rand(n, generator=torch.Generator().manual_seed(2)) < share
    for d in problem.incoming:
        d[~kept] = 0
    for i, row in enumerate(torch.nonzero(kept).flatten()[::7]):  # one of the seven numbers is enough
        for d in (d for k, d in enumerate(problem.incoming) if k != i % 3):
            d[row] = 0
    for got, want in zip(problem.gradients(), problem.gradients(kept), strict=True):
        assert torch.equal(got, want)


def test_a_gradient_that_is_not_a_number_is_not_left_out(simd):
    problem = Network(500)
    for d in problem.incoming:
        d.zero_()
    problem.incoming[2][400, 1] = math.nan
    assert problem.gradients()[0].isnan().any()


def test_left_out_rows_do_not_depend_on_the_number_of_threads(simd, restore_threads):
    problem, found = Network(20011), []
    hidden = torch.rand(20011, generator=torch.Generator().manual_seed(3)) < 0.4
    for d in problem.incoming:
        d[hidden] = 0
    for threads in (1, 2, 3, 8):
        torch.set_num_threads(threads)
        found.append(problem.gradients())
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
