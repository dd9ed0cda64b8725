"""Axes of imported meshes: a mug that stands and has its handle on its left does so here, whatever its file's axes."""

import itertools

import numpy as np
import pytest
import torch
from support.mesh_files import BODY, BOX, HANDLE, Glb, box, mug, stl_bytes

from dreamfusion_ngp.base.errors import MeshError, UsageError
from dreamfusion_ngp.importer.read import read_mesh
from dreamfusion_ngp.scene.imported import AXES, NAMED_VIEWS, SIDE, normalisation, turn, view_check

PAIRS = [(up, front) for up, front in itertools.product(AXES, AXES) if up[1] != front[1]]


def seen_from(cameras, k: int, points: np.ndarray) -> np.ndarray:
    """(N, 2) where camera k sees points (N, 3): to the right and up of the middle, in image widths."""
    c2w = cameras.c2w[k].double().numpy()
    local = (points - c2w[:, 3]) @ c2w[:, :3]
    return local[:, :2] / -local[:, 2:] * float(cameras.focal[k])


@pytest.mark.parametrize("up, front", PAIRS)
def test_the_handle_is_on_the_left_for_every_pair_of_axes(tmp_path, up, front):
    """The mug is turned into the axes of a file by another way than it is read by: column by column."""
    vertices, faces = mug()
    left = np.cross(AXES[up], AXES[front])
    vertices = (vertices @ np.stack([left, AXES[up], AXES[front]])).astype(np.float32)
    (tmp_path / "mug.stl").write_bytes(stl_bytes(vertices + np.float32([7, -3, 2]), faces))
    mesh = read_mesh(tmp_path / "mug.stl", up=up, front=front)
    corners = mesh.vertices[mesh.faces]
    body, handle = corners[:12].reshape(-1, 3), corners[12:].reshape(-1, 3)
    assert handle[:, 0].min() >= body[:, 0].max() - 1e-6, "the handle is at +X, azimuth 90"
    assert body[:, 1].min() == corners[..., 1].min() and handle[:, 1].min() > body[:, 1].min(), "it stands"
    assert np.allclose(np.ptp(corners.reshape(-1, 3), axis=0), np.array([5, 5, 3]) / 5 * SIDE, atol=1e-6)
    solid = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum()
    assert solid > 0, "not mirrored"
    named, cameras = view_check(mesh)
    assert [(view.name, view.azimuth) for view in named] == list(NAMED_VIEWS.items())
    assert named[0].file_axis == front and np.array_equal(AXES[named[1].file_axis], left)
    middle = handle.mean(0, keepdims=True)
    across = [seen_from(cameras, k, middle)[0, 0] for k in range(4)]
    assert across[0] > 0.1 and across[2] < -0.1, "right of the middle seen from the front, left from behind"
    assert abs(across[1]) < 0.02 and abs(across[3]) < 0.02
    nearer = torch.linalg.norm(cameras.position[1].double() - torch.tensor(middle[0], dtype=torch.float64))
    assert nearer < 2, "the view from the left looks at the handle"
    for k in range(4):
        assert np.abs(seen_from(cameras, k, corners.reshape(-1, 3))).max() < 0.5, "all of the mug is in the picture"


def test_the_defaults_are_those_of_the_formats(tmp_path):
    """glTF says +Y up, front +Z. PLY and STL are taken as Blender has them: +Z up, front -Y."""
    vertices, faces = mug()
    glb = Glb()
    glb.node([glb.primitive(vertices, faces)])
    (tmp_path / "mug.glb").write_bytes(glb.bytes())
    (tmp_path / "mug.stl").write_bytes(stl_bytes(vertices[:, [0, 2, 1]] * np.float32([1, -1, 1]), faces))
    a, b = read_mesh(tmp_path / "mug.glb"), read_mesh(tmp_path / "mug.stl")
    assert np.allclose(a.vertices[a.faces], b.vertices[b.faces], atol=1e-6)
    assert [view.file_axis for view in view_check(a)[0]] == ["+z", "+x", "-z", "-x"]
    assert [view.file_axis for view in view_check(b)[0]] == ["-y", "+x", "+y", "-x"]
    assert np.allclose(b.to_file(b.vertices), vertices[faces.ravel()][:, [0, 2, 1]] * [1, -1, 1], atol=1e-6)


def test_the_middle_of_the_bounding_box_is_the_origin(tmp_path):
    """Not the mean of the vertices, and only of what triangles use."""
    vertices = np.concatenate([box(*BODY), box(*HANDLE), np.full((50, 3), 1000, np.float32)])
    glb = Glb()
    glb.node([glb.primitive(vertices, np.concatenate([BOX, BOX + 8]).astype(np.uint16))])
    (tmp_path / "mug.glb").write_bytes(glb.bytes())
    used = read_mesh(tmp_path / "mug.glb").vertices[:16]
    assert np.allclose(used.min(0) + used.max(0), 0, atol=1e-6) and np.ptp(used, axis=0).max() == pytest.approx(SIDE)


@pytest.mark.parametrize("name, value", [("+X", [1, 0, 0]), ("y", [0, 1, 0]), (" -z ", [0, 0, -1])])
def test_axes_by_name(name, value):
    other = "+y" if name.strip().strip("+-").lower() != "y" else "+z"
    assert np.array_equal(turn(other, name)[2], value)


@pytest.mark.parametrize(
    "up, front", [("up", "+z"), ("+y", "xx"), ("", "+z"), ("+y", "+y"), ("+y", "-y"), ("+y", None)]
)
def test_other_axes_are_refused(up, front):
    with pytest.raises(UsageError, match="axis|axes"):
        turn(up, front)


@pytest.mark.parametrize("size", [1e-42, 1e-30, 1.0, 1e30])
def test_sizes_from_tiny_to_huge(size):
    points = np.array([[0, 0, 0], [size, 0, 0], [0, size / 2, 0]])
    if size < 1e-300:
        with pytest.raises(MeshError, match="too small"):
            normalisation(points, "+y", "+z")
        return
    matrix = normalisation(points, "+y", "+z")
    assert np.allclose(points @ matrix[:3, :3].T + matrix[:3, 3], [[-0.5, -0.25, 0], [0.5, -0.25, 0], [-0.5, 0.25, 0]])


def test_what_has_no_size_is_refused():
    with pytest.raises(MeshError, match="in one point"):
        normalisation(np.ones((3, 3)), "+y", "+z")
    with pytest.raises(MeshError, match="too large or too small"):
        normalisation(np.array([[0.0, 0, 0], [1e-320, 0, 0]]), "+y", "+z")
    with pytest.raises(MeshError, match="too large or too small"):
        normalisation(np.array([[-1e308, 0, 0], [1e308, 0, 0]]), "+y", "+z")
