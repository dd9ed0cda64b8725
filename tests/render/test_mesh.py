"""Pictures of surfaces: against rays that meet a ball, their sides, the light, the gradient of a silhouette."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from dreamfusion_ngp.render.mesh import lambert, render_mesh
from dreamfusion_ngp.scene.cameras import camera_rays, clip_matrices, orbit
from dreamfusion_ngp.scene.surface import Surface, vertex_normals

PLAIN = torch.tensor([[0.0, 0.0, 0.0, 1.0, 0.0, 0.0]])


class Ball(Surface):
    """An icosphere with a centre and a radius, whose colours are its coordinates."""

    bound = 1.0

    def __init__(self, radius=0.5, centre=(0.0, 0.0, 0.0), subdivisions=4):
        super().__init__()
        import trimesh

        ball = trimesh.creation.icosphere(subdivisions=subdivisions)
        self.unit = torch.tensor(np.array(ball.vertices), dtype=torch.float32)
        self.faces = torch.tensor(np.array(ball.faces), dtype=torch.int32)
        self.radius = torch.nn.Parameter(torch.tensor(radius))
        self.centre = torch.nn.Parameter(torch.tensor(centre))

    def forward(self):
        return self.centre + self.radius * self.unit, self.faces

    def paint(self, x, face, barycentric):
        assert len(x) == len(face) == len(barycentric)
        return (x + 1) / 2

    def parameter_groups(self):
        return {"grid": list(self.parameters())}


def test_is_what_rays_meet():
    """Rays through pixel centres meet the ball where the pixels say, in three views, one of them from above."""
    radius, size, cameras = 0.5, 48, orbit([0, 70, 200], [10, 85, -30], [1.8, 2.0, 2.2], [1.2, 1.0, 1.4])
    out = render_mesh(Ball(radius), cameras, PLAIN.expand(3, 6), torch.zeros(3, 3), resolution=size)
    origins, directions = camera_rays(cameras, size)
    along = -(origins * directions).sum(-1)
    nearest = (origins + along[:, None] * directions).norm(dim=-1)
    half = (radius**2 - nearest.square()).clamp(min=0).sqrt()
    x = origins + (along - half)[:, None] * directions
    hit = (nearest < radius).reshape(3, size, size)
    sure = (nearest - radius).abs().reshape(3, size, size) > 0.01  # the ball has corners
    assert torch.equal((out.opacity > 0.5)[sure], hit[sure]) and hit[sure].any()
    inner = (nearest < 0.9 * radius).reshape(3, size, size)
    x = x.reshape(3, size, size, 3)
    torch.testing.assert_close(out.rgb[inner], (x[inner] + 1) / 2, atol=4e-3, rtol=0)
    torch.testing.assert_close(out.normal[inner], x[inner] / radius, atol=2e-2, rtol=0)
    axis = -cameras.c2w[:, None, None, :, 2]
    depth = ((x - cameras.position[:, None, None]) * axis).sum(-1)
    torch.testing.assert_close(out.depth[inner], depth[inner], atol=6e-3, rtol=0)
    assert not out.depth[~hit & sure].any()


def test_clip_matrices_put_near_and_far_where_they_are():
    cameras = orbit([30.0], 20.0, 2.0, 1.3)
    towards = -cameras.c2w[0, :, 2]
    points = cameras.position[0] + torch.tensor([[0.1], [7.0]]) * towards
    clip = torch.cat([points, torch.ones(2, 1)], 1) @ clip_matrices(cameras, 0.1, 7.0)[0].T
    torch.testing.assert_close(clip[:, 3], torch.tensor([0.1, 7.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(clip[:, 2] / clip[:, 3], torch.tensor([-1.0, 1.0]), atol=1e-4, rtol=0)
    right = cameras.c2w[0, :, 0] / (2 * 1.3)  # the right edge of the picture at distance 1
    edge = torch.cat([cameras.position[0] + towards + right, torch.ones(1)]) @ clip_matrices(cameras, 0.1, 7.0)[0].T
    torch.testing.assert_close(edge[:2] / edge[3], torch.tensor([1.0, 0.0]), atol=1e-5, rtol=0)


def test_the_front_is_red_to_the_right_and_green_above():
    """From +Z the colours (x, y, z) rise to the right and upwards, row 0 at the top."""
    rgb = render_mesh(Ball(), orbit([0.0], 0.0, 2.0, 1.2), PLAIN, torch.zeros(1, 3), resolution=33).rgb[0]
    assert rgb[16, 24, 0] > rgb[16, 8, 0] + 0.1 and rgb[8, 16, 1] > rgb[24, 16, 1] + 0.1


def test_background_and_opacity_are_averaged_over_samples():
    background = torch.tensor([[0.2, 0.5, 0.7]])
    camera = orbit([0.0], 0.0, 2.0, 1.2)
    coarse, fine = (render_mesh(Ball(), camera, PLAIN, background, resolution=24, samples=s) for s in (1, 4))
    assert set(coarse.opacity.unique().tolist()) == {0.0, 1.0} and len(fine.opacity.unique()) > 5
    torch.testing.assert_close(fine.rgb[0, 0], background.expand(24, 3))
    area = np.pi * (1.2 * 24 * np.tan(np.arcsin(0.5 / 2.0))) ** 2
    assert float(fine.opacity.sum()) == pytest.approx(area, rel=0.01)


@pytest.mark.parametrize("samples", [1, 2])
def test_a_silhouette_has_the_gradient_of_its_area(samples):
    ball, size = Ball(0.5), 64
    render = render_mesh(ball, orbit([0.0], 0.0, 2.0, 1.2), PLAIN, torch.zeros(1, 3), resolution=size, samples=samples)
    got = torch.autograd.grad(render.opacity.sum(), [ball.radius, ball.centre])
    # (f size)^2 pi tan^2(asin(r / d)) = (f size)^2 pi r^2 / (d^2 - r^2)
    want = (1.2 * size) ** 2 * np.pi * 2 * 0.5 * 4 / (4 - 0.25) ** 2
    assert float(got[0]) == pytest.approx(want, rel=0.02)
    nearer = (1.2 * size) ** 2 * np.pi * 0.25 * 2 * 2 / (4 - 0.25) ** 2
    assert got[1].tolist() == pytest.approx([0, 0, nearer], abs=0.03 * want)


def test_light():
    """Ambient and diffuse on a surface that faces the light, at 60 degrees, turned away; white without a texture."""
    normal = torch.tensor([[0, 0, 1.0], [0, 0.75**0.5, 0.5], [0, 0, -1]])
    rows = torch.tensor([0.0, 0, 3, 0.1, 0.9, 0]).expand(3, 6)
    color = lambert(torch.full((3, 3), 0.5), normal, torch.zeros(3, 3), rows)
    torch.testing.assert_close(color[:, 0], 0.5 * torch.tensor([1.0, 0.55, 0.1]))
    plain = torch.tensor([0.0, 0, 3, 0.1, 0.9, 1]).expand(3, 6)
    torch.testing.assert_close(lambert(torch.rand(3, 3), normal, torch.zeros(3, 3), plain)[:, 1], 2 * color[:, 0])


def test_vertex_normals():
    vertices, faces = Ball(0.3)()
    torch.testing.assert_close(vertex_normals(vertices, faces), vertices / 0.3, atol=8e-3, rtol=0)
    few = torch.rand(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32)
    assert gradcheck(lambda v: vertex_normals(v, faces)[:4], few)
    assert not vertex_normals(few, faces)[4].any()


def test_nothing_is_seen_of_no_triangles(device):
    class Empty(Ball):
        def forward(self):
            return torch.zeros(0, 3, device=device, requires_grad=True), torch.zeros(0, 3, device=device).int()

    background = torch.tensor([[0.2, 0.5, 0.7]])
    out = render_mesh(Empty(), orbit([0.0], 0.0, 2.0, 1.2), PLAIN, background, resolution=8)
    assert not out.opacity.any() and torch.allclose(out.rgb.cpu(), background.expand(8, 8, 3))
    torch.autograd.grad(out.rgb.sum(), out.vertices)


def test_normals_are_shown_in_the_axes_of_each_camera():
    """A ball looks the same from everywhere: red to the right, green up, blue towards the camera."""
    cameras = orbit([0, 70, 200], [10, 80, -30], [2.0] * 3, [1.2] * 3)
    out = render_mesh(Ball(0.5), cameras, PLAIN.expand(3, 6), torch.zeros(3, 3), resolution=33, show="normal")
    sure = (out.opacity > 0.99).all(0)
    torch.testing.assert_close(out.rgb[1][sure], out.rgb[0][sure], atol=0.02, rtol=0)
    torch.testing.assert_close(out.rgb[2][sure], out.rgb[0][sure], atol=0.02, rtol=0)
    torch.testing.assert_close(out.rgb[:, 16, 16], torch.tensor([0.5, 0.5, 1.0]).expand(3, 3), atol=0.02, rtol=0)
    across, down = torch.where(sure[16])[0], torch.where(sure[:, 16])[0]
    assert (out.rgb[0, 16, across[-1]] - out.rgb[0, 16, across[0]])[0] > 0.7
    assert (out.rgb[0, down[0], 16] - out.rgb[0, down[-1], 16])[1] > 0.7
