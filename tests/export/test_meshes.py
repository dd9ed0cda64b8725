"""The files: read back with another program's eyes."""

import io
import json
import os
import struct

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from support.analytic import position_albedo, toy, toy_albedo

from dreamfusion_ngp.base.errors import ExportError, UsageError
from dreamfusion_ngp.export.formats import FORMATS
from dreamfusion_ngp.export.isosurface import Mesh
from dreamfusion_ngp.export.meshes import export_mesh, export_surface
from dreamfusion_ngp.export.texture import rasterise, surface_color

BOUND = 0.75
IDENTITY = np.eye(4).ravel().tolist()
SMALL = {"resolution": 64, "texture": 256, "faces": 3000}


@pytest.fixture(scope="module")
def duck(tmp_path_factory):
    folder = tmp_path_factory.mktemp("duck")
    return export_mesh(toy("duck"), toy_albedo("duck", "yellow"), BOUND, folder / "new", FORMATS, **SMALL)


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    """A duck whose colour tells the place."""
    return export_mesh(toy("duck"), position_albedo, BOUND, tmp_path_factory.mktemp("painted"), FORMATS, **SMALL)


def load(path):
    mesh = trimesh.load(path, process=False)
    if isinstance(mesh, trimesh.Scene):
        (mesh,) = mesh.geometry.values()
    return mesh


def glb_json(path):
    with open(path, "rb") as file:
        data = file.read()
    magic, version, length, size, kind = struct.unpack("<4sIII4s", data[:20])
    assert (magic, version, length, kind) == (b"glTF", 2, len(data), b"JSON")
    return json.loads(data[20 : 20 + size]), data[20 + size + 8 :]


def texture_at(mesh, uv):
    """Colours in [0, 1] of the nearest texels."""
    material = mesh.visual.material
    image = material.baseColorTexture if hasattr(material, "baseColorTexture") else material.image
    image = np.asarray(image.convert("RGB"))
    row = ((1 - uv[:, 1]) * len(image)).astype(int).clip(0, len(image) - 1)
    column = (uv[:, 0] * len(image)).astype(int).clip(0, len(image) - 1)
    return image[row, column] / 255


def surface_samples(mesh, n=2000):
    """(points, uv) at random places inside random faces."""
    random = np.random.default_rng(0)
    face = mesh.faces[random.choice(len(mesh.faces), n, p=mesh.area_faces / mesh.area)]
    weight = random.dirichlet([1, 1, 1], n)[..., None]
    return (mesh.vertices[face] * weight).sum(1), (mesh.visual.uv[face] * weight).sum(1)


def test_paths_are_absolute_and_nothing_else_lies_there(duck):
    assert set(duck["paths"]) == {"glb", "obj", "mtl", "png", "ply", "stl"}
    assert all(os.path.isabs(p) and os.path.getsize(p) > 0 for p in duck["paths"].values())
    folder = os.path.dirname(duck["paths"]["glb"])
    assert sorted(os.listdir(folder)) == sorted(os.path.basename(p) for p in duck["paths"].values())
    assert duck["watertight"] and duck["faces"] <= 3000
    json.dumps(duck)


def test_glb_has_one_mesh_with_one_plain_textured_material(duck):
    tree, binary = glb_json(duck["paths"]["glb"])
    assert len(tree["meshes"]) == len(tree["materials"]) == len(tree["images"]) == 1
    assert len(tree["meshes"][0]["primitives"]) == 1
    primitive = tree["meshes"][0]["primitives"][0]
    assert {"POSITION", "NORMAL", "TEXCOORD_0"} <= set(primitive["attributes"]) and primitive.get("mode", 4) == 4
    surface = tree["materials"][primitive["material"]]["pbrMetallicRoughness"]
    assert surface["metallicFactor"] == 0 and surface["roughnessFactor"] == 1
    assert tree["textures"][surface["baseColorTexture"]["index"]]["source"] == 0
    assert all(node.get("matrix", IDENTITY) == IDENTITY and "rotation" not in node for node in tree["nodes"])
    view = tree["bufferViews"][tree["images"][0]["bufferView"]]
    image = Image.open(io.BytesIO(binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]))
    assert tree["images"][0]["mimeType"] == "image/png" and image.format == "PNG" and image.size == (256, 256)


