"""The relief of a surface in a GLB: a normal map and tangents, read as renderers read them."""

import io

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from dreamfusion_ngp.export.isosurface import Mesh
from dreamfusion_ngp.export.meshes import export_surface
from dreamfusion_ngp.export.texture import tangents_of
from dreamfusion_ngp.importer.gltf import accessor, read_glb
from dreamfusion_ngp.scene.surface import bumped

BALL = trimesh.creation.icosphere(subdivisions=3, radius=0.4)


def gray(x):
    return torch.full((len(x), 3), 0.5)


def slope(x):
    """Gradient of the height .04 sin(7 x) cos(5 y) + .03 sin(6 z): up to .3 along each axis."""
    a, b, c = 7 * x[:, 0], 5 * x[:, 1], 6 * x[:, 2]
    return torch.stack([0.28 * a.cos() * b.cos(), -0.2 * a.sin() * b.sin(), 0.18 * c.cos()], -1)


@pytest.fixture(scope="module")
def glb(tmp_path_factory):
    folder = tmp_path_factory.mktemp("relief")
    ball = Mesh(np.asarray(BALL.vertices), np.asarray(BALL.faces))
    return export_surface(ball, gray, folder, ("glb", "obj"), texture=512, faces=0, slope=slope)["paths"]["glb"]


def image_of(document, texture):
    index = document.json["textures"][texture["index"]]["source"]
    view = document.json["bufferViews"][document.json["images"][index]["bufferView"]]
    data = document.buffers[0][view.get("byteOffset", 0) :][: view["byteLength"]]
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float64) / 255


def test_a_renderer_sees_the_normals_of_the_relief(glb):
    with open(glb, "rb") as file:
        document = read_glb(file.read(), None)
    (primitive,) = document.json["meshes"][0]["primitives"]
    names = primitive["attributes"]
    vertices, normals, tangents, uv = (
        accessor(document, names[name]).astype(np.float64) for name in ("POSITION", "NORMAL", "TANGENT", "TEXCOORD_0")
    )
    assert np.allclose(np.linalg.norm(tangents[:, :3], axis=1), 1, atol=1e-5) and set(tangents[:, 3]) <= {-1.0, 1.0}
    assert np.abs((tangents[:, :3] * normals).sum(1)).max() < 1e-5
    faces = accessor(document, primitive["indices"]).astype(np.int64).reshape(-1, 3)
    picture = image_of(document, document.json["materials"][primitive["material"]]["normalTexture"])
    random = np.random.default_rng(0)
    face, weight = random.integers(0, len(faces), 20_000), random.dirichlet([2.0, 2.0, 2.0], 20_000)
    at = {
        name: (values[faces[face]] * weight[..., None]).sum(1)
        for name, values in {"x": vertices, "n": normals, "t": tangents, "uv": uv}.items()
    }
    normal, tangent = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (at["n"], at["t"][:, :3]))
    # glTF: v runs down the image; x of the map along the tangent, y along the bitangent, z along the normal.
    column, row = (at["uv"] * len(picture)).astype(int).clip(0, len(picture) - 1).T
    texel = picture[row, column] * 2 - 1
    bitangent = np.cross(normal, tangent) * np.sign(at["t"][:, 3:])
    seen = texel[:, :1] * tangent + texel[:, 1:2] * bitangent + texel[:, 2:] * normal
    seen /= np.linalg.norm(seen, axis=1, keepdims=True)
    want = bumped(torch.tensor(normal), slope(torch.tensor(at["x"]))).numpy()
    error = np.degrees(np.arccos((seen * want).sum(1).clip(-1, 1)))
    tilt = np.degrees(np.arccos((normal * want).sum(1).clip(-1, 1)))
    assert tilt.mean() > 8 and np.median(error) < 0.6 and np.quantile(error, 0.99) < 2.5


def test_without_relief_there_is_no_normal_map(tmp_path):
    ball = Mesh(np.asarray(BALL.vertices), np.asarray(BALL.faces))
    path = export_surface(ball, gray, tmp_path, ("glb",), texture=64, faces=0)["paths"]["glb"]
    with open(path, "rb") as file:
        document = read_glb(file.read(), None)
    assert len(document.json["images"]) == 1 and "normalTexture" not in document.json["materials"][0]
    assert "TANGENT" not in document.json["meshes"][0]["primitives"][0]["attributes"]


def test_tangents_point_along_u_in_plain_mirrored_and_degenerate_charts():
    square = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    up, faces = np.tile([0.0, 0, 1], (4, 1)), np.array([[0, 1, 2], [0, 2, 3]])
    turned = np.stack([square[:, 1], 1 - square[:, 0]], 1)  # u along y, v along -x
    for uv, right, sign in ((square[:, :2], [1, 0, 0], 1), (turned, [0, 1, 0], 1), (turned * [1, -1], [0, 1, 0], -1)):
        assert tangents_of(square, up, uv, faces) == pytest.approx(np.tile([*right, sign], (4, 1)))
    lost = tangents_of(square, up, np.zeros((4, 2)), faces)
    assert np.linalg.norm(lost[:, :3], axis=1) == pytest.approx(1.0) and np.abs((lost[:, :3] * up).sum(1)).max() == 0


def test_a_bumped_normal_is_that_of_the_raised_surface():
    """On the unit sphere raised by a small height: against the normals of that surface, by finite differences."""
    x = torch.nn.functional.normalize(torch.randn(200, 3, dtype=torch.float64, generator=torch.manual_seed(0)), dim=-1)
    helper = torch.nn.functional.normalize(torch.linalg.cross(x, x.roll(1, -1)), dim=-1)
    other, step, scale = torch.linalg.cross(x, helper), 1e-5, 1e-3

    def raised(p):
        p = torch.nn.functional.normalize(p, dim=-1)
        return p * (1 + scale * (9 * p[:, :1]).sin() * (1 + p[:, 1:2]))

    one, two = (raised(x + step * d) - raised(x - step * d) for d in (helper, other))
    want = torch.nn.functional.normalize(torch.linalg.cross(one, two), dim=-1)
    height = scale * (9 * x[:, 0]).sin()
    gradient = torch.stack([9 * scale * (9 * x[:, 0]).cos() * (1 + x[:, 1]), height, torch.zeros_like(height)], -1)
    assert bumped(x, gradient) == pytest.approx(want, abs=2e-5)
    assert bumped(x, 5 * x) == pytest.approx(x)
