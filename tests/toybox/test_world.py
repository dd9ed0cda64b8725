"""Pictures of toys: silhouettes, normals, anti-aliasing, and the paper's shading equation on pixels computed by
hand."""

import math

import numpy as np
import pytest
import torch

from dreamfusion_ngp.config.schema import CameraConfig, LightConfig
from dreamfusion_ngp.scene.cameras import camera_rays, orbit, sample_cameras
from dreamfusion_ngp.scene.lights import ALBEDO, LAMBERTIAN, TEXTURELESS, shading_rows
from dreamfusion_ngp.toybox.world import shapes
from dreamfusion_ngp.toybox.world import tracer as world
from dreamfusion_ngp.toybox.world.shapes import CLASSES, MAIN, PARAMETERS, SHADE, SLOTS

RADIUS = 0.38  # of the toy "sphere"


def canonical(n):
    return torch.zeros(n, PARAMETERS)


def trace(name, azimuths=(0,), elevation=0.0, distance=1.3, focal=1.2, resolution=64):
    return world.trace(name, canonical(len(azimuths)), orbit(azimuths, elevation, distance, focal), resolution)


def single(position, normal, slot=MAIN, alpha=255):
    """A G-buffer of one pixel."""
    return world.GBuffer(
        (torch.tensor(position) * world.POSITION_SCALE).round().to(torch.int8).view(1, 1, 1, 3),
        (torch.tensor(normal) * 127).round().to(torch.int8).view(1, 1, 1, 3),
        torch.full((1, 1, 1), slot, dtype=torch.uint8),
        torch.full((1, 1, 1), alpha, dtype=torch.uint8),
    )


@pytest.mark.parametrize("distance, focal", [(1.2, 1.2), (1.5, 0.7), (1.5, 1.2), (1.05, 0.9)])
@pytest.mark.parametrize("azimuth, elevation", [(0, 0), (123, 45), (0, 90)])
def test_the_silhouette_of_a_sphere_has_the_analytic_area(distance, focal, azimuth, elevation):
    """A centred sphere projects to a disc of radius f r / sqrt(d^2 - r^2) image widths. Counting pixels of a disc of
    radius R is off by about 2 sqrt(R), 1 % here; a boundary that is wrong by a quarter of a pixel is off by 0.5 / R = 2
    to 4 %."""
    buffer = trace("sphere", (azimuth,), elevation, distance, focal)
    radius = 64 * focal * RADIUS / math.sqrt(distance**2 - RADIUS**2)
    area = math.pi * radius**2
    assert radius < 32
    assert abs(int(world.silhouette(buffer).sum()) / area - 1) < 0.01
    assert abs(float(buffer.alpha.float().sum() / 255) / area - 1) < 0.01


@pytest.mark.parametrize("name", CLASSES)
def test_coverage_is_that_of_a_picture_with_sixteen_times_the_pixels(name):
    """No class has a silhouette that is systematically too large or too small, holes at the seams of parts, or hard
    edges."""
    azimuths = (20, 155)
    low, high = (trace(name, azimuths, 20.0, resolution=n).alpha.float() / 255 for n in (32, 128))
    true = high.view(2, 32, 4, 32, 4).mean((2, 4))
    assert abs(float(low.sum() / true.sum()) - 1) < 0.015
    assert (low - true).abs().mean() < 0.02 and (low - true).abs().max() < 0.75
    covered = torch.nn.functional.avg_pool2d(true[:, None], 3, 1, 1)[:, 0] > 0.999
    assert covered.any() and low[covered].min() > 0.9
    assert low[torch.nn.functional.max_pool2d(true[:, None], 3, 1, 1)[:, 0] == 0].max() == 0
    hard = (true > 0.5).float()
    assert (low - true).square().mean() < 0.6 * (hard - true).square().mean(), "better than no anti-aliasing"


@pytest.mark.parametrize("name", CLASSES)
def test_normals_are_unit_and_face_the_camera(name):
    cameras = orbit((10, 100, 190, 280), (0, 30, 60, 85), 1.3, 1.2)
    buffer = world.trace(name, canonical(4), cameras)
    direction = camera_rays(cameras, 64)[1].view(4, 64, 64, 3)
    normal, solid = buffer.normal.float() / 127, buffer.alpha >= 128
    assert (normal[solid].norm(dim=-1) - 1).abs().max() < 0.02
    facing = (normal * direction).sum(-1)[solid]
    assert (facing < 0.1).float().mean() > 0.98, (
        "a ray through a sharp rim may end on its far side, no other on a back face"
    )