def test_glb_geometry_reads_back_closed_finite_and_the_right_way_out(duck):
    mesh = load(duck["paths"]["glb"])
    uv, normals = mesh.visual.uv, mesh.vertex_normals
    assert np.isfinite(mesh.vertices).all() and np.isfinite(uv).all() and np.isfinite(normals).all()
    assert uv.min() >= 0 and uv.max() <= 1 and np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-4)
    assert mesh.volume == pytest.approx(duck["volume"], rel=1e-3)
    corner_normals = normals[mesh.faces].mean(1)
    assert ((corner_normals * mesh.face_normals).sum(1) > 0).mean() > 0.98
    welded = trimesh.Trimesh(mesh.vertices, mesh.faces)
    welded.merge_vertices(merge_tex=True, merge_norm=True)
    assert welded.is_watertight and welded.is_winding_consistent


def test_up_is_y_and_the_front_faces_z(duck):
    mesh = load(duck["paths"]["glb"])
    low, high = mesh.bounds
    assert np.allclose(low, [-0.24, -0.30, -0.41], atol=0.05) and np.allclose(high, [0.24, 0.30, 0.41], atol=0.05)
    head = mesh.vertices[mesh.vertices[:, 1] > 0.2]
    assert head[:, 2].min() > 0  # the duck's head is in front and on top
    assert abs(mesh.center_mass[0]) < 0.01 and mesh.center_mass[2] < 0


@pytest.mark.parametrize(
    "place, color",
    [
        ((0, 0.12, 0.41), (0.98, 0.52, 0.08)),
        ((0.092, 0.212, 0.288), (0.11, 0.11, 0.13)),
        ((0, 0.06, -0.42), (0.95, 0.85, 0.12)),
        ((0.24, -0.10, -0.06), (0.57, 0.51, 0.072)),
    ],
)
def test_the_bill_the_eye_the_tail_and_the_wing_have_their_colours(duck, place, color):
    mesh = load(duck["paths"]["glb"])
    points, uv = surface_samples(mesh, 40000)
    nearest = np.linalg.norm(points - place, axis=1).argsort()[:5]
    assert np.abs(np.median(texture_at(mesh, uv[nearest]), 0) - color).max() < 0.06


@pytest.mark.parametrize("kind", ["glb", "obj"])
def test_texture_and_uv_fit_together_everywhere(painted, kind):
    mesh = load(painted["paths"][kind])
    points, uv = surface_samples(mesh)
    error = np.abs(texture_at(mesh, uv) - position_albedo(torch.tensor(points)).numpy()).max(1)
    assert np.median(error) < 0.02 and np.quantile(error, 0.99) < 0.05 and error.max() < 0.12
    mirrored = np.abs(texture_at(mesh, uv * [1, -1] + [0, 1]) - position_albedo(torch.tensor(points)).numpy()).max(1)
    assert np.median(mirrored) > 0.1  # the check above can tell


def test_obj_is_the_same_mesh_and_names_its_files(duck):
    mesh, reference = load(duck["paths"]["obj"]), load(duck["paths"]["glb"])
    assert len(mesh.faces) == len(reference.faces) and np.allclose(mesh.bounds, reference.bounds, atol=1e-5)
    assert mesh.volume == pytest.approx(reference.volume, rel=1e-3)
    with open(duck["paths"]["obj"]) as obj, open(duck["paths"]["mtl"]) as mtl:
        assert "mtllib mesh.mtl" in obj.read(200) and "map_Kd mesh.png" in mtl.read()


