"""Sizes around 2^31: every op with fake tensors of that many elements, which take no memory; kernels of the CPU
reading sparse memory of that size; and what does not fit."""

import math
import mmap

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dreamfusion_ngp.ops import reference
from dreamfusion_ngp.ops.adam import adam_step
from dreamfusion_ngp.ops.antialias import antialias
from dreamfusion_ngp.ops.composite import composite
from dreamfusion_ngp.ops.field import field, field_density
from dreamfusion_ngp.ops.hashgrid import GridLayout, hashgrid_encode
from dreamfusion_ngp.ops.interpolate import interpolate
from dreamfusion_ngp.ops.march import march
from dreamfusion_ngp.ops.occupancy import cell_points, occupancy_update
from dreamfusion_ngp.ops.rasterise import rasterise
from dreamfusion_ngp.ops.shade import shade

LIMIT = 1 << 31
AROUND = [LIMIT - 1024, LIMIT - 1, LIMIT, LIMIT + 1024]
LAYOUT = GridLayout(levels=4, log2_table=8, finest_resolution=64)


@pytest.fixture
def fake(device):
    """-> empty(*shape, ...) on the device, where the tensors have shapes and nothing else."""
    with FakeTensorMode():
        yield lambda *shape, grad=False, **kind: torch.empty(shape, device=device, **kind).requires_grad_(grad)


@pytest.mark.parametrize("n", AROUND)
def test_hashgrid(fake, n):
    x, table = fake(n, 3, grad=True), fake(LAYOUT.entries, LAYOUT.features, grad=True)
    y = hashgrid_encode(x, table, LAYOUT)
    assert y.shape == (n, LAYOUT.width) and y.numel() == n * 8
    dx, dtable = torch.autograd.grad(y, (x, table), torch.ones_like(y), create_graph=True)
    assert dx.shape == x.shape and dtable.shape == table.shape
    again = torch.autograd.grad(dx, (x, table), torch.ones_like(dx))
    assert [g.shape for g in again] == [x.shape, table.shape]


def test_a_table_of_more_than_2_to_the_31_elements(fake):
    layout = GridLayout(levels=20, features=3, log2_table=26, base_resolution=512, finest_resolution=1 << 14)
    assert layout.entries * layout.features > LIMIT and layout.offset[-1] == 20 << 26
    x, table = fake(5, 3), fake(layout.entries, layout.features, grad=True)
    (gradient,) = torch.autograd.grad(hashgrid_encode(x, table, layout).sum(), table)
    assert gradient.shape == table.shape


def network(fake, grad=False):
    shapes = ((LAYOUT.entries, LAYOUT.features), (16, LAYOUT.width), (16,), (4, 16), (4,))
    return [fake(*shape, grad=grad) for shape in shapes]


@pytest.mark.parametrize("n", AROUND)
def test_field(fake, n):
    x, weights, settings = fake(n, 3), network(fake, grad=True), dict(bound=1.0, level_weight=[1.0] * 4)
    outputs = field(x, *weights, LAYOUT, **settings)
    assert [o.shape for o in outputs] == [(n,), (n, 3), (n, 3)]
    gradients = torch.autograd.grad(outputs, weights, [torch.ones_like(o) for o in outputs])
    assert [g.shape for g in gradients] == [w.shape for w in weights]
    assert field_density(x, *weights, LAYOUT, **settings).shape == (n,)


@pytest.mark.parametrize("n", AROUND)
def test_shade(fake, n):
    h, rgb, g = fake(n, grad=True), fake(n, 3, grad=True), fake(n, 3, grad=True)
    outputs = shade(h, rgb, g, fake(n, 3), fake(n, dtype=torch.int32), fake(1, 6), 4096, density="softplus")
    assert [o.shape for o in outputs] == [(n,), (n, 3), (n, 3)]
    gradients = torch.autograd.grad(outputs, (h, rgb, g), [torch.ones_like(o) for o in outputs])
    assert [d.shape for d in gradients] == [(n,), (n, 3), (n, 3)]


def composite_arguments(fake, n, rays):
    samples = [fake(n, grad=True), fake(n, 3, grad=True), fake(n, 3, grad=True)]
    return samples, (fake(n), fake(rays + 1, dtype=torch.int32), fake(rays, 3), 0.01)


@pytest.mark.parametrize(("n", "rays"), [(LIMIT - 1024, 64), (LIMIT - 1, 64), (64, LIMIT - 1024), (64, LIMIT + 1024)])
def test_composite(fake, n, rays):
    samples, others = composite_arguments(fake, n, rays)
    outputs = composite(*samples, *others)
    assert [o.shape for o in outputs] == [(rays, 3), (rays,), (rays,), (rays, 3), (rays,)]
    gradients = torch.autograd.grad(outputs, samples, [torch.ones_like(o) for o in outputs])
    assert [g.shape for g in gradients] == [s.shape for s in samples]


@pytest.mark.parametrize("n", [LIMIT, LIMIT + 1024])
def test_composite_refuses_rows_that_offsets_cannot_name(fake, n):
    samples, others = composite_arguments(fake, n, 64)
    with pytest.raises(ValueError, match=f"composite: at most {LIMIT - 1} rows, got {n}"):
        composite(*samples, *others)


