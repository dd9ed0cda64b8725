"""Antialias: its mean, its gradient against plain torch and against integrals over edges that are known exactly."""

import math

import pytest
import torch
from support.triangles import QUAD, around_the_eye, on_screen, polygon, quad, sheet, soup, weights

from dreamfusion_ngp.ops import reference
from dreamfusion_ngp.ops.antialias import antialias
from dreamfusion_ngp.ops.interpolate import interpolate
from dreamfusion_ngp.ops.rasterise import rasterise

OPS = torch.ops.dreamfusion_ngp
SIZE = (24, 32)


def random_image(fragments, channels=3):
    generator = torch.Generator().manual_seed(5)
    return torch.rand(*fragments.face.shape, channels, generator=generator, dtype=torch.float64)


def run(op, position, faces, samples=1, device="cpu", channels=3):
    fragments = rasterise(position.to(device), faces.to(device), SIZE)
    leaves = [v.to(device).to(position.dtype).requires_grad_() for v in (random_image(fragments, channels), position)]
    out = op(*leaves, faces.to(device), fragments, samples=samples)
    incoming = torch.randn(out.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64).to(out)
    return [out.detach(), *torch.autograd.grad(out, leaves, incoming)]


@pytest.mark.parametrize("samples", [1, 2, 4])
@pytest.mark.parametrize("seed", range(3))
def test_matches_the_reference(device, seed, samples):
    position, faces = soup(seed)
    want = run(reference.antialias, position, faces, samples)
    for got, expected in zip(run(antialias, position, faces, samples), want, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-10 * float(expected.abs().max()), rtol=1e-9)
    got = run(antialias, position.float(), faces, samples, device)
    torch.testing.assert_close(got[0].cpu().double(), want[0], atol=1e-6, rtol=0)
    error = (got[2].cpu().double() - want[2]).abs().max() / want[2].abs().max()
    assert error < 0.2  # a pixel may be another's in float32, and then counts for another triangle


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_is_the_mean_of_samples(device, samples):
    position, faces = soup(0, dtype=torch.float32)
    fragments = rasterise(position, faces, (24, 36))
    image = random_image(fragments).float().requires_grad_()
    mean = torch.nn.functional.avg_pool2d(image.permute(0, 3, 1, 2), samples).permute(0, 2, 3, 1)
    leaf = image.detach().to(device).requires_grad_()
    there = [v.to(device) for v in (position, faces)]
    out = antialias(leaf, *there, fragments._replace(face=fragments.face.to(device)), samples=samples)
    torch.testing.assert_close(out.cpu(), mean, atol=1e-6, rtol=0)
    incoming = torch.randn(out.shape, generator=torch.Generator().manual_seed(6))
    (got,), (want,) = (torch.autograd.grad(o, i, incoming.to(o.device)) for o, i in ((out, leaf), (mean, image)))
    torch.testing.assert_close(got.cpu(), want)


def gradient(loss, leaves):
    return torch.stack(torch.autograd.grad(loss, leaves))


def drawn(position, faces, size, samples, colors):
    """(H, W) picture of one channel in which triangle f has colors[f], over 0."""
    high = (size[0] * samples, size[1] * samples)
    fragments = rasterise(position[None], faces, high)
    color = torch.where(fragments.face < 0, 0.0, colors[fragments.face.long().clamp(min=0)])
    return antialias(color[..., None], position[None], faces, fragments, samples=samples)[0, ..., 0]


def along(start, end, color, at, n=20000):
    """Integrals of color * weight * d(normal movement) over a straight edge from `start` to `end` in pixels, inside to
    its left as seen with y down: by a shift along x, along y, and of `end` along its normal."""
    t = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    (ax, ay), (bx, by) = start, end
    weight = color * at(ax + t * (bx - ax), ay + t * (by - ay)) / n
    dx, dy = bx - ax, by - ay  # the normal outwards is (-dy, dx) for a left inside with y down
    return torch.stack([(-dy * weight).sum(), (dx * weight).sum(), (math.hypot(dx, dy) * t * weight).sum()])


