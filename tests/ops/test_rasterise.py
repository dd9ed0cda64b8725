"""Rasterise: against every pixel and every triangle, who owns an edge, the near plane, its derivatives, its errors."""

from fractions import Fraction

import pytest
import torch
from support.triangles import around_the_eye, on_screen, sheet, soup
from torch.autograd import gradcheck

from dreamfusion_ngp.ops import reference
from dreamfusion_ngp.ops.rasterise import rasterise

OPS = torch.ops.dreamfusion_ngp
SIZE = (24, 32)


def values_and_gradient(op, position, faces, size=SIZE, **options):
    leaf = position.clone().requires_grad_()
    fragments = op(leaf, faces, size, **options)
    generator = torch.Generator().manual_seed(9)
    incoming = [torch.randn(v.shape, generator=generator, dtype=torch.float64).to(v) for v in fragments[1:]]
    return fragments, torch.autograd.grad(fragments[1:], leaf, incoming)[0]


@pytest.mark.parametrize("cull", [False, True])
@pytest.mark.parametrize("scene", [soup, around_the_eye])
@pytest.mark.parametrize("seed", range(4))
def test_matches_the_reference(scene, seed, cull):
    position, faces = scene(seed)
    got, gradient = values_and_gradient(rasterise, position, faces, cull=cull)
    want, expected = values_and_gradient(reference.rasterise, position, faces, cull=cull)
    assert torch.equal(got.face, want.face) and (got.face >= 0).double().mean() > 0.3
    torch.testing.assert_close(got.depth, want.depth, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(got.barycentric, want.barycentric, atol=1e-11, rtol=1e-11)
    torch.testing.assert_close(gradient, expected, atol=1e-9 * float(expected.abs().max()), rtol=1e-9)


@pytest.mark.parametrize("scene", [soup, around_the_eye])
def test_float32_differs_by_its_rounding(device, scene):
    position, faces = scene(7)
    want = reference.rasterise(position, faces, SIZE)
    got = rasterise(position.float().to(device), faces.to(device), SIZE)
    same = got.face.cpu() == want.face
    assert same.double().mean() > 0.995  # centres on an edge, depths that are equal
    torch.testing.assert_close(got.depth.cpu().double()[same], want.depth[same], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got.barycentric.cpu().double()[same], want.barycentric[same], atol=1e-3, rtol=0)


def test_is_the_same_on_every_device_and_number_of_threads(device, restore_threads):
    position, faces = around_the_eye(3, views=3, triangles=500)
    position = position.float()
    one = rasterise(position, faces, (64, 48))
    torch.set_num_threads(2)
    other = rasterise(position.to(device), faces.to(device), (64, 48))
    assert torch.equal(one.face, other.face.cpu())
    torch.testing.assert_close(one.barycentric, other.barycentric.cpu(), atol=0 if device == "cpu" else 1e-5, rtol=0)


def test_gradient_is_the_same_for_any_number_of_threads(restore_threads):
    position, faces = soup(3, views=1, triangles=200, dtype=torch.float32)
    gradients = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        gradients.append(values_and_gradient(rasterise, position, faces, (64, 48))[1])
    assert torch.equal(gradients[0], gradients[1]) and torch.equal(gradients[0], gradients[2])


def test_views_are_what_each_is_alone(device):
    position, faces = soup(5, views=3, dtype=torch.float32)
    position, faces = position.to(device), faces.to(device)
    together = rasterise(position, faces, SIZE)
    for view in range(3):
        alone = rasterise(position[view : view + 1], faces, SIZE)
        assert all(torch.equal(a[view : view + 1], b) for a, b in zip(together, alone, strict=True))


def coverage(xy, faces, size, device, turned=False):
    """(H, W) how many triangles own a pixel, each drawn alone as one view."""
    corners = on_screen(xy, size).float()[faces.long()]  # (F, 3, 4)
    one = torch.tensor([[0, 2, 1] if turned else [0, 1, 2]], dtype=torch.int32, device=device)
    return (rasterise(corners.to(device), one, size).face >= 0).sum(0).cpu()


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_every_pixel_of_a_sheet_has_one_owner(device, seed, turned):
    """Vertices on pixel centres (no seed) and anywhere, and copied for every triangle: the rule needs no numbers."""
    size = (40, 40)
    xy, faces = sheet(18, 13, 3.0, 37.0, seed)
    count = coverage(xy, faces, size, device, turned)
    assert (count[4:37, 4:37] == 1).all() and (count <= 1).all()
    assert not count[:3].any() and not count[38:].any()


def owned(triangle, x, y):
    """Whether a triangle with whole coordinates, clockwise on a screen with y down, owns the centre (x, y)."""
    for (ax, ay), (bx, by) in zip(triangle, [*triangle[1:], triangle[0]], strict=True):
        value = Fraction(bx - ax) * (y - ay) - Fraction(by - ay) * (x - ax)
        top_left = by < ay or (by == ay and bx > ax)
        if value < 0 or (value == 0 and not top_left):
            return False
    return True


@pytest.mark.parametrize("seed", range(8))
def test_top_left_rule(device, seed):
    generator = torch.Generator().manual_seed(seed)
    xy = torch.randint(1, 15, (3, 2), generator=generator)
    (ax, ay), (bx, by), (cx, cy) = xy.tolist()
    if (bx - ax) * (cy - ay) - (by - ay) * (cx - ax) < 0:
        xy = xy.flip(0)
    corners = [tuple(v) for v in xy.tolist()]
    want = torch.tensor([[owned(corners, x, y) for x in range(16)] for y in range(16)])
    position = on_screen(xy.double(), (16, 16)).float()[None].to(device)
    faces = torch.tensor([[0, 1, 2]], dtype=torch.int32, device=device)
    assert torch.equal(rasterise(position, faces, (16, 16)).face[0].cpu() == 0, want)


def test_a_floor_under_the_eye_reaches_the_bottom_of_the_picture(device):
    """y = -1, far behind the camera and far before it, under an eye that looks along -z: all below the horizon."""
    x, z = torch.tensor([-50.0, 50, 50, -50]), torch.tensor([50.0, 50, -50, -50])
    near, far = 0.1, 1000.0
    depth = (z * (far + near) + 2 * far * near) / (near - far)
    position = torch.stack([x, torch.full_like(x, -1.0), depth, -z], -1)[None].to(device)
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32, device=device)
    fragments = rasterise(position, faces, (100, 60))
    y = 1 - (torch.arange(100) + 0.5) / 50
    seen = (y < -1 / 50) & (y > -1 / near)  # until z = -50 at the horizon; before the near plane at the bottom
    assert torch.equal((fragments.face[0] >= 0).cpu().all(1), seen) and seen.sum() == 49
    w = (fragments.barycentric * position[0, :, 3][faces.long()[fragments.face.long().clamp(min=0)]]).sum(-1)
    torch.testing.assert_close(w.cpu()[0, seen], (-1 / y[seen])[:, None].expand(-1, 60), atol=0, rtol=2e-3)