def test_positions_and_normals_of_a_sphere_are_exact_to_the_quantisation():
    cameras = orbit((0, 77), 30.0, 1.3, 1.2)
    buffer = world.trace("sphere", canonical(2), cameras)
    solid = buffer.alpha == 255
    position = buffer.position[solid].float() / world.POSITION_SCALE
    half_a_step = 0.5 / world.POSITION_SCALE * math.sqrt(3)
    assert (position.norm(dim=-1) - RADIUS).abs().max() < half_a_step + 0.006
    normal = buffer.normal[solid].float() / 127
    assert (normal - position / RADIUS).norm(dim=-1).max() < 0.05
    centre = buffer.position[0, 31:33, 31:33].float().mean((0, 1)) / world.POSITION_SCALE
    assert torch.allclose(centre, cameras.position[0] / 1.3 * RADIUS, atol=0.006)


def test_image_orientation_of_a_g_buffer():
    """In the front view of the mug world +X is right and +Y is up; the handle is at +X."""
    buffer = trace("mug")
    covered = world.silhouette(buffer)[0]
    position = buffer.position[0].float()
    rows, columns = covered.nonzero().T
    assert np.corrcoef(columns, position[..., 0][covered])[0, 1] > 0.95
    assert np.corrcoef(rows, position[..., 1][covered])[0, 1] < -0.95


def test_the_lambertian_pixel_by_hand():
    """Point at the origin facing +Z; light at (0, 3, 4), so n.l = 0.8: colour = albedo (0.1 + 0.9 * 0.8) = 0.82
    albedo."""
    colors = world.part_colors(torch.tensor([[0.5, 0.25, 1.0]]))
    view = shading_rows(LightConfig(), torch.tensor([[0.0, 3.0, 4.0]]), np.array([LAMBERTIAN]))
    pixel = world.shade(single((0.0, 0.0, 0.0), (0.0, 0.0, 1.0)), colors, view, torch.tensor(0.0))
    assert torch.allclose(pixel.flatten(), torch.tensor([0.41, 0.205, 0.82]), atol=1e-6)
    away = world.shade(single((0.0, 0.0, 0.0), (0.0, 0.0, -1.0)), colors, view, torch.tensor(0.0))
    assert torch.allclose(away.flatten(), torch.tensor([0.05, 0.025, 0.1]), atol=1e-6), (
        "from behind only the ambient light"
    )


def test_the_light_is_a_point_not_a_direction():
    """Light at (0.5, 0, 1): from a point at (0.5, 0, 0) it is straight ahead, from the origin at cos = 1 /
    sqrt(1.25)."""
    view = torch.tensor([[0.5, 0.0, 1.0, 0.0, 1.0, 1.0]])
    colors = world.part_colors(torch.zeros(1, 3))
    ahead = world.shade(single((0.5, 0.0, 0.0), (0.0, 0.0, 1.0)), colors, view, torch.tensor(0.0))
    aside = world.shade(single((0.0, 0.0, 0.0), (0.0, 0.0, 1.0)), colors, view, torch.tensor(0.0))
    assert torch.allclose(ahead, torch.ones(1, 1, 1, 3), atol=1e-4)
    assert torch.allclose(aside, torch.full((1, 1, 1, 3), 1 / math.sqrt(1.25)), atol=1e-4)


def test_a_traced_pixel_by_hand():
    """The pixels around the image centre of a sphere lit from the camera at 1.3: n = l there, so the albedo times 0.1 +
    0.9."""
    color = torch.tensor([[0.2, 0.6, 0.4]])
    view = shading_rows(LightConfig(), torch.tensor([[0.0, 0.0, 1.3]]), np.array([LAMBERTIAN]))
    image = world.shade(trace("sphere"), world.part_colors(color), view, torch.tensor(1.0))
    assert torch.allclose(image[0, 31:33, 31:33], color.expand(2, 2, 3), atol=0.005)


def test_albedo_mode_ignores_light_and_textureless_ignores_colours():
    buffer = trace("house", (30,), 20.0)
    red, blue = (world.part_colors(torch.tensor([c])) for c in ((0.9, 0.1, 0.1), (0.1, 0.1, 0.9)))
    near, far = torch.tensor([[0.5, 1.0, 1.0]]), torch.tensor([[-1.0, 0.2, 0.5]])
    gray = torch.tensor(0.5)

    def shade(colors, light, mode):
        return world.shade(buffer, colors, shading_rows(LightConfig(), light, np.array([mode])), gray)

    assert torch.equal(shade(red, near, ALBEDO), shade(red, far, ALBEDO))
    assert not torch.equal(shade(red, near, ALBEDO), shade(blue, near, ALBEDO))
    clay = shade(red, near, TEXTURELESS)
    assert torch.equal(clay, shade(blue, near, TEXTURELESS)) and not torch.equal(clay, shade(red, far, TEXTURELESS))
    assert (clay.std(-1) < 1e-6).all(), "no hue without texture"
    assert not torch.equal(shade(red, near, LAMBERTIAN), shade(red, far, LAMBERTIAN))


