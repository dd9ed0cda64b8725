"""PLY and STL: the triangles in the order of the file; written back as a GLB that holds the same numbers."""

import numpy as np
import pytest
import trimesh
from support.mesh_files import (
    BODY,
    BOX,
    SIDES,
    atlas_uv,
    box,
    encoded,
    mug,
    parts_of,
    picture,
    ply_bytes,
    stl_bytes,
    stl_text,
    values_of,
)

from dreamfusion_ngp.base.errors import MeshError
from dreamfusion_ngp.importer.read import read_mesh
from dreamfusion_ngp.importer.unwrap import choose_uvs
from dreamfusion_ngp.importer.write import write_mesh

ORDERS = ("<", ">", "ascii")


def read(folder, data, name: str, **options):
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return read_mesh(folder / name, **options)


@pytest.mark.parametrize("order", ORDERS)
def test_a_ply_of_triangles(tmp_path, order):
    vertices, faces = mug()
    mesh = read(tmp_path, ply_bytes(vertices, faces.tolist(), order), "mug.ply")
    assert np.array_equal(mesh.faces, faces) and np.allclose(mesh.to_file(mesh.vertices), vertices, atol=1e-6)


@pytest.mark.parametrize("order", ORDERS)
def test_polygons_of_any_length_stay_in_order(tmp_path, order):
    """trimesh puts the second halves of quads behind all first ones."""
    turn = np.arange(8) * np.pi / 4
    circle = np.stack([np.cos(turn), np.sin(turn), 0 * turn], -1).astype(np.float32)
    polygons = [[0, 1, 2, 3], [1, 3, 7], [0, 1, 2, 4, 5, 7], [2, 4, 6, 7]]
    mesh = read(tmp_path, ply_bytes(circle, polygons, order), "mug.ply")
    fans = [[p[0], p[k], p[k + 1]] for p in polygons for k in range(1, len(p) - 1)]
    assert mesh.faces.tolist() == fans
    quads = read(tmp_path, ply_bytes(box(*BODY), SIDES, order), "mug.ply")
    assert quads.faces.tolist() == BOX.tolist()


@pytest.mark.parametrize("order", ORDERS)
def test_colours_and_uvs_of_vertices(tmp_path, order):
    rng = np.random.default_rng(0)
    columns = {name: rng.integers(0, 256, 8, np.uint8) for name in ("red", "green", "blue")}
    columns |= {name: rng.random(8, np.float32) for name in ("s", "t")}
    (tmp_path / "skin.png").write_bytes(encoded(picture(1)))
    data = ply_bytes(box(*BODY), BOX.tolist(), order, "comment TextureFile skin.png\n", columns)
    mesh = read(tmp_path, data, "mug.ply")
    rgb = np.stack([columns[name] for name in ("red", "green", "blue")], -1) / 255
    light = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    assert np.allclose(mesh.colors[:, :3], light, atol=1e-6)
    assert np.allclose(mesh.uv, np.stack([columns["s"], columns["t"]], -1), atol=1e-6)
    assert np.array_equal(mesh.textures[0].image, picture(1))


def test_uvs_of_corners(tmp_path):
    """As MeshLab writes them: a list at each face. Corners that differ part their vertices."""
    uv = atlas_uv(12)
    head = ply_bytes(box(*BODY), [], "ascii").decode().replace("element face 0", "element face 12")
    head = head.replace("end_header", "property list uchar float texcoord\nend_header")
    rows = [[3, *face, 6, *map(float, uv[3 * k : 3 * k + 3].ravel())] for k, face in enumerate(BOX.tolist())]
    mesh = read(tmp_path, head + "\n".join(" ".join(map(str, row)) for row in rows) + "\n", "mug.ply")
    assert np.allclose(mesh.uv[mesh.uv_faces].reshape(-1, 2), uv, atol=1e-6)
    assert np.allclose(mesh.to_file(mesh.vertices)[mesh.faces], box(*BODY)[BOX], atol=1e-6) and len(mesh.vertices) == 36


def test_what_trimesh_writes(tmp_path):
    """Another program's files: binary and text, with normals, which are left out."""
    vertices, faces = mug()
    solid = trimesh.Trimesh(vertices, faces, process=False)
    solid.visual.vertex_colors = np.full((16, 4), 128, np.uint8)
    for encoding in ("binary", "ascii"):
        data = trimesh.exchange.ply.export_ply(solid, encoding=encoding, vertex_normal=True)
        mesh = read(tmp_path, data, "mug.ply")
        assert np.array_equal(mesh.faces, faces) and np.allclose(mesh.to_file(mesh.vertices), vertices, atol=1e-6)
    for data in (trimesh.exchange.stl.export_stl(solid), trimesh.exchange.stl.export_stl_ascii(solid)):
        mesh = read(tmp_path, data, "mug.stl")
        assert np.allclose(mesh.to_file(mesh.vertices)[mesh.faces], vertices[faces], atol=1e-6)


@pytest.mark.parametrize("kind", ["binary", "text", "several solids"])
def test_an_stl(tmp_path, kind):
    vertices, faces = mug()
    data = stl_bytes(vertices, faces) if kind == "binary" else stl_text(vertices, faces)
    if kind == "several solids":
        data = stl_text(vertices, faces[:12]) + stl_text(vertices, faces[12:]).upper()
    mesh = read(tmp_path, data, "mug.stl")
    assert np.allclose(mesh.to_file(mesh.vertices)[mesh.faces], vertices[faces], atol=1e-6)
    assert mesh.faces.tolist() == np.arange(72).reshape(-1, 3).tolist()


