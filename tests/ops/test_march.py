"""March: sample for sample against the reference, the budget, the edges of the scene, its errors."""

import itertools

import pytest
import torch

from dreamfusion_ngp.ops import reference
from dreamfusion_ngp.ops.march import Samples, march

OPS = torch.ops.dreamfusion_ngp
SETTINGS = dict(bound=0.75, near=0.05, step=0.02, budget=1 << 17, seed=7, stream=3)


def random_rays(n, seed=0, dtype=torch.float32):
    """Origins in and around the cube, directions of any kind: some rays hit, some miss, some point away."""
    generator = torch.Generator().manual_seed(seed)
    origins = (torch.rand(n, 3, generator=generator, dtype=torch.float64) * 2 - 1) * 1.6
    directions = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator, dtype=torch.float64), dim=1)
    towards = torch.nn.functional.normalize(-origins + 0.2 * directions, dim=1)
    directions = torch.where(torch.arange(n)[:, None] % 4 > 0, towards, directions)
    return origins.to(dtype), directions.to(dtype)


def edge_rays(bound, dtype=torch.float32):
    """Rays along the axes and the diagonals that start inside, outside, behind, on faces, edges and cell faces."""
    places = [-2.0, -bound, -bound / 2, 0.0, bound / 4, bound, 2.0]
    origins = torch.tensor(list(itertools.product(places, repeat=3)), dtype=dtype)
    choices = itertools.product([-1.0, -0.0, 0.0, 1e-30, 1.0], repeat=3)
    directions = torch.tensor([d for d in choices if any(abs(v) == 1 for v in d)], dtype=dtype)
    directions = directions / directions.square().sum(1, keepdim=True).sqrt()
    return origins.repeat_interleave(len(directions), 0), directions.repeat(len(origins), 1)