@pytest.mark.parametrize("samples", [1, 2, 4])
@pytest.mark.parametrize("angle", [0.0, 0.1, 0.7, 1.5, 2.9, 4.0])
def test_half_plane(angle, samples):
    """An edge across the picture, that is moved and turned."""
    size = (48, 64)
    weight, at = weights(size)
    normal = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
    direction, middle = torch.stack([normal[1], -normal[0]]), torch.tensor([31.3, 23.8], dtype=torch.float64)
    moves = [torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in range(3)]
    shift = torch.stack([moves[0], moves[1]])
    far = middle + shift - 400 * normal
    ends = [middle + shift + s * 300 * direction + (s + 1) / 2 * moves[2] * normal for s in (-1, 1)]
    scale = samples  # pixels of the samples
    xy = torch.stack([*ends, far]) * scale + (scale - 1) / 2
    position = on_screen(xy, (size[0] * samples, size[1] * samples))
    image = drawn(position, torch.tensor([[0, 1, 2]], dtype=torch.int32), size, samples, torch.ones(1).double())
    got = gradient((image * weight).sum(), moves)
    # The part of the edge that is in the picture; beyond it nothing is seen.
    t = (torch.arange(60000, dtype=torch.float64) + 0.5) / 60000 * 600 - 300
    x, y = middle[0] + t * direction[0], middle[1] + t * direction[1]
    inside = (x >= -0.5) & (x <= size[1] - 0.5) & (y >= -0.5) & (y <= size[0] - 0.5)
    density = at(x, y) * inside * 0.01
    want = torch.stack([(density * normal[0]).sum(), (density * normal[1]).sum(), (density * (t / 600 + 0.5)).sum()])
    torch.testing.assert_close(got, want, atol=0.03 * float(want.abs().max()), rtol=0)


@pytest.mark.parametrize(("samples", "tolerance"), [(1, 1e-2), (2, 4e-3), (4, 3e-3)])
def test_disc(samples, tolerance):
    """A polygon of 200 sides by its centre and radius."""
    size, scale = (64, 64), samples
    weight, at = weights(size)
    x, y, r = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (32.3, 30.1, 19.2))
    xy, faces = polygon(200, x, y, r)
    position = on_screen(xy * scale + (scale - 1) / 2, (64 * scale, 64 * scale))
    image = drawn(position, faces, size, samples, torch.ones(200).double())
    got = gradient((image * weight).sum(), (x, y, r))
    a = torch.arange(20000, dtype=torch.float64) / 20000 * 2 * math.pi
    w = at(32.3 + 19.2 * torch.cos(a), 30.1 + 19.2 * torch.sin(a)) * (2 * math.pi * 19.2 / 20000)
    want = torch.stack([(w * torch.cos(a)).sum(), (w * torch.sin(a)).sum(), w.sum()])
    torch.testing.assert_close(got, want, atol=tolerance * float(want.max()), rtol=0)


@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize("samples", [1, 2])
def test_one_quad_hides_another(fine, samples):
    """The edge belongs to the one before. `fine`: that behind is made of triangles as small as pixels, of which few
    pixels beside the edge are in one that reaches under it."""
    size, scale = (48, 48), samples
    high = (48 * scale, 48 * scale)
    weight, at = weights(size)
    front, back = (torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in range(2))
    corners = torch.tensor([[9.2, 11.4], [30.6, 12.3], [31.7, 33.1], [8.4, 35.5]], dtype=torch.float64)
    step = torch.tensor([1.0, 0.0], dtype=torch.float64)
    before = quad((corners + front * step) * scale + (scale - 1) / 2, high, -0.5)
    xy, faces = (
        sheet(60, 60, -4.0, 52.0, 3) if fine else (torch.tensor([[-4.0, -4], [52, -4], [52, 52], [-4, 52]]), QUAD)
    )
    behind = on_screen((xy.double() + back * step) * scale + (scale - 1) / 2, high, 0.5)
    position = torch.cat([before, behind])
    colors = torch.cat([torch.full((2,), 0.9), torch.full((len(faces),), 0.2)]).double()
    image = drawn(position, torch.cat([QUAD, faces + 4]), size, samples, colors)
    got = gradient((image * weight).sum(), (front, back))
    loop = [tuple(v) for v in corners.tolist()]
    pairs = zip(loop, [*loop[1:], loop[0]], strict=True)
    want = -sum(along(a, b, 0.9 - 0.2, at)[0] for a, b in pairs)
    assert float(got[0]) == pytest.approx(float(want), abs=0.03 * 0.7 * 22)  # of a side of 22 pixels
    assert abs(float(got[1])) < 0.03 * 0.7 * 22