@pytest.mark.parametrize("suffix", ["ply", "stl"])
def test_it_comes_back_as_a_glb_with_the_same_numbers(tmp_path, suffix):
    """float32 for float32, under a node that turns it from +Z up to glTF's +Y up."""
    vertices, faces = mug()
    vertices = (vertices * np.float32(1.1) + np.float32(0.3)).astype(np.float32)
    data = ply_bytes(vertices, faces.tolist()) if suffix == "ply" else stl_bytes(vertices, faces)
    mesh = read(tmp_path, data, f"mug.{suffix}")
    paths = write_mesh(mesh, tmp_path / "new.glb", {})
    new = (tmp_path / "new.glb").read_bytes()
    assert paths == [str(tmp_path.resolve() / "new.glb")]
    document, _ = parts_of(new)
    primitive = document["meshes"][0]["primitives"][0]
    stored = np.frombuffer(values_of(new, primitive["attributes"]["POSITION"]), np.float32).reshape(-1, 3)
    index = np.frombuffer(values_of(new, primitive["indices"]), np.uint32).reshape(-1, 3)
    assert np.array_equal(stored[index], vertices[faces])
    seen = trimesh.load(tmp_path / "new.glb", force="mesh", process=False)
    assert np.allclose(np.ptp(seen.vertices, axis=0), np.ptp(vertices, axis=0)[[0, 2, 1]]), "upright, of the same size"
    again = read_mesh(tmp_path / "new.glb")
    assert np.array_equal(again.vertices[again.faces], mesh.vertices[mesh.faces])


def test_an_stl_unwraps_into_charts_that_hang_together(tmp_path):
    """Though it shares no vertices: a ball must not fall into a chart for every triangle."""
    ball = trimesh.creation.icosphere(2)
    mesh = choose_uvs(read(tmp_path, trimesh.exchange.stl.export_stl(ball), "ball.stl"), size=256)
    corners = mesh.uv[mesh.uv_faces].reshape(-1, 2)
    assert len(np.unique(corners, axis=0)) < 0.5 * len(corners)


@pytest.mark.parametrize(
    "change, said",
    [
        ((b"ply", b"plx"), "is not a PLY file"),
        ((b"end_header", b"end"), "its header does not end"),
        ((b"format ascii 1.0\n", b""), "names no format"),
        ((b"property float x", b"property float8 x"), "header has the line 'property float8 x'"),
        ((b"list uchar", b"list float"), "header has the line"),
        ((b"element vertex 8", b"element vertex -1"), "-1 of 'vertex'"),
        ((b"element vertex 8", b"element vertex 999999999999"), "999,999,999,999 of 'vertex'"),
        ((b"element vertex 8", b"element vertex eight"), "header has the line"),
        ((b"element face 12", b"element face 13"), "has 12 of 13 rows of 'face'"),
        ((b"element face 12", b"element faces 12"), "has no triangles"),
        ((b"element face", b"element vertex"), "names an element twice"),
        ((b"property float y", b"property float w"), "has no vertices"),
        ((b"\n3 0 1 3", b"\n3 0 1 8"), "a face names a vertex that is none of its 8"),
        ((b"\n3 0 1 3", b"\n3 0 1 nan"), "a face names a vertex that is none of its 8"),
        ((b"\n3 0 1 3", b"\n2 0 1"), "has a face of 2 corners"),
        ((b"\n3 0 1 3", b"\n9 0 1 3"), "a list has a length that cannot be"),
        ((b"\n3 0 1 3", b"\n4 0 1 3"), "a row of 'face' is too short"),
        ((b"\n3 0 1 3", b"\n3 0 1 x"), "has a row with 'x', which is no number"),
        ((b"-2.0 0.0 -1.5", b"-2.0 0.0 inf"), "not finite"),
        ((b"format", b"comment TextureFile ../x.png\nformat"), "names no format"),
        ((b"element vertex", b"comment TextureFile ../x.png\nelement vertex"), "outside of its folder"),
        ((b"element vertex", b"comment TextureFile x.png\nelement vertex"), "names 'x.png', which is not there"),
    ],
)
def test_what_a_ply_is_refused_for(tmp_path, change, said):
    data = ply_bytes(box(*BODY), BOX.tolist(), "ascii")
    assert change[0] in data
    with pytest.raises(MeshError) as caught:
        read(tmp_path, data.replace(*change, 1), "mug.ply")
    assert said in str(caught.value) and str(caught.value).startswith("mug.ply: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change, said",
    [
        (("endsolid mug\n", ""), "does not end with endsolid"),
        (("solid mug", "mug"), "is no STL file or is cut short"),
        ((" endloop", "", 1), "not every facet has three vertices"),
        ((" vertex -2.0 0.0 -1.5\n", "", 1), "not every facet has three vertices"),
        ((" vertex -2.0 0.0 -1.5\n", " vertex -2.0 0.0\n", 1), "has a vertex with"),
        ((" vertex -2.0 0.0 -1.5\n", " vertex -2.0 0.0 nan\n", 1), "not finite"),
    ],
)
def test_what_an_stl_is_refused_for(tmp_path, change, said):
    data = stl_text(box(*BODY), BOX)
    assert change[0] in data
    with pytest.raises(MeshError) as caught:
        read(tmp_path, data.replace(*change), "mug.stl")
    assert said in str(caught.value) and str(caught.value).startswith("mug.stl: ")


def test_an_stl_without_triangles_and_one_of_another_kind(tmp_path):
    with pytest.raises(MeshError, match="has no triangles"):
        read(tmp_path, stl_bytes(box(*BODY), BOX[:0]), "mug.stl")
    with pytest.raises(MeshError, match="is no STL file"):
        read(tmp_path, encoded(picture(1)), "mug.stl")
