"""Occupancy grid: against the reference, what NaN and emptiness may not do, and pictures with it and without it."""

import pytest
import torch

from dreamfusion_ngp.ops import reference
from dreamfusion_ngp.ops.composite import composite
from dreamfusion_ngp.ops.march import march
from dreamfusion_ngp.ops.occupancy import cell_points, occupancy_update

OPS = torch.ops.dreamfusion_ngp
NAN, INF = float("nan"), float("inf")


def state(resolution, seed=0, device="cpu"):
    generator = torch.Generator().manual_seed(seed)
    grid = torch.rand(resolution**3, generator=generator) ** 8
    return grid.to(device), torch.zeros(resolution**3 // 8, dtype=torch.uint8, device=device)


def update(grid, bits, cells, sigma, decay=0.95, threshold=0.01, op=occupancy_update):
    cells, sigma = (torch.as_tensor(v, device=grid.device) for v in (cells, sigma))
    op(grid, bits, cells.long(), sigma.float(), decay=decay, threshold=threshold)
    return reference.unpack_bits(bits)


@pytest.mark.parametrize("resolution", [4, 8, 20, 64])
@pytest.mark.parametrize("listed", [0, 1, 333])
@pytest.mark.parametrize("threshold", [0.0, 0.01, 5.0])
def test_matches_the_reference(device, resolution, listed, threshold):
    generator = torch.Generator().manual_seed(1)
    cells = torch.randint(-3, resolution**3 + 3, (listed,), generator=generator)  # some outside, some twice
    sigma = torch.randn(listed, generator=generator)
    sigma[::7], sigma[3::11], sigma[5::13] = NAN, INF, -INF
    grid, bits = state(resolution, 2, device)
    want_grid, want_bits = state(resolution, 2)
    for _ in range(3):
        update(grid, bits, cells.to(device), sigma.to(device), threshold=threshold)
        update(want_grid, want_bits, cells, sigma, threshold=threshold, op=reference.occupancy_update)
        assert torch.equal(grid.cpu(), want_grid) and torch.equal(bits.cpu(), want_bits)
    assert bits.any()


def test_bits_are_where_march_looks(device):
    grid, bits = torch.zeros(512, device=device), torch.zeros(64, dtype=torch.uint8, device=device)
    cell = (3 * 8 + 5) * 8 + 6
    assert update(grid, bits, [cell], [2.0]).nonzero().tolist() == [[cell]]
    point = cell_points(torch.tensor([cell], device=device), 8, 1.0, -1, 0)
    torch.testing.assert_close(point.cpu(), torch.tensor([[3.5, 5.5, 6.5]]) / 4 - 1)
    plane, up = (torch.tensor([v], device=device) for v in ([1.0, 1, 0], [0.0, 0, 1]))
    along_z = march(
        point * plane, up, bits, resolution=8, bound=1.0, near=0.0, step=0.01, budget=1000, seed=-1, stream=0
    )
    z = along_z.x[: int(along_z.info[0]), 2].tolist()
    assert len(z) == 25 and [min(z), max(z)] == pytest.approx([0.5, 0.75], abs=0.011)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_non_finite_density_is_never_stored(device, bad):
    grid, bits = state(8, 3, device)
    healthy, ok_bits = state(8, 3, device)
    cells = torch.arange(512)
    sigma = torch.rand(512, generator=torch.Generator().manual_seed(4)) ** 6
    broken = sigma.clone()
    broken[10:20] = bad
    occupied = update(grid, bits, cells, broken, threshold=0.5)
    assert grid.isfinite().all() and (grid >= 0).all() and occupied[10:20].all(), "unknown counts as occupied"
    assert not occupied.all()
    update(healthy, ok_bits, torch.cat([cells[:10], cells[20:]]), torch.cat([sigma[:10], sigma[20:]]), threshold=0.5)
    assert torch.equal(grid, healthy), "the cells keep their values"
    for _ in range(100):
        update(grid, bits, cells, sigma, threshold=0.5)
        update(healthy, ok_bits, cells, sigma, threshold=0.5)
    assert torch.equal(grid, healthy) and torch.equal(bits, ok_bits), "no trace is left"
    assert not reference.unpack_bits(bits)[10:20].all()


def test_a_mark_and_a_value_in_one_update_both_count(device):
    for order in ([0, 1], [1, 0]):
        grid, bits = torch.zeros(64, device=device), torch.zeros(8, dtype=torch.uint8, device=device)
        cells, sigma = torch.tensor([5, 5]), torch.tensor([0.25, NAN])
        assert update(grid, bits, cells[order], sigma[order], threshold=9.0)[5]
        assert grid.tolist() == [0.25 if i == 5 else 0.0 for i in range(64)]


def test_a_damaged_grid_heals(device):
    grid, bits = state(8, 5, device)
    grid[:4] = torch.tensor([NAN, INF, -INF, -1.0], device=device)
    update(grid, bits, [0], [0.5])
    assert grid[:4].tolist() == [0.5, 0.0, 0.0, 0.0]
    assert not torch.signbit(grid).any()


def test_an_empty_field_leaves_every_cell_open(device):
    """An all-zero field must not empty the grid for ever: what is never looked at can never grow."""
    grid, bits = torch.zeros(4096, device=device), torch.zeros(512, dtype=torch.uint8, device=device)
    for _ in range(3):
        assert update(grid, bits, torch.arange(4096), torch.zeros(4096)).all()
    assert update(grid, bits, [7], [1.0]).sum() == 1, "4096 * 1/4096 is enough"
    for _ in range(600):
        occupied = update(grid, bits, torch.arange(4096), torch.zeros(4096), decay=0.5)
    assert occupied.all() and not grid.any()


def test_the_floor_is_one_cell_in_4096(device):
    cells = 20**3  # 8000: one occupied cell is too few, two are enough
    grid, bits = torch.zeros(cells, device=device), torch.zeros(cells // 8, dtype=torch.uint8, device=device)
    assert update(grid, bits, [7], [1.0]).all()
    assert update(grid, bits, [8], [1.0]).sum() == 2


def test_threshold_is_the_smaller_of_the_two(device):
    sigma = torch.linspace(0, 1, 512)
    grid, bits = torch.zeros(512, device=device), torch.zeros(64, dtype=torch.uint8, device=device)
    assert torch.equal(update(grid, bits, torch.arange(512), sigma, threshold=0.2).cpu(), sigma > 0.2)
    assert torch.equal(update(grid, bits, torch.arange(512), sigma, threshold=0.9).cpu(), sigma > 0.5)


def test_uniform_density_is_occupied(device):
    """No value is above its own mean; the floor opens the grid."""
    grid, bits = torch.zeros(512, device=device), torch.zeros(64, dtype=torch.uint8, device=device)
    assert update(grid, bits, torch.arange(512), torch.full((512,), 1e-3)).all()


def test_decay_forgets(device):
    grid, bits = torch.zeros(4096, device=device), torch.zeros(512, dtype=torch.uint8, device=device)
    update(grid, bits, torch.arange(64), torch.ones(64))
    assert update(grid, bits, [], [], decay=0.5)[:64].all() and grid[0] == 0.5
    update(grid, bits, torch.arange(1000, 1100), torch.ones(100), decay=0.5)
    for _ in range(7):
        occupied = update(grid, bits, torch.arange(1000, 1100), torch.ones(100), decay=0.5)
    assert not occupied[:64].any() and occupied[1000:1100].all()


def test_order_of_the_cells_does_not_matter(device):
    generator = torch.Generator().manual_seed(6)
    cells, sigma = torch.randint(0, 512, (5000,), generator=generator), torch.randn(5000, generator=generator)
    sigma[::50] = NAN
    results = []
    for order in (torch.arange(5000), torch.randperm(5000, generator=generator)):
        grid, bits = state(8, 7, device)
        update(grid, bits, cells[order].to(device), sigma[order].to(device))
        results.append((grid, bits))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_same_bits_for_any_number_of_threads(restore_threads):
    cells, sigma = torch.arange(0, 32**3, 3), torch.rand(32**3 // 3 + 1, generator=torch.Generator().manual_seed(8))
    results = []
    for threads in (1, 2, 3, 8, 8):
        torch.set_num_threads(threads)
        grid, bits = state(32, 9)
        update(grid, bits, cells, sigma, threshold=1.0)
        results.append((grid, bits, cell_points(cells, 32, 1.0, 3, 4)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_cell_points(device):
    cells = torch.randint(0, 24**3, (4000,), generator=torch.Generator().manual_seed(10)).to(device)
    for seed in (-1, 0, 2**62):
        x = cell_points(cells, 24, 0.75, seed, 5)
        torch.testing.assert_close(x.cpu(), reference.cell_points(cells.cpu(), 24, 0.75, seed, 5), atol=1e-6, rtol=1e-6)
        index = ((x + 0.75) / 1.5 * 24 - 1e-4).ceil().clamp(1, 24).long() - 1
        inside = (index[:, 0] * 24 + index[:, 1]) * 24 + index[:, 2] == cells
        assert inside.float().mean() > 0.99  # but for the points at a face
    jitter = (cell_points(cells, 24, 0.75, 1, 5) + 0.75) / 1.5 * 24 % 1
    assert (jitter.mean(0) - 0.5).abs().max() < 0.02 and jitter[:, 0].std().item() == pytest.approx(12**-0.5, abs=0.01)
    assert not torch.equal(cell_points(cells, 24, 0.75, 1, 5), cell_points(cells, 24, 0.75, 1, 6))
    assert cell_points(cells[:0], 24, 0.75, 1, 5).shape == (0, 3)


def density(x):
    """A soft ball and a smaller, soft box."""
    ball, box = x - torch.tensor([0.1, 0.0, -0.2], device=x.device), x - torch.tensor([-0.3, 0.2, 0.3], device=x.device)
    return 40 * torch.sigmoid(60 * (0.3 - ball.norm(dim=1))) + 60 * torch.sigmoid(60 * (0.1 - box.abs().amax(1)))


def picture(bits, resolution, device):
    """(rgb, opacity, depth) of 32 x 32 rays along -z, coloured by position, and how many samples it took."""
    axis = (torch.arange(32, device=device) + 0.5) / 16 - 1
    x, y = torch.meshgrid(axis, axis, indexing="xy")
    rays_o = torch.stack([x, y, torch.full_like(x, 2.0)], -1).view(-1, 3)
    rays_d = torch.tensor([0.0, 0, -1], device=device).expand_as(rays_o)
    settings = dict(bound=1.0, near=0.0, step=0.01, budget=1 << 18, seed=3, stream=0)
    s = march(rays_o, rays_d, bits, resolution=resolution, **settings)
    c = composite(density(s.x), s.x.sigmoid(), torch.zeros_like(s.x), s.t, s.offsets, rays_d, 0.01, s.count)
    return torch.cat([c.rgb, c.opacity[:, None], c.depth[:, None]], 1), s.info.tolist()


def test_pictures_with_the_grid_and_without_agree(device):
    """torch-ngp issue 105: an occupancy grid that hides parts of the object is seen here."""
    resolution = 32
    grid = torch.zeros(resolution**3, device=device)
    bits = torch.full((resolution**3 // 8,), 255, dtype=torch.uint8, device=device)
    dense, (dense_samples, dropped) = picture(bits, resolution, device)
    for step in range(16):
        cells = torch.arange(step % 2, resolution**3, 2, device=device)
        update(grid, bits, cells, density(cell_points(cells, resolution, 1.0, 1, step)), threshold=0.1)
    sparse, (sparse_samples, _) = picture(bits, resolution, device)
    assert dropped == 0 and 1000 < sparse_samples < dense_samples / 8
    assert (dense[:, 3] > 0.9).sum() > 80, "there is something to see"
    assert (sparse - dense).abs().max() < 0.03 and (sparse - dense).abs().mean() < 1e-3


def test_changed_tensors_are_known_to_autograd():
    grid, bits = state(8)
    before = grid._version, bits._version
    update(grid, bits, [1], [1.0])
    assert grid._version > before[0] and bits._version > before[1]


@pytest.mark.parametrize(
    "change, error, name",
    [
        (dict(grid=torch.zeros(8, 8, 8)), ValueError, "grid"),
        (dict(grid=torch.zeros(512, dtype=torch.float64)), TypeError, "grid"),
        (dict(grid=torch.zeros(500)), ValueError, "grid|resolution"),
        (dict(grid=torch.zeros(1024)[::2]), ValueError, "grid"),
        (dict(bitfield=torch.zeros(65, dtype=torch.uint8)), ValueError, "bitfield"),
        (dict(bitfield=torch.zeros(128, dtype=torch.uint8)[::2]), ValueError, "bitfield"),
        (dict(bitfield=torch.zeros(64, dtype=torch.bool)), TypeError, "bitfield"),
        (dict(cells=torch.zeros(3, dtype=torch.int32)), TypeError, "cells"),
        (dict(sigma=torch.zeros(4)), ValueError, "sigma"),
        (dict(sigma=torch.zeros(3, device="meta")), ValueError, "sigma"),
        (dict(decay=1.5), ValueError, "decay"),
        (dict(threshold=-1.0), ValueError, "threshold"),
        *[({name: bad}, ValueError, name) for bad in (NAN, INF, -INF) for name in ("threshold", "decay")],
    ],
)
def test_errors_name_the_argument(change, error, name):
    bits, cells = torch.zeros(64, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)
    arguments = dict(grid=torch.zeros(512), bitfield=bits, cells=cells, sigma=torch.zeros(3), decay=0.9, threshold=0.1)
    with pytest.raises(error, match=f"occupancy_update: ({name}) "):
        occupancy_update(**arguments | change)


def test_cell_points_errors_name_the_argument():
    cells = torch.zeros(3, dtype=torch.int64)
    for arguments, error, name in [
        ((cells.int(), 8, 1.0), TypeError, "cells"),
        ((cells, 9, 1.0), ValueError, "resolution"),
        ((cells, 8, 0.0), ValueError, "bound"),
    ]:
        with pytest.raises(error, match=f"cell_points: {name} "):
            cell_points(*arguments, 0, 0)


def test_opcheck(device):
    grid, bits = state(8, 11, device)
    cells, sigma = torch.tensor([3, 9, 3], device=device), torch.tensor([0.5, NAN, 0.1], device=device)
    torch.library.opcheck(OPS.occupancy_update.default, (grid, bits, cells, sigma, 0.9, 0.01))
    torch.library.opcheck(OPS.cell_points.default, (cells, 8, 1.0, 1, 2))