def test_behind_the_far_plane_and_the_eye_is_nothing(device):
    square = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32, device=device)
    for z, w, seen in ((0.0, 1.0, True), (1.0, 1.0, True), (-1.0, 1.0, True), (1.01, 1.0, False), (-1.01, 1.0, False)):
        position = torch.cat([square, torch.tensor([z, w]).expand(4, 2)], 1)[None].to(device)
        assert (rasterise(position, faces, (8, 8)).face >= 0).all() == seen, (z, w)
    position = torch.cat([square, torch.tensor([0.0, -1.0]).expand(4, 2)], 1)[None].to(device)
    assert (rasterise(position, faces, (8, 8)).face < 0).all()


@pytest.mark.parametrize("y", [-1.5, -1.00001, 1.00001, 1.5])
def test_outside_of_the_largest_picture_is_nothing(simd, y):
    """The row behind the last, 32768, is no number of 16 bits."""
    position = torch.tensor([[[-0.5, y, 0, 1], [0.5, y, 0, 1], [0, 1.2 * y, 0, 1]]])
    faces = torch.tensor([[0, 1, 2]], dtype=torch.int32)
    assert (rasterise(position, faces, (1 << 15, 1)).face == -1).all()


def test_of_two_at_one_depth_the_first_is_seen(device):
    position, faces = soup(1, views=1, triangles=10, dtype=torch.float32)
    twice = torch.cat([faces, faces]).to(device)
    face = rasterise(position.to(device), twice, SIZE).face
    assert torch.equal(face, rasterise(position.to(device), faces.to(device), SIZE).face)


def test_front_faces_run_counter_clockwise(device):
    corners = torch.tensor([[[-1.0, -1, 0, 1], [1, -1, 0, 1], [0, 1, 0, 1]]], device=device)
    front = torch.tensor([[0, 1, 2]], dtype=torch.int32, device=device)
    assert (rasterise(corners, front, SIZE, cull=True).face == 0).any()
    assert not (rasterise(corners, front.flip(1), SIZE, cull=True).face == 0).any()
    assert (rasterise(corners, front.flip(1), SIZE).face == 0).any()