def march_arguments(fake, rays, budget):
    settings = dict(resolution=8, bound=1.0, near=0.1, step=0.01, budget=budget, seed=0, stream=0)
    return (fake(rays, 3), fake(rays, 3), fake(64, dtype=torch.uint8)), settings


@pytest.mark.parametrize(("rays", "budget"), [(64, LIMIT - 1024), (64, LIMIT - 1), (LIMIT - 1024, 64), (LIMIT - 1, 64)])
def test_march(fake, rays, budget):
    tensors, settings = march_arguments(fake, rays, budget)
    samples = march(*tensors, **settings)
    assert [o.shape for o in samples] == [(budget,), (budget,), (budget, 3), (rays + 1,), (2,)]


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1024])
def test_march_refuses_what_32_bits_cannot_name(fake, size):
    tensors, settings = march_arguments(fake, 64, size)
    with pytest.raises(ValueError, match="march: budget must be in"):
        march(*tensors, **settings)
    tensors, settings = march_arguments(fake, size, 64)
    with pytest.raises(ValueError, match=f"march: at most {LIMIT - 1} rays, got {size}"):
        march(*tensors, **settings)


@pytest.mark.parametrize("n", AROUND)
def test_adam(fake, n):
    adam_step(*(fake(n) for _ in range(4)), fake(1, dtype=torch.int64), lr=0.1, beta1=0.9, beta2=0.99, eps=1e-8, step=1)


@pytest.mark.parametrize("n", AROUND)
def test_occupancy(fake, n):
    cells = fake(n, dtype=torch.int64)
    assert cell_points(cells, 1024, 1.0, 0, 0).shape == (n, 3)
    grid, bits = fake(1024**3), fake(1024**3 // 8, dtype=torch.uint8)
    occupancy_update(grid, bits, cells, fake(n), decay=0.95, threshold=0.1)


def sparse(*shape):
    """Zeros that take memory where something is written to them, and only there."""
    size = 4 * math.prod(shape)
    no_reserve = 0x4000  # Linux's MAP_NORESERVE, which Python has a name for from 3.13 on
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve)
    return torch.frombuffer(pages, dtype=torch.float32).view(shape)


def test_composite_reads_the_last_rows_of_2_to_the_31(simd):
    """The kernel itself, whose index into three numbers a row passes 2^32."""
    n = LIMIT - 1024
    sigma, rgb, normal, t = sparse(n), sparse(n, 3), sparse(n, 3), sparse(n)
    rows = slice(n - 64, n)
    for tensor in (sigma, rgb, normal, t):
        tensor[rows] = torch.rand(tensor[rows].shape, generator=torch.Generator().manual_seed(0))
    samples, rays_d, offsets = (sigma, rgb, normal, t), torch.eye(3)[:2], torch.tensor([0, 32, 64], dtype=torch.int32)
    far = composite(*samples, offsets + (n - 64), rays_d, 0.01)
    near = composite(*(tensor[rows].clone() for tensor in samples), offsets, rays_d, 0.01)
    assert all(torch.equal(a, b) and a.any() for a, b in zip(far, near, strict=True))


def test_hashgrid_reads_a_table_of_more_than_2_to_the_31_elements():
    """The kernel itself, in the last level of a table of 10 GB, of which a megabyte is there."""
    layout = GridLayout(levels=5, features=8, log2_table=26, base_resolution=512, finest_resolution=1 << 14)
    table = sparse(layout.entries, layout.features)
    x = torch.rand(64, 3, generator=torch.Generator().manual_seed(0))
    for row, _, _ in reference.corners_of(x, layout, 4):
        table[row] = torch.rand(64, 8, generator=torch.Generator().manual_seed(1))
    assert row.min() * layout.features > LIMIT
    y = hashgrid_encode(x, table, layout)
    assert y[:, -8:].all() and torch.allclose(y, reference.hashgrid_encode(x, table, layout), atol=1e-5)


@pytest.mark.parametrize("side", [1 << 15, (1 << 15) - 1])
def test_raster(fake, side):
    """Two views of 2^30 pixels: numbers of pixels, and of their channels, pass 2^31."""
    position, faces = fake(2, 100, 4, grad=True), fake(50, 3, dtype=torch.int32)
    fragments = rasterise(position, faces, (side, side))
    assert [v.shape for v in fragments] == [(2, side, side), (2, side, side), (2, side, side, 3)]
    out = interpolate(fake(1, 100, 5, grad=True), faces, fragments)
    assert antialias(out, position, faces, fragments).shape == (2, side, side, 5)


@pytest.mark.parametrize("count", [LIMIT, LIMIT + 1024])
def test_rasterise_refuses_what_32_bits_cannot_name(fake, count):
    with pytest.raises(ValueError, match=f"rasterise: at most {LIMIT - 1} vertices, got {count}"):
        rasterise(fake(1, count, 4), fake(1, 3, dtype=torch.int32), (8, 8))
    with pytest.raises(ValueError, match=f"rasterise: at most {LIMIT - 1} triangles, got {count}"):
        rasterise(fake(1, 3, 4), fake(count, 3, dtype=torch.int32), (8, 8))