def test_the_background_is_composited_by_coverage():
    color, behind = torch.tensor([[0.25, 0.5, 0.75]]), torch.tensor([1.0, 0.0, 0.5])
    view = torch.tensor([[0.0, 0.0, 2.0, 1.0, 0.0, 0.0]])
    for alpha in (0, 51, 255):
        pixel = world.shade(
            single((0.0, 0.0, 0.3), (0.0, 0.0, 1.0), alpha=alpha), world.part_colors(color), view, behind
        )
        expected = color[0] * alpha / 255 + behind * (1 - alpha / 255)
        assert torch.allclose(pixel.flatten(), expected, atol=1e-6)
    field = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    buffer = trace("torus", elevation=80.0)
    image = world.shade(buffer, world.part_colors(color), view, field)
    empty = buffer.alpha == 0
    assert torch.equal(image[empty], field[empty]) and empty[0, 31, 31], "the hole of the torus shows the background"
    assert torch.allclose(image[buffer.alpha == 255], color[0].expand(int((buffer.alpha == 255).sum()), 3))


def test_pictures_stay_in_range_for_any_view():
    random = np.random.default_rng(0)
    cameras = sample_cameras(CameraConfig(), 6, random)
    buffer = world.trace("car", torch.tensor(random.uniform(-1, 1, (6, PARAMETERS)), dtype=torch.float32), cameras, 32)
    modes = np.array([ALBEDO, LAMBERTIAN, TEXTURELESS] * 2)
    rows = shading_rows(LightConfig(), cameras.position, modes)
    image = world.shade(buffer, world.part_colors(torch.rand(6, 3)), rows, torch.tensor(1.0))
    assert (
        image.shape == (6, 32, 32, 3) and image.dtype == torch.float32 and image.min() >= 0 and image.max() <= 1 + 1e-6
    )


def test_part_colors_have_the_main_colour_and_its_shade():
    colors = world.part_colors(torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.0, 1.0]]))
    assert colors.shape == (2, len(SLOTS), 3)
    assert torch.equal(colors[:, SHADE], colors[:, MAIN] * 0.6)
    assert torch.equal(colors[0, SLOTS.index("white")], shapes.SLOT_COLORS[SLOTS.index("white")])


@pytest.mark.parametrize("name", ("mug", "airplane"))
def test_a_batch_equals_its_views_one_by_one(name):
    g = torch.Generator().manual_seed(1)
    u = torch.rand(3, PARAMETERS, generator=g) * 2 - 1
    azimuths, elevations = (0, 120, 250), (10, 40, 80)
    batch = world.trace(name, u, orbit(azimuths, elevations, 1.3, 1.2), 32)
    for i in range(3):
        one = world.trace(name, u[i : i + 1], orbit(azimuths[i : i + 1], elevations[i : i + 1], 1.3, 1.2), 32)
        for part in ("position", "normal", "slot", "alpha"):
            a, b = getattr(batch, part)[i], getattr(one, part)[0]
            assert a.shape == b.shape and (a != b).float().mean() < 0.01, part


def test_g_buffers_can_be_cut_and_joined():
    buffer = trace("duck", (0, 90, 180), resolution=16)
    again = world.GBuffer.cat([buffer[:1], buffer[1:]])
    assert all(torch.equal(getattr(again, n), getattr(buffer, n)) for n in ("position", "normal", "slot", "alpha"))
    assert buffer.alpha.dtype == torch.uint8 and buffer.position.dtype == torch.int8 and len(buffer[1:].alpha) == 2


def test_a_camera_that_looks_away_sees_nothing():
    cameras = orbit((0,), 0.0, 3.0, 1.2)
    turned = type(cameras)(
        cameras.c2w * torch.tensor([-1.0, 1.0, -1.0, 1.0]), cameras.focal, cameras.azimuth, cameras.elevation
    )
    buffer = world.trace("sphere", canonical(1), turned, 16)
    assert (buffer.alpha == 0).all()