def test_what_is_no_triangle_is_not_drawn(device):
    good = torch.tensor([[-1.0, -1, 0, 1], [1, -1, 0, 1], [0, 1, 0, 1]])
    bad = good.repeat(5, 1)
    bad[0, 0], bad[4, 1], bad[8, 2], bad[9, 3], bad[12] = float("nan"), float("inf"), float("nan"), 0.0, bad[13]
    bad[9, 2] = 1.0
    position = torch.cat([bad, good])[None].to(device)
    faces = torch.arange(18, dtype=torch.int32).reshape(6, 3)
    odd = torch.tensor([[0, 1, 18], [-1, 1, 2], [2**31 - 1, 0, 1], [15, 15, 16]], dtype=torch.int32)
    fragments = rasterise(position, torch.cat([faces, odd]).to(device), SIZE)
    drawn = set(fragments.face.unique().tolist())
    assert drawn <= {-1, 3, 5} and 5 in drawn  # 3: one vertex behind the eye is clipped, not dropped
    assert all(v.isfinite().all() for v in fragments[1:])


@pytest.mark.parametrize(("views", "vertices", "triangles"), [(0, 3, 1), (1, 0, 1), (2, 3, 0), (0, 0, 0)])
def test_nothing(device, views, vertices, triangles):
    position = torch.zeros(views, vertices, 4, device=device, requires_grad=True)
    faces = torch.zeros(triangles, 3, dtype=torch.int32, device=device)
    fragments = rasterise(position, faces, SIZE)
    assert fragments.face.shape == (views, *SIZE) and (fragments.face == -1).all() and (fragments.depth == 1).all()
    (gradient,) = torch.autograd.grad(fragments.depth.sum() + fragments.barycentric.sum(), position)
    assert gradient.shape == position.shape and not gradient.any()


def test_barycentrics_are_perspective(device):
    """A point half way along an edge in space is nearer on the screen to the end that is farther away."""
    position = torch.tensor([[[-1.0, 0, 0, 1], [3, 0, 0, 3], [0, -8, 0, 1]]], device=device)
    faces = torch.tensor([[0, 1, 2]], dtype=torch.int32, device=device)
    b = rasterise(position, faces, (101, 100)).barycentric[0, 50].cpu()
    x = (torch.arange(100) + 0.5) / 50 - 1
    torch.testing.assert_close(b[:, 1], (1 + x) / (4 - 2 * x), atol=1e-5, rtol=0)


def test_gradcheck():
    for scene in (soup, around_the_eye):
        position, faces = scene(2, views=1, triangles=6)

        def fragments(p, faces=faces):
            return rasterise(p, faces, (7, 9))[1:]

        assert gradcheck(fragments, (position.requires_grad_(),), atol=1e-5, rtol=1e-4)


def test_opcheck(device):
    position, faces = soup(2, views=2, triangles=6, dtype=torch.float32)
    arguments = (position.to(device).requires_grad_(), faces.to(device), 7, 9, False)
    torch.library.opcheck(OPS.rasterise.default, arguments)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"position": torch.zeros(3, 4)}, ValueError, r"rasterise: position must be \(B, V, 4\), got \(3, 4\)"),
        ({"position": torch.zeros(1, 3, 3)}, ValueError, r"rasterise: position must be \(B, V, 4\)"),
        ({"position": torch.zeros(1, 3, 4).half()}, TypeError, "rasterise: position must be torch.float32"),
        ({"position": [[0.0]]}, TypeError, "rasterise: position must be a torch.Tensor, got list"),
        ({"faces": torch.zeros(2, 3).long()}, TypeError, "rasterise: faces must be torch.int32, got torch.int64"),
        ({"faces": torch.zeros(2, 4).int()}, ValueError, r"rasterise: faces must be \(F, 3\), got \(2, 4\)"),
        ({"faces": torch.zeros(2, 3, device="meta").int()}, ValueError, "rasterise: faces is on meta"),
        ({"size": (0, 4)}, ValueError, r"rasterise: size must be \(height, width\)"),
        ({"size": (4, 1 << 16)}, ValueError, r"rasterise: size must be \(height, width\)"),
        ({"size": (4.5, 4)}, ValueError, r"rasterise: size must be \(height, width\)"),
        ({"size": 4}, ValueError, r"rasterise: size must be \(height, width\)"),
    ],
)
def test_errors_name_the_argument(change, error, message):
    arguments = dict(position=torch.zeros(1, 3, 4), faces=torch.zeros(1, 3).int(), size=(4, 4)) | change
    with pytest.raises(error, match=message):
        rasterise(**arguments)


def test_is_differentiable_once():
    position, faces = soup(2, views=1, triangles=6)
    leaf = position.requires_grad_()
    (gradient,) = torch.autograd.grad(rasterise(leaf, faces, (8, 8)).depth.sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once only"):
        torch.autograd.grad(gradient.sum(), leaf)