@pytest.mark.parametrize("slope", [(0.4, 0.0), (0.4, 0.2), (0.1, 0.4), (0.0, 0.4), (-0.3, 0.3)])
def test_two_planes_meet(slope):
    """By the depth of one: the line between them moves, along x and y, without an edge of a triangle."""
    size = (64, 64)
    weight, at = weights(size)
    lift = torch.tensor(0.013, dtype=torch.float64, requires_grad=True)
    xy = torch.tensor([[3.5, 3.5], [59.5, 3.5], [59.5, 59.5], [3.5, 59.5]], dtype=torch.float64)
    flat = quad(xy, size, 0.0)
    depth = lift + slope[0] * flat[:, 0] + slope[1] * flat[:, 1]
    tilted = torch.cat([flat[:, :2], depth[:, None], flat[:, 3:]], -1)
    faces = torch.cat([QUAD, QUAD + 4])
    image = drawn(torch.cat([tilted, flat]), faces, size, 1, torch.tensor([1.0, 1, 0.3, 0.3]).double())
    (got,) = torch.autograd.grad((image * weight).sum(), lift)
    # Finite difference of the exact area, by a thousand columns each way.
    axis = (torch.arange(1400, dtype=torch.float64) + 0.5) * (56 / 1400) + 3.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    plane = slope[0] * ((x + 0.5) / 32 - 1) + slope[1] * (1 - (y + 0.5) / 32)

    def loss(value):
        return float((torch.where(value + plane < 0, 1.0, 0.3) * at(x, y)).sum()) * (56 / 1400) ** 2

    want = (loss(0.013 + 0.02) - loss(0.013 - 0.02)) / 0.04
    assert float(got) == pytest.approx(want, rel=0.04)


def test_neighbours_on_a_surface_have_no_edge_between_them(device):
    """A sheet that fills the picture, of triangles of a pixel, in many colours, whether they share vertices or not."""
    xy, faces = sheet(40, 40, -10.0, 42.0, 1)
    for apart in (False, True):
        flat = on_screen(xy, (32, 32), 0.2)
        wave = 0.1 * torch.sin(xy[:, 0] / 5) + 0.05 * torch.cos(xy[:, 1] / 3)
        position = torch.cat([flat[:, :2], (flat[:, 2] + wave)[:, None], flat[:, 3:]], -1)
        triangles = faces
        if apart:
            position, triangles = position[faces.long().flatten()], torch.arange(faces.numel()).int().reshape(-1, 3)
        leaf = position.float()[None].to(device).requires_grad_()
        triangles = triangles.to(device)
        fragments = rasterise(leaf.detach(), triangles, (32, 32))
        assert (fragments.face >= 0).all()
        image = random_image(fragments).float().to(device)
        out = antialias(image, leaf, triangles, fragments)
        (got,) = torch.autograd.grad(out.square().sum(), leaf)
        assert got.count_nonzero() == 0


@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
def test_the_last_row_and_column_count(side):
    """An edge between the last two rows or columns of a picture moves."""
    size = (16, 16)
    corners = {
        "left": [[0.5, -9], [30, -9], [30, 30], [0.5, 30]],
        "right": [[-9, -9], [14.5, -9], [14.5, 30], [-9, 30]],
        "top": [[-9, 0.5], [30, 0.5], [30, 30], [-9, 30]],
        "bottom": [[-9, -9], [30, -9], [30, 14.5], [-9, 14.5]],
    }[side]
    move = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    position = quad(torch.tensor(corners, dtype=torch.float64) + move, size)
    image = drawn(position, QUAD, size, 1, torch.ones(2).double())
    (got,) = torch.autograd.grad(image.sum(), move)
    want = {"left": (-16, 0), "right": (16, 0), "top": (0, -16), "bottom": (0, 16)}[side]
    assert got.tolist() == pytest.approx(want)


def test_a_scale_of_homogeneous_coordinates_moves_nothing():
    position, faces = soup(4, views=1)
    scale = torch.ones(position.shape[1], dtype=torch.float64, requires_grad=True)
    scaled = position * scale[:, None]
    fragments = rasterise(scaled, faces, SIZE)
    (got,) = torch.autograd.grad(antialias(random_image(fragments), scaled, faces, fragments).square().sum(), scale)
    leaf = position.requires_grad_()
    (most,) = torch.autograd.grad(antialias(random_image(fragments), leaf, faces, fragments).square().sum(), leaf)
    assert got.abs().max() < 1e-9 * most.abs().max()