def test_ply_has_vertex_colours_and_stl_the_shape(painted):
    ply, stl = load(painted["paths"]["ply"]), trimesh.load(painted["paths"]["stl"])
    assert ply.is_watertight and stl.is_watertight
    scale = 100 / np.ptp(ply.vertices, axis=0).max()
    assert [ply.volume, stl.volume] == pytest.approx([painted["volume"], painted["volume"] * scale**3], rel=1e-3)
    assert ply.faces.shape == (painted["faces"], 3) and ply.vertices.shape == (painted["vertices"], 3)
    x, y, z = np.asarray(ply.vertices).T
    expected = position_albedo(torch.tensor(np.stack([x, z, -y], -1))).numpy()
    assert np.abs(ply.visual.vertex_colors[:, :3] / 255 - expected).max() < 0.05


def test_colour_comes_from_below_the_surface_where_rays_end():
    """Albedo that is wrong outside the solid must not show."""

    def density(x):
        return 200.0 * (x[:, 1] < 0).float()

    def albedo(x):
        return torch.where(x[:, 1:2] < 0, torch.tensor([0.8, 0.1, 0.1]), torch.tensor([0.0, 1.0, 0.0]))

    points = np.array([[0.0, 0.0, 0.0], [0.3, 0.001, -0.2]])
    color = surface_color(density, albedo, points, np.array([[0.0, 1.0, 0.0]] * 2), BOUND)
    assert np.allclose(color, [[0.8, 0.1, 0.1]] * 2, atol=0.01)


def barycentric(corner, point):
    """(N, 3) weights of the corners (N, 3, 2) at points (N, 2); -1 for a triangle without area."""
    ab, ac, ap = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0], point - corner[:, 0]
    area = ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0]
    safe = np.where(np.abs(area) > 1e-12, area, np.inf)
    v = (ap[:, 0] * ac[:, 1] - ap[:, 1] * ac[:, 0]) / safe
    w = (ab[:, 0] * ap[:, 1] - ab[:, 1] * ap[:, 0]) / safe
    return np.where(np.isinf(safe)[:, None], -1.0, np.stack([1 - v - w, v, w], -1))


def test_rasterise_agrees_with_a_test_of_every_texel_against_every_triangle():
    random = np.random.default_rng(1)
    corners = random.random((40, 1, 2)) + random.normal(0, 0.15, (40, 3, 2))
    corners = np.concatenate([corners, [[[0.5, 0.5]] * 3]]).clip(0, 1)  # the last one has no area
    faces = np.arange(123).reshape(41, 3)
    found, weights = rasterise(corners.reshape(-1, 2), faces, 32)
    row, column = np.mgrid[:32, :32]
    centre = np.stack([(column + 0.5) / 32, 1 - (row + 0.5) / 32], -1).reshape(-1, 2)
    inside = np.stack([(barycentric(np.repeat(c[None], 1024, 0), centre) >= -1e-9).all(1) for c in corners], 1)
    assert ((found.ravel() >= 0) == inside.any(1)).all() and 100 < (found >= 0).sum() < 900
    hit = found.ravel() >= 0
    assert inside[hit, found.ravel()[hit]].all()
    places = (corners[found.ravel()[hit]] * weights.reshape(-1, 3)[hit][..., None]).sum(1)
    assert np.allclose(places, centre[hit])


def test_a_surface_that_is_there_is_written_as_it_is(tmp_path):
    """A ball and a smaller one beside it, whose colours tell the place: the larger is kept, simplified, painted."""
    large, small = (trimesh.creation.icosphere(subdivisions=4, radius=r) for r in (0.5, 0.1))
    small.apply_translation([0.65, 0, 0])
    vertices = np.concatenate([large.vertices, small.vertices])
    both = Mesh(vertices, np.concatenate([large.faces, small.faces + len(large.vertices)]))
    done = export_surface(both, position_albedo, tmp_path, FORMATS, texture=256, faces=2000)
    assert done["pieces"] == 2 and done["watertight"] and 1500 < done["faces"] <= 2000
    assert done["volume"] == pytest.approx(4 / 3 * np.pi * 0.125, rel=0.02)
    mesh = load(done["paths"]["ply"])
    assert np.ptp(mesh.vertices, axis=0) == pytest.approx([1, 1, 1], abs=0.01)
    turned_back = mesh.vertices[:, [0, 2, 1]] * [1, 1, -1]
    want = position_albedo(torch.tensor(turned_back, dtype=torch.float32)).numpy() * 255
    assert np.abs(mesh.visual.vertex_colors[:, :3] - want).max() <= 1
    with pytest.raises(ExportError, match="no triangle"):
        export_surface(Mesh(np.zeros((0, 3)), np.zeros((0, 3), int)), position_albedo, tmp_path)


