"""Axes, units, handedness and origin of every mesh format: each file is read back as its own readers take it."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from support.analytic import ball, solid, union

from dreamfusion_ngp.base.errors import UsageError
from dreamfusion_ngp.export.formats import CONVENTIONS, FORMATS, check_size, conventions_text
from dreamfusion_ngp.export.meshes import export_mesh

X, Y, Z = np.eye(3)
UP = {"glb": Y, "obj": Y, "ply": Z, "stl": Z}  # what importers take for granted: glTF 2.0 and OBJ +Y up,
FRONT = {"glb": Z, "obj": Z, "ply": -Y, "stl": -Y}  # Blender's own axes, with its front view along +Y, for the others
VOXEL = 1.5 / 96

# Every extent differs from every other, so that a swap, a turn or a mirror image shows. Along the object's left (+X as
# seen from the front), up and front: lowest and highest, world units.
POST = union(
    ball((0.0, 0.0, 0.0), 0.2), ball((0.25, -0.1, 0.0), 0.1), ball((0.0, 0.3, 0.05), 0.12), ball((0.0, 0.0, 0.4), 0.15)
)
BOUNDS = np.array([[-0.2, -0.2, -0.2], [0.35, 0.42, 0.55]])
SIDES = BOUNDS[1] - BOUNDS[0]


def post(folder, formats=FORMATS, **options) -> dict:
    """The files of four balls that hang together, grey."""
    solid_with_necks = union(
        POST, ball((0.16, -0.06, 0.0), 0.06), ball((0.0, 0.19, 0.03), 0.06), ball((0.0, 0.0, 0.23), 0.06)
    )
    return export_mesh(
        solid(solid_with_necks),
        lambda x: torch.full((len(x), 3), 0.5),
        0.75,
        folder,
        formats,
        resolution=96,
        texture=64,
        faces=4000,
        **options,
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return post(tmp_path_factory.mktemp("post"))


def load(path):
    return trimesh.load(path, force="mesh", process=False)


def extents(mesh, name: str) -> np.ndarray:
    """(2, 3) lowest and highest along the object's left, up and front, by the axes of the format."""
    axes = np.stack([np.cross(UP[name], FRONT[name]), UP[name], FRONT[name]], -1)
    along = np.asarray(mesh.vertices) @ axes
    return np.stack([along.min(0), along.max(0)])


@pytest.mark.parametrize("name", FORMATS)
def test_up_front_and_left_are_where_the_format_has_them(files, name):
    scale = 100 / SIDES.max() if name == "stl" else 1.0
    assert np.allclose(extents(load(files["paths"][name]), name) / scale, BOUNDS, atol=1.5 * VOXEL)


@pytest.mark.parametrize("name", FORMATS)
def test_no_file_is_mirrored_or_inside_out(files, name):
    mesh = load(files["paths"][name])
    assert mesh.volume > 0, "counter-clockwise seen from outside"
    welded = trimesh.Trimesh(mesh.vertices, mesh.faces)
    welded.merge_vertices(merge_tex=True, merge_norm=True)
    assert welded.is_watertight and welded.is_winding_consistent
    if name == "stl":
        written = np.frombuffer(Path(files["paths"]["stl"]).read_bytes()[84:], dtype="(3,)<f4, (9,)<f4, <u2")["f0"]
        assert (mesh.face_normals * written).sum(1).min() > 0.99
    else:
        outwards = (mesh.vertex_normals[mesh.faces].mean(1) * mesh.face_normals).sum(1)
        assert (outwards > 0).mean() > 0.98


def test_all_formats_stand_alike_in_blender(files):
    """Blender turns glTF and OBJ from +Y up to its own +Z up, and reads PLY and STL as they are."""
    found = {}
    for name in FORMATS:
        x, y, z = np.asarray(load(files["paths"][name]).vertices).T
        corners = np.stack([x, -z, y] if name in ("glb", "obj") else [x, y, z], -1)
        corners = corners * (SIDES.max() / 100 if name == "stl" else 1.0)
        found[name] = np.stack([corners.min(0), corners.max(0)])
    for name in FORMATS:
        assert np.allclose(found[name], found["glb"], atol=1e-5 if name != "stl" else VOXEL), name


@pytest.mark.parametrize("size", [100.0, 42.5, 0.1, 10_000.0])
def test_the_longest_side_of_an_stl_has_the_size_asked_for(tmp_path, files, size):
    found = post(tmp_path, ("stl",), size=size) if size != 100.0 else files
    sides = np.ptp(load(found["paths"]["stl"]).vertices, axis=0)
    assert sides.max() == pytest.approx(size, rel=1e-5) and found["stl_sides"] == pytest.approx(sides, rel=1e-5)
    assert sides / size == pytest.approx(SIDES[[0, 2, 1]] / SIDES.max(), abs=0.03)


def test_the_size_of_an_stl_changes_no_other_format(tmp_path, files):
    found = post(tmp_path, ("glb", "ply", "stl"), size=20)
    for name in ("glb", "ply"):
        assert np.array_equal(load(found["paths"][name]).bounds, load(files["paths"][name]).bounds)


@pytest.mark.parametrize("origin", ["base", "centre", "center"])
def test_the_origin_is_the_same_place_in_every_format(tmp_path, origin):
    found = post(tmp_path, origin=origin)
    for name in FORMATS:
        low, high = extents(load(found["paths"][name]), name) / (100 / SIDES.max() if name == "stl" else 1.0)
        assert np.allclose(high - low, SIDES, atol=2 * VOXEL)
        middle = (low + high) / 2
        assert np.allclose(middle[[0, 2]], 0, atol=1e-5), name
        assert (low if origin == "base" else middle)[1] == pytest.approx(0, abs=1e-5), name


def test_files_say_their_axes_and_units(files):
    heads = {name: Path(files["paths"][name]).read_bytes()[:400] for name in ("obj", "ply", "stl")}
    for name, head in heads.items():
        unit, up, front = CONVENTIONS[name].unit, CONVENTIONS[name].up, CONVENTIONS[name].front
        assert f"{unit}, {up} up, front {front}".encode() in head, name
    assert not heads["stl"].startswith(b"solid"), "that begins a text STL"
    assert heads["ply"].startswith(b"ply\nformat binary_little_endian 1.0\n")


def test_the_table_of_the_readme_says_what_the_files_have():
    text = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (GLB|OBJ|PLY|STL)\b[^|]* \| ([^|]+ \| [^|]+ \| [^|]+) \|", text, re.M))
    for name, convention in CONVENTIONS.items():
        unit, up, front = (part.strip() for part in rows[name.upper()].split("|"))
        assert (up, front) == (convention.up, convention.front) and unit.startswith(convention.unit), name
        assert f"{convention.unit}, {convention.up} up, front {convention.front}" in conventions_text()


@pytest.mark.parametrize("size", [0, -1.0, float("nan"), float("inf"), 0.09, 10_001])
def test_a_size_that_nothing_has_is_refused(tmp_path, size):
    with pytest.raises(UsageError, match="from 0.1 to 10000 mm, got"):
        check_size(size)
    with pytest.raises(UsageError, match="from 0.1 to 10000 mm, got"):
        post(tmp_path / "new", size=size)
    assert not (tmp_path / "new").exists()


def test_an_unknown_origin_is_refused(tmp_path):
    with pytest.raises(UsageError, match="unknown origin 'top'; choose from scene, base, centre"):
        post(tmp_path / "new", origin="top")
    assert not (tmp_path / "new").exists()
