"""Cameras: conventions, rays, and the sampler of preset `dreamfusion` against the distributions of DreamFusion A.2.

Statistical thresholds: the draws are seeded, so a test passes always or never. They are set so that a right sampler
passes for nearly every seed: Kolmogorov-Smirnov tests at p > 1e-3 (one seed in a thousand would fail), means and
deviations within 4 standard errors (one in 16,000). With 20,000 draws the KS test rejects any distribution whose CDF is
off by more than 0.014.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from dreamfusion_ngp.config.presets import dreamfusion
from dreamfusion_ngp.config.schema import CameraConfig
from dreamfusion_ngp.scene.cameras import (
    around,
    camera_rays,
    look_at,
    orbit,
    pole_safe_up,
    sample_azimuth,
    sample_cameras,
    sample_elevation,
    spherical,
)

PAPER = dreamfusion().camera
STILL = replace(PAPER, position_jitter=0.0, look_at_std=0.0, up_std=0.0)
N = 20_000


def ks(values, cdf):
    return stats.kstest(np.asarray(values, dtype=np.float64), cdf).pvalue


def paper_cameras(seed, config=PAPER, n=N):
    return sample_cameras(config, n, np.random.default_rng(seed))


def elevation_cdf(e):
    """Half uniform in angle on [-10, 90] degrees, half uniform in area on the upper half-sphere (CDF sin e)."""
    in_angle = np.clip((np.degrees(e) + 10) / 100, 0, 1)
    return 0.5 * in_angle + 0.5 * np.sin(np.clip(e, 0, math.pi / 2))


def test_elevation_is_the_papers_mixture():
    e = sample_elevation(PAPER, N, np.random.default_rng(0))
    assert np.degrees(e).min() >= -10 and np.degrees(e).max() <= 90
    assert ks(e, elevation_cdf) > 1e-3
    # What the test is worth: the two halves alone, and a mixture of 0.6, are rejected.
    assert ks(e, lambda e: np.sin(np.clip(e, 0, math.pi / 2))) < 1e-12
    assert ks(e, lambda e: (np.degrees(e) + 10) / 100) < 1e-12
    assert (
        ks(sample_elevation(replace(PAPER, uniform_angle_probability=0.6), N, np.random.default_rng(0)), elevation_cdf)
        < 1e-4
    )
    assert np.allclose(paper_cameras(3).elevation.double(), paper_cameras(3, STILL).elevation.double())
    assert ks(paper_cameras(3).elevation, elevation_cdf) > 1e-3


@pytest.mark.parametrize(("low", "high"), [(-60.0, -30.0), (-10.0, 0.0)])
def test_elevations_below_the_horizon_stay_in_their_range(low, high):
    """Half uniform in angle, half in area, since none of the range is on the upper half-sphere."""
    config = replace(PAPER, elevation=(low, high), uniform_angle_probability=0.0)
    a, b = math.sin(math.radians(low)), math.sin(math.radians(high))
    assert ks(np.sin(sample_elevation(config, N, np.random.default_rng(7))), stats.uniform(a, b - a).cdf) > 1e-3
    mixed = np.degrees(sample_elevation(replace(config, uniform_angle_probability=0.5), N, np.random.default_rng(8)))
    assert low <= mixed.min() and mixed.max() <= high


def test_azimuth_is_uniform():
    azimuth = paper_cameras(1).azimuth.double().numpy()
    assert ks(azimuth / (2 * math.pi), "uniform") > 1e-3
    assert np.array_equal(azimuth, paper_cameras(1, STILL).azimuth.double().numpy())


def test_stratified_azimuths_are_evenly_spaced_and_still_uniform():
    config, random = replace(PAPER, stratified_azimuth=True), np.random.default_rng(2)
    batches = np.stack([np.sort(sample_azimuth(config, 4, random)) for _ in range(4000)])
    assert np.allclose(np.diff(batches, axis=1), math.pi / 2)
    assert batches.min() >= 0 and batches.max() < 2 * math.pi
    assert ks(batches[:, 0] / (math.pi / 2), "uniform") > 1e-3


def test_a_ring_is_one_camera_that_is_turned():
    """Jitter and all: seen from the object's axis, every side stands as the first one does. The first of every ring are
    those that a run without rings draws."""
    config = CameraConfig(ring=4)
    found = sample_cameras(config, 12, np.random.default_rng(5))
    alone = sample_cameras(replace(config, ring=None), 3, np.random.default_rng(5))
    for name in ("c2w", "focal", "azimuth", "elevation"):
        torch.testing.assert_close(getattr(found, name)[::4], getattr(alone, name))
        assert len(getattr(found, name)) == 12
    steps = (found.azimuth.view(3, 4).diff(dim=1) % (2 * math.pi)) / math.pi
    torch.testing.assert_close(steps, torch.full((3, 3), 0.5), atol=1e-5, rtol=0)
    for k in range(4):
        back = around(found.c2w[k::4], 4)[(4 - k) % 4 :: 4]
        torch.testing.assert_close(back, alone.c2w, atol=1e-6, rtol=0)
    flat = spherical(torch.ones(1), found.azimuth[1:2], torch.zeros(1))
    turned = around(spherical(torch.ones(1), found.azimuth[:1], torch.zeros(1)), 4)[1:2]
    torch.testing.assert_close(flat, turned, atol=1e-6, rtol=0)


def test_distance_and_focal_are_uniform_and_independent():
    cameras = paper_cameras(4, STILL)
    distance, focal = cameras.position.double().norm(dim=-1).numpy(), cameras.focal.double().numpy()
    assert ks(distance, stats.uniform(1.0, 0.5).cdf) > 1e-3
    assert ks(focal, stats.uniform(0.7, 0.65).cdf) > 1e-3
    columns = np.stack([distance, focal, cameras.azimuth.numpy(), cameras.elevation.numpy()])
    off_diagonal = np.corrcoef(columns)[~np.eye(4, dtype=bool)]
    assert np.abs(off_diagonal).max() < 4 / math.sqrt(N)


def test_framed_cameras_keep_the_ratio_of_distance_and_focal():
    config = replace(STILL, distance_per_focal=True, distance=(1.1, 1.3))
    cameras = paper_cameras(5, config)
    ratio = cameras.position.norm(dim=-1) / cameras.focal
    assert config.distance[0] - 1e-5 <= ratio.min() and ratio.max() <= config.distance[1] + 1e-5


def test_position_jitter_is_uniform_in_the_cube():
    """The same seed without jitter gives the position before it: the draws keep their order."""
    offset = (
        (paper_cameras(6).position - paper_cameras(6, replace(PAPER, position_jitter=0.0)).position).double().numpy()
    )
    for axis in range(3):
        assert ks(offset[:, axis], stats.uniform(-0.1, 0.2).cdf) > 1e-3
    assert np.abs(np.corrcoef(offset.T)[~np.eye(3, dtype=bool)]).max() < 4 / math.sqrt(N)


def test_look_at_point_deviates_by_a_fifth():
    """The line of sight passes the origin at the part of N(0, 0.2^2 I) across it: (x, y) distances normal with
    deviation 0.2.

    The part is taken across the direction to the look-at point, not to the origin: their angle, mean 0.2, changes the
    deviation by about 2 %, hence a wide bound beside the KS test of the same draws on a camera far away, where the two
    directions agree.
    """
    far = replace(STILL, look_at_std=PAPER.look_at_std, distance=(500.0, 500.0))
    for config, width in ((far, 0.02), (replace(STILL, look_at_std=PAPER.look_at_std), 0.06)):
        c2w = paper_cameras(7, config).c2w.double()
        across = -torch.einsum("bij,bi->bj", c2w[:, :, :2], c2w[:, :, 3]).numpy()
        assert np.abs(across.std(0) / 0.2 - 1).max() < width and np.abs(across.mean(0)).max() < 4 * 0.2 / math.sqrt(N)
    c2w = paper_cameras(7, far).c2w.double()
    across = torch.einsum("bij,bi->bj", c2w[:, :, :2], -c2w[:, :, 3]).numpy()
    for axis in range(2):
        assert stats.kstest(across[:, axis], stats.norm(0, 0.2).cdf).pvalue > 1e-3


def test_up_vector_deviates_by_a_fiftieth():
    """The roll of the image is the angle of 1 + N(0, 0.02^2) up and N(0, 0.02^2) across: normal, deviation 0.02, at any
    elevation."""
    cameras = paper_cameras(8, replace(STILL, up_std=PAPER.up_std))
    up = pole_safe_up(cameras.azimuth, cameras.elevation).double()
    c2w = cameras.c2w.double()
    roll = torch.atan2((c2w[:, :, 0] * up).sum(-1), (c2w[:, :, 1] * up).sum(-1)).numpy()
    assert stats.kstest(roll, stats.norm(0, 0.02).cdf).pvalue > 1e-3
    steep = np.degrees(cameras.elevation.numpy()) > 80
    assert steep.sum() > 500 and abs(roll[steep].std() / 0.02 - 1) < 4 / math.sqrt(2 * steep.sum())


def test_same_seed_same_cameras_other_seed_others():
    a, b, c = paper_cameras(9, n=4), paper_cameras(9, n=4), paper_cameras(10, n=4)
    assert torch.equal(a.c2w, b.c2w) and torch.equal(a.focal, b.focal) and not torch.equal(a.c2w, c.c2w)
    assert len(a) == 4 and a.c2w.shape == (4, 3, 4) and a.c2w.dtype == torch.float32


def assert_rotations(c2w, tolerance=1e-5):
    rotation = c2w[:, :, :3].double()
    eye = torch.eye(3, dtype=torch.float64).expand_as(rotation)
    assert torch.allclose(rotation.transpose(1, 2) @ rotation, eye, atol=tolerance)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(len(c2w), dtype=torch.float64), atol=tolerance)


def test_sampled_cameras_are_rotations_and_never_lie_inside_a_toy():
    cameras = paper_cameras(11)
    assert_rotations(cameras.c2w)
    assert torch.isfinite(cameras.c2w).all()
    assert cameras.position.norm(dim=-1).min() > 1.0 - 0.1 * math.sqrt(3)


def test_look_at_is_orthonormal_and_points_at_the_target():
    g = torch.Generator().manual_seed(0)
    position, target, up = (torch.randn(500, 3, generator=g) for _ in range(3))
    c2w = look_at(position, target, up)
    assert_rotations(c2w)
    forward = torch.nn.functional.normalize(target - position, dim=-1)
    assert torch.allclose(-c2w[:, :, 2], forward, atol=1e-6)
    assert torch.equal(c2w[:, :, 3], position)
    assert ((c2w[:, :, 1] * up).sum(-1) > 0).all(), "the image's up leans towards the given up"
    assert ((c2w[:, :, 0] * up).sum(-1).abs() < 1e-5).all(), "the image's right is level"


def test_azimuth_and_elevation_conventions():
    """Azimuth 0 on +Z looking at -Z, 90 degrees on +X; elevation towards +Y."""
    cameras = orbit([0, 90, 180, 270], 0.0, 2.0, 1.0)
    expected = torch.tensor([[0, 0, 2], [2, 0, 0], [0, 0, -2], [-2, 0, 0]], dtype=torch.float32)
    assert torch.allclose(cameras.position, expected, atol=1e-6)
    assert torch.allclose(-cameras.c2w[:, :, 2], -expected / 2, atol=1e-6)
    assert torch.allclose(cameras.c2w[0, :, :3], torch.eye(3), atol=1e-6), "the front camera's axes are the world's"
    assert torch.allclose(cameras.c2w[:, :, 1], torch.tensor([0.0, 1.0, 0.0]).expand(4, 3), atol=1e-6)
    up = orbit([30], [45], 2.0, 1.0).position[0]
    assert up[1] == pytest.approx(2 * math.sin(math.pi / 4)) and up[0] == pytest.approx(2 * math.cos(math.pi / 4) * 0.5)
    both = orbit([10, 20], [30, 40], 1.5, 1.2)
    assert torch.allclose(both.position, spherical(torch.full((2,), 1.5), both.azimuth, both.elevation))
    assert torch.allclose(both.focal, torch.full((2,), 1.2)) and torch.allclose(
        torch.rad2deg(both.elevation), torch.tensor([30.0, 40.0])
    )


def test_up_without_noise_is_the_worlds_up_below_the_pole():
    azimuth, elevation = torch.linspace(0, 6.2, 40), torch.linspace(-0.17, 1.5, 40)
    position = spherical(torch.ones(40), azimuth, elevation)
    world = look_at(position, torch.zeros(40, 3), torch.tensor([0.0, 1.0, 0.0]).expand(40, 3))
    safe = look_at(position, torch.zeros(40, 3), pole_safe_up(azimuth, elevation))
    assert torch.allclose(world, safe, atol=1e-5)


@pytest.mark.parametrize("elevation", [90.0, -90.0])
def test_the_pole_is_finite_and_continuous(elevation):
    cameras = orbit(range(0, 360, 15), elevation, 1.3, 1.0)
    assert_rotations(cameras.c2w)
    near = orbit(range(0, 360, 15), elevation * (1 - 1e-4), 1.3, 1.0)
    assert torch.allclose(cameras.c2w, near.c2w, atol=1e-3)
    origins, directions = camera_rays(cameras, 5)
    assert torch.isfinite(origins).all() and torch.isfinite(directions).all()


def test_rays_go_through_pixel_centres_row_zero_on_top():
    """At azimuth 0 the camera's axes are the world's: +x is right in the image, +y is up."""
    camera = orbit([0], 0.0, 2.0, 1.0)
    origins, directions = camera_rays(camera, 4)
    d = directions.view(4, 4, 3)
    assert torch.allclose(d[0, 0] / -d[0, 0, 2], torch.tensor([-0.375, 0.375, -1.0]))
    assert torch.allclose(d[0, 3] / -d[0, 3, 2], torch.tensor([0.375, 0.375, -1.0]))
    assert torch.allclose(d[3, 0] / -d[3, 0, 2], torch.tensor([-0.375, -0.375, -1.0]))
    assert torch.allclose(origins, torch.tensor([0.0, 0.0, 2.0]).expand(16, 3), atol=1e-6)
    _, odd = camera_rays(camera, 3)
    assert torch.allclose(odd[4], torch.tensor([0.0, 0.0, -1.0]), atol=1e-6), "the middle pixel looks along the axis"
    right = orbit([90], 0.0, 2.0, 1.0)
    assert camera_rays(right, 4)[1][3, 2] < 0, "seen from +X, the image's right is -Z"


@pytest.mark.parametrize("focal, degrees", [(0.7, 71.08), (1.0, 53.13), (1.35, 40.65)])
def test_field_of_view(focal, degrees):
    """The angle between the centres of the outer columns, corrected for the half pixels beyond them: 2 atan(1 / (2
    f))."""
    n = 64
    _, directions = camera_rays(orbit([33], 20.0, 1.2, focal), n)
    row = directions.view(n, n, 3)[n // 2]
    tangent = math.tan(math.acos(float((row[0] * row[-1]).sum())) / 2)
    row_tilt = math.hypot(1.0, 0.5 / n / focal)
    assert 2 * math.degrees(math.atan(tangent * row_tilt * n / (n - 1))) == pytest.approx(degrees, abs=0.02)


def test_rays_are_unit_ray_major_and_project_back():
    cameras, n = paper_cameras(12, n=5), 7
    origins, directions = camera_rays(cameras, n)
    assert (
        origins.shape == directions.shape == (5 * n * n, 3) and origins.is_contiguous() and directions.is_contiguous()
    )
    assert torch.allclose(directions.double().norm(dim=-1), torch.ones(5 * n * n, dtype=torch.float64), atol=1e-6)
    ray = torch.arange(5 * n * n)
    view, row, column = ray // (n * n), ray // n % n, ray % n
    assert torch.equal(origins, cameras.position[view])
    points = origins + directions * torch.linspace(0.3, 3.0, len(ray))[:, None]
    local = torch.einsum("rij,ri->rj", cameras.c2w[view][:, :, :3], points - cameras.position[view])
    assert (local[:, 2] < 0).all()
    x = local[:, 0] / -local[:, 2] * cameras.focal[view] * n + n / 2 - 0.5
    y = -local[:, 1] / -local[:, 2] * cameras.focal[view] * n + n / 2 - 0.5
    assert torch.allclose(x, column.float(), atol=1e-4) and torch.allclose(y, row.float(), atol=1e-4)


def test_one_pixel_and_no_camera():
    origins, directions = camera_rays(orbit([40], 30.0, 1.5, 1.0), 1)
    assert torch.allclose(directions[0], -origins[0] / 1.5, atol=1e-6)
    assert camera_rays(sample_cameras(CameraConfig(), 0, np.random.default_rng(0)), 8)[0].shape == (0, 3)


def test_cameras_move_between_devices_with_all_their_parts():
    cameras = paper_cameras(13, n=3).to(torch.device("meta"))
    assert {
        cameras.c2w.device.type,
        cameras.focal.device.type,
        cameras.azimuth.device.type,
        cameras.elevation.device.type,
    } == {"meta"}