def test_around_the_eye_is_finite(device):
    position, faces = around_the_eye(2, triangles=200)
    leaf = position.float().to(device).requires_grad_()
    fragments = rasterise(leaf.detach(), faces.to(device), SIZE)
    image = random_image(fragments).float().to(device)
    (got,) = torch.autograd.grad(antialias(image, leaf, faces.to(device), fragments).square().sum(), leaf)
    assert got.isfinite().all() and got.any()


def test_gradient_is_the_same_for_any_number_of_threads(restore_threads):
    position, faces = soup(3, views=1, triangles=200, dtype=torch.float32)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(run(antialias, position, faces))
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*results, strict=True))


@pytest.mark.parametrize(("views", "triangles", "channels"), [(0, 1, 3), (1, 0, 3), (1, 4, 0)])
def test_nothing(device, views, triangles, channels):
    position = torch.rand(views, 12, 4, device=device, requires_grad=True)
    faces = torch.arange(3 * triangles, device=device).int().reshape(triangles, 3)
    fragments = rasterise(position.detach(), faces, (8, 8))
    image = torch.rand(views, 8, 8, channels, device=device, requires_grad=True)
    out = antialias(image, position, faces, fragments, samples=2)
    gradients = torch.autograd.grad(out.sum(), (image, position))
    assert out.shape == (views, 4, 4, channels) and not gradients[1].any()
    assert [g.shape for g in gradients] == [image.shape, position.shape]


@pytest.mark.parametrize("both", [True, False])
def test_opcheck(device, both):
    position, faces = soup(2, triangles=6, dtype=torch.float32)
    fragments = rasterise(position, faces, (8, 12))
    image = random_image(fragments, 2).float().to(device).requires_grad_()
    arguments = (image, position.to(device).requires_grad_(both), faces.to(device), fragments.face.to(device), 2)
    torch.library.opcheck(OPS.antialias.default, arguments)


def test_errors_name_the_argument():
    position, faces = soup(2, triangles=6, dtype=torch.float32)
    fragments = rasterise(position, faces, (8, 12))
    image = random_image(fragments).float()
    for change, error, message in (
        (dict(image=image[:1]), ValueError, r"antialias: image must be \(2, 8, 12\) and channels, got \(1, 8, 12, 3\)"),
        (dict(image=image.double()), TypeError, "antialias: image must be torch.float32"),
        (dict(position=position[:1]), ValueError, "antialias: position must have 2 views, got 1"),
        (dict(position=position[0]), ValueError, r"antialias: position must be \(B, V, 4\)"),
        (dict(faces=faces.long()), TypeError, "antialias: faces must be torch.int32"),
        (dict(fragments=fragments._replace(face=fragments.depth)), TypeError, "antialias: face must be torch.int32"),
        (dict(samples=3), ValueError, "antialias: samples must be a whole divisor of 8 and 12, got 3"),
        (dict(samples=0), ValueError, "antialias: samples must be a whole divisor"),
    ):
        with pytest.raises(error, match=message):
            antialias(**dict(image=image, position=position, faces=faces, fragments=fragments) | change)


def test_is_differentiable_once():
    position, faces = soup(2, views=1, triangles=6)
    fragments = rasterise(position, faces, (8, 8))
    leaf = random_image(fragments).requires_grad_()
    out = antialias(leaf, position, faces, fragments)
    (gradient,) = torch.autograd.grad(out.square().sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once only"):
        torch.autograd.grad(gradient.sum(), leaf)


def test_texture_of_a_surface_learns_through_interpolate():
    """Colours at vertices and their positions together: the derivative of a picture that no edge crosses."""
    position = quad([[-9.3, -8.6], [30, -9], [30, 29], [-9, 30]], (16, 16))[None].requires_grad_()
    color = torch.tensor([[[0.1], [0.5], [0.9], [0.3]]], dtype=torch.float64, requires_grad=True)

    def picture(position, color):
        fragments = rasterise(position, QUAD, (16, 16))
        return antialias(interpolate(color, QUAD, fragments), position, QUAD, fragments, samples=2)

    assert torch.autograd.gradcheck(picture, (position, color), atol=1e-6)