def random_bits(resolution, share, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return reference.pack_bits(torch.rand(resolution**3, generator=generator) < share)


def ball_bits(resolution, radius=0.6):
    axis = (torch.arange(resolution) + 0.5) / resolution * 2 - 1
    square = axis.square()
    return reference.pack_bits((square[:, None, None] + square[:, None] + square < radius**2).reshape(-1))


def assert_same(got, want):
    for name, a, b in zip(Samples._fields, got, want, strict=True):
        assert a.dtype == b.dtype and torch.equal(a.cpu(), b), name


def compare(device, rays, bits, resolution, **changes):
    """march on `device` is exactly the reference; returns what it found."""
    settings = SETTINGS | changes
    got = march(*(r.to(device) for r in rays), bits.to(device), resolution=resolution, **settings)
    assert_same(got, reference.march(*rays, bits, resolution=resolution, **settings))
    return got


@pytest.mark.parametrize(
    "resolution, share", [(4, 0.5), (8, 0.0), (8, 1.0), (20, 0.02), (20, 0.5), (64, 0.0005), (64, 0.05), (64, 0.97)]
)
@pytest.mark.parametrize("seed", [-1, 11])
def test_matches_the_reference_on_random_grids(device, resolution, share, seed):
    samples = compare(device, random_rays(257), random_bits(resolution, share), resolution, seed=seed)
    assert (int(samples.info[0]) == 0) == (share == 0.0)


@pytest.mark.parametrize("resolution", [32, 64, 128])
def test_matches_the_reference_on_solids(device, resolution):
    samples = compare(device, random_rays(600, 1), ball_bits(resolution), resolution, step=0.007)
    assert int(samples.info[0]) > 10000 and int(samples.info[1]) == 0


@pytest.mark.parametrize("step", [1.0, 0.1, 0.0013])
def test_matches_the_reference_for_any_step(device, step):
    compare(device, random_rays(60, 2), random_bits(16, 0.1, 5), 16, step=step, bound=1.3)


@pytest.mark.parametrize("resolution, share", [(4, 0.4), (16, 0.2), (16, 0.01), (32, 1.0)])
def test_matches_the_reference_on_edge_rays(device, resolution, share):
    rays = [r[1::3] for r in edge_rays(0.75)]
    samples = compare(device, rays, random_bits(resolution, share, 3), resolution, step=0.05)
    assert len(rays[0]) > 10000 and samples.x.isfinite().all()


def test_matches_the_reference_on_rays_that_graze_faces(device):
    """Such a ray crosses a face so slowly that rounding decides at which of many samples."""
    generator = torch.Generator().manual_seed(12)
    n = 4000
    face = torch.randint(-15, 16, (n,), generator=generator) * 0.75 / 16
    offset, slope = (torch.randn(n, generator=generator) * s for s in (3e-7, 5e-7))
    rays_o = torch.stack([torch.full((n,), -0.9), face + offset, torch.rand(n, generator=generator) - 0.5], 1)
    rays_d = torch.stack([torch.ones(n), slope, torch.zeros(n)], 1)
    samples = compare(device, (rays_o, rays_d), random_bits(32, 0.02, 13), 32, step=0.01)
    assert (samples.offsets.diff() > 0).float().mean() > 0.3


def test_matches_the_reference_in_float64():
    for rays in (random_rays(300, 3, torch.float64), [r[::50] for r in edge_rays(0.75, torch.float64)]):
        compare("cpu", rays, random_bits(32, 0.05), 32)


def test_unusable_rays_get_no_samples(device):
    inf, nan = float("inf"), float("nan")
    rays_o = torch.tensor([[0, 0, 0], [nan, 0, 0], [0, inf, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]], dtype=torch.float32)
    rays_d = torch.tensor([[0, 0, 1], [0, 0, 1], [0, 0, 1], [0, nan, 1], [0, -inf, 1], [0, 0, 0]], dtype=torch.float32)
    samples = compare(device, (rays_o, rays_d), torch.full((64,), 255, dtype=torch.uint8), 8)
    assert samples.offsets.diff().tolist() == [35, 0, 0, 0, 0, 0]  # from near = 0.05 to the face at 0.75


def test_rays_outside_behind_and_beside(device):
    rays_o = torch.tensor([[0, 0, 3], [0, 0, 3], [0, 0.76, 3], [0.75, 0, 0], [0.75, 0, 0], [0, 0, 0.75]])
    rays_d = torch.tensor([[0, 0, -1], [0, 0, 1], [0, 0, -1], [0, 1, 0], [1, 0, 0], [0, 0, -1]], dtype=torch.float32)
    full = torch.full((64,), 255, dtype=torch.uint8)
    settings = SETTINGS | dict(seed=-1, near=0.0)
    samples = march(rays_o.to(device), rays_d.to(device), full.to(device), resolution=8, **settings)
    counts = samples.offsets.diff().tolist()
    assert counts[3] > 0 and counts[:3] + counts[4:] == [75, 0, 0, 0, 75]
    assert samples.t[0].item() == pytest.approx(2.25 + 0.01) and samples.t[74].item() == pytest.approx(3.75 - 0.01)


def test_samples_lie_on_their_rays_inside_occupied_cells(device):
    rays_o, rays_d = random_rays(500, 4)
    bits = random_bits(16, 0.1)
    s = march(rays_o.to(device), rays_d.to(device), bits.to(device), resolution=16, **SETTINGS)
    s = Samples(*(v.cpu() for v in s))
    n = int(s.info[0])
    ray, t, x = s.ray_id[:n].long(), s.t[:n], s.x[:n]
    assert n > 1000 and (t >= SETTINGS["near"]).all() and (x.abs() <= 0.75 + 1e-6).all()
    torch.testing.assert_close(x, rays_o[ray] + t[:, None] * rays_d[ray])
    cell = ((x + 0.75) / 1.5 * 16).long().clamp(0, 15)
    on_face = ((x + 0.75) / 1.5 * 16 % 1 - 0.5).abs().amax(1) > 0.4999
    assert (reference.unpack_bits(bits)[(cell[:, 0] * 16 + cell[:, 1]) * 16 + cell[:, 2]] | on_face).all()
    assert (ray.diff() >= 0).all() and ((t.diff() > 0) | (ray.diff() > 0)).all()
    assert torch.equal(s.offsets.diff().long(), torch.bincount(ray, minlength=500))
    for rest in (s.t[n:], s.x[n:], s.ray_id[n:]):
        assert not rest.any()


def test_jitter_is_one_number_per_ray_seed_and_stream():
    rays_o, rays_d = torch.zeros(50, 3), torch.tensor([0.0, 0.0, 1.0]).repeat(50, 1)
    full = torch.full((64,), 255, dtype=torch.uint8)

    def first(**changes):
        s = march(rays_o, rays_d, full, resolution=8, **SETTINGS | changes)
        return (s.t[s.offsets[:-1].long()] - 0.05) / 0.02

    jitter = first()
    assert (jitter >= 0).all() and (jitter < 1).all() and jitter.unique().numel() == 50
    assert torch.equal(jitter, first())
    assert not torch.equal(jitter, first(seed=8)) and not torch.equal(jitter, first(stream=4))
    torch.testing.assert_close(first(seed=-1), torch.full((50,), 0.5), atol=1e-4, rtol=0)


def test_budget_keeps_the_nearest_samples_of_every_ray(device):
    rays, bits = random_rays(300, 5), random_bits(16, 0.3)
    everything = compare(device, rays, bits, 16)
    total, wanted = int(everything.info[0]), everything.offsets.diff()
    for budget in (total, total - 1, total // 2, 301, 299, 1):
        s = compare(device, rays, bits, 16, budget=budget)
        used, dropped = s.info.tolist()
        assert used <= budget and used + dropped == total and s.t.shape == (budget,) and int(s.offsets[-1]) == used
        counts = s.offsets.diff()
        cap = int(counts.max())
        assert torch.equal(counts, wanted.clamp(max=cap))
        assert dropped == 0 or int(wanted.clamp(max=cap + 1).sum()) > budget, "a larger cap would have fitted"
        for ray in (0, 7, 150, 299):
            a, b = int(s.offsets[ray]), int(everything.offsets[ray])
            assert torch.equal(s.t[a : a + int(counts[ray])], everything.t[b : b + int(counts[ray])])
    assert int(compare(device, rays, bits, 16, budget=total).info[1]) == 0


@pytest.mark.parametrize("rays", [0, 1])
def test_few_rays(device, rays):
    o, d = random_rays(2, 6)
    samples = compare(device, (o[1 : rays + 1], d[1 : rays + 1]), torch.full((64,), 255, dtype=torch.uint8), 8)
    assert samples.offsets.shape == (rays + 1,) and (int(samples.info[0]) > 0) == (rays == 1)


def test_same_bits_for_any_number_of_threads(restore_threads):
    rays, bits = random_rays(3000, 7), ball_bits(32)
    results = []
    for threads in (1, 2, 3, 8, 8):
        torch.set_num_threads(threads)
        results.append(march(*rays, bits, resolution=32, **SETTINGS | dict(budget=20000)))
    assert int(results[0].info[1]) > 0
    for other in results[1:]:
        assert_same(other, results[0])


def test_takes_tensors_that_are_not_contiguous(device):
    rays, bits = random_rays(100, 8), random_bits(16, 0.3)
    apart = [torch.stack([r, torch.full_like(r, float("nan"))], 2).to(device)[:, :, 0] for r in rays]
    spread = torch.stack([bits, ~bits], 1).to(device)[:, 0]
    assert not apart[0].is_contiguous() and not spread.is_contiguous()
    want = reference.march(*rays, bits, resolution=16, **SETTINGS)
    assert_same(march(*apart, spread, resolution=16, **SETTINGS), want)


def test_the_stream_may_be_a_tensor(device):
    """Large ones too: a stream holds the number of the step above four bits."""
    rays, bits = random_rays(200, 9), random_bits(16, 0.3)
    for stream in (3, (1 << 52) - 5):
        want = reference.march(*rays, bits, resolution=16, **SETTINGS | dict(stream=stream))
        for given in (stream, torch.tensor([stream], device=device)):
            got = march(*(r.to(device) for r in rays), bits.to(device), resolution=16, **SETTINGS | dict(stream=given))
            assert_same(got, want)


def test_result_has_no_gradient():
    rays_o, rays_d = random_rays(5, 9)
    samples = march(rays_o.requires_grad_(), rays_d, random_bits(16, 0.5), resolution=16, **SETTINGS)
    assert not samples.t.requires_grad and not samples.x.requires_grad


@pytest.mark.parametrize(
    "change, error, name",
    [
        (dict(rays_o=torch.zeros(4, 2)), ValueError, "rays_o"),
        (dict(rays_o=[1.0]), TypeError, "rays_o"),
        (dict(rays_o=torch.zeros(4, 3, dtype=torch.float16)), TypeError, "rays_o"),
        (dict(rays_d=torch.zeros(5, 3)), ValueError, "rays_d"),
        (dict(rays_d=torch.zeros(4, 3, dtype=torch.float64)), TypeError, "rays_d"),
        (dict(bitfield=torch.zeros(63, dtype=torch.uint8)), ValueError, "bitfield"),
        (dict(bitfield=torch.zeros(64, dtype=torch.int8)), TypeError, "bitfield"),
        (dict(bitfield=torch.zeros(64, dtype=torch.uint8, device="meta")), ValueError, "bitfield"),
        (dict(resolution=6), ValueError, "resolution"),
        (dict(resolution=2048), ValueError, "resolution"),
        (dict(bound=0.0), ValueError, "bound"),
        *[
            ({name: float(bad)}, ValueError, name)
            for bad in ("nan", "inf", "-inf")
            for name in ("step", "bound", "near")
        ],
        (dict(step=1e-9), ValueError, "step"),
        (dict(near=-1.0), ValueError, "near"),
        (dict(budget=0), ValueError, "budget"),
        (dict(stream=torch.tensor([1, 2])), ValueError, "stream"),
        (dict(stream=torch.tensor([1.0])), TypeError, "stream"),
        (dict(stream=torch.zeros(1, dtype=torch.int64, device="meta")), ValueError, "stream"),
        (dict(budget=1 << 31), ValueError, "budget"),
    ],
)
def test_errors_name_the_argument(change, error, name):
    bits = torch.zeros(64, dtype=torch.uint8)
    arguments = dict(rays_o=torch.zeros(4, 3), rays_d=torch.ones(4, 3), bitfield=bits, resolution=8)
    with pytest.raises(error, match=f"march: {name} "):
        march(**arguments | SETTINGS | change)


def test_opcheck(device):
    rays_o, rays_d = (r.to(device) for r in random_rays(20, 10))
    bits = random_bits(8, 0.3).to(device)
    torch.library.opcheck(
        OPS.march.default, (rays_o, rays_d, bits, 8, 0.75, 0.05, 0.02, 500, 1, torch.tensor([2], device=device))
    )