def test_a_failure_writes_nothing_and_keeps_what_was_there(tmp_path):
    (tmp_path / "mesh.glb").write_bytes(b"old")
    with pytest.raises(ExportError, match="empty"):
        export_mesh(lambda x: torch.zeros(len(x)), position_albedo, BOUND, tmp_path, FORMATS, resolution=16)
    for bad in ("nan", "inf", "-inf"):
        with pytest.raises(ExportError, match="not finite"):
            export_mesh(toy("mug"), lambda x: position_albedo(x) + float(bad), BOUND, tmp_path, ("stl", "glb"), **SMALL)
    with pytest.raises(UsageError, match="unknown mesh format 'fbx'; choose from glb, obj, ply, stl"):
        export_mesh(toy("mug"), position_albedo, BOUND, tmp_path, ("glb", "fbx"))
    with pytest.raises(UsageError, match="texture size"):
        export_mesh(toy("mug"), position_albedo, BOUND, tmp_path, texture=100000)
    assert os.listdir(tmp_path) == ["mesh.glb"] and (tmp_path / "mesh.glb").read_bytes() == b"old"


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot write to"):
        export_mesh(toy("mug"), position_albedo, BOUND, tmp_path / "file" / "sub", "stl", resolution=32)


def test_noise_is_refused_at_once_instead_of_unwrapped_for_hours(tmp_path):
    """What a diverged run leaves: nothing that could be simplified."""

    def noise(x):
        wave = torch.sin(x.double() @ torch.tensor([127.1, 269.5, 74.7]).double() * 9301) * 43758.5
        return torch.where(wave % 1 < 0.5, 100.0, 0.0).float()

    with pytest.raises(ExportError, match="faces, too many .*noise.*previews"):
        export_mesh(noise, position_albedo, BOUND, tmp_path, ("glb", "ply"), resolution=64, faces=0)
    assert not os.listdir(tmp_path)
    assert export_mesh(noise, position_albedo, BOUND, tmp_path, "ply", resolution=64, faces=0)["faces"] > 200_000


@pytest.mark.parametrize(
    "code, said",
    [
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", "exit status -11"),
        ("raise ImportError('broken on purpose')\n", "ImportError: broken on purpose"),
    ],
)
def test_where_xatlas_crashes_the_export_does_not(tmp_path, monkeypatch, code, said):
    (tmp_path / "xatlas.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ExportError, match=f"no UV atlas for [0-9,]+ faces: .*{said}.*ply and stl"):
        export_mesh(toy("mug"), position_albedo, BOUND, tmp_path / "out", "glb", **SMALL)


def test_an_atlas_that_is_written_counts_whatever_the_end_of_its_process_does(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("import atexit, os\natexit.register(os.abort)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    export_mesh(toy("mug"), position_albedo, BOUND, tmp_path / "out", "glb", resolution=32, texture=64, faces=500)
    assert load(tmp_path / "out" / "mesh.glb").volume > 0


@pytest.mark.parametrize("units", [1.0, 1e-6, 1e6])
def test_an_obj_keeps_its_shape_in_any_unit(tmp_path, units):
    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.5)
    solid = Mesh(ball.vertices, ball.faces)
    export_surface(solid, position_albedo, tmp_path, ("obj",), texture=32, frame=(0, 0, 0, units))
    lines = (tmp_path / "mesh.obj").read_text().splitlines()
    vertices = np.array([line.split()[1:] for line in lines if line.startswith("v ")], float)
    assert np.linalg.norm(vertices, axis=1) == pytest.approx(0.5 * units, rel=1e-4)
