"""Imported meshes as they are seen: the package's own files in all formats, pictures before and after unwrapping."""

import numpy as np
import pytest
import torch
from support.analytic import ball, solid, union

from dreamfusion_ngp.export.meshes import export_mesh
from dreamfusion_ngp.importer.bake import colors_at, start_image
from dreamfusion_ngp.importer.read import read_mesh
from dreamfusion_ngp.importer.unwrap import choose_uvs
from dreamfusion_ngp.importer.write import suffix_of, write_mesh
from dreamfusion_ngp.ops.rasterise import rasterise
from dreamfusion_ngp.scene.cameras import clip_matrices
from dreamfusion_ngp.scene.imported import view_check

SIZE = 96  # pixels a side
BLOB = union(ball((0.0, 0.0, 0.0), 0.3), ball((0.3, -0.1, 0.0), 0.15), ball((0.0, 0.25, 0.1), 0.2))


def stripes(x: torch.Tensor) -> torch.Tensor:
    """(N, 3) smooth colours that differ on every side."""
    return 0.5 + 0.4 * torch.sin(6 * x + torch.tensor([0.0, 1.0, 2.0]))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A blob of three balls in smooth colours, in all formats."""
    folder = tmp_path_factory.mktemp("blob")
    formats = ("glb", "obj", "ply", "stl")
    return export_mesh(solid(BLOB), stripes, 0.75, folder, formats, resolution=48, texture=512, faces=3000)["paths"]


def pictures(mesh) -> np.ndarray:
    """(4, SIZE, SIZE, 3) uint8: the four named views, without light, over grey."""
    _, cameras = view_check(mesh)
    points = torch.from_numpy(mesh.vertices)
    homogeneous = torch.cat([points, torch.ones(len(points), 1)], 1)
    position = (clip_matrices(cameras, 0.02, 100.0)[:, None] * homogeneous[None, :, None]).sum(-1)
    fragments = rasterise(position, torch.from_numpy(mesh.faces), (SIZE, SIZE))
    seen = (fragments.face >= 0).numpy()
    image = np.full((*seen.shape, 3), 128, np.uint8)
    image[seen] = colors_at(mesh, fragments.face.numpy()[seen], fragments.barycentric.numpy()[seen])
    return image


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean over the pixels that differ from the background in either."""
    shown = (one != 128).any(-1) | (other != 128).any(-1)
    return float(np.abs(one.astype(int) - other.astype(int)).max(-1)[shown].mean())


def test_all_formats_of_an_export_are_seen_alike(files):
    """Their axes differ; what is read stands the same way."""
    shown = {name: pictures(read_mesh(files[name])) for name in ("glb", "obj", "ply")}
    assert difference(shown["glb"], shown["obj"]) < 1
    assert difference(shown["glb"], shown["ply"]) < 12, "colours of vertices are coarser"
    four = shown["glb"]
    for k in range(4):
        for other in range(k):
            assert difference(four[k], four[other]) > 25, "no two views are alike"
    silhouettes = [(pictures(read_mesh(files[name])) != 128).any(-1) for name in ("glb", "stl")]
    assert (silhouettes[0] != silhouettes[1]).mean() < 0.005


@pytest.mark.parametrize("name", ["glb", "obj", "ply"])
def test_unwrapping_and_writing_change_no_picture(files, tmp_path, name):
    """Colours from the old UVs, or the vertices, through the new atlas and the file, are seen where they were."""
    mesh = read_mesh(files[name])
    chosen = choose_uvs(mesh, "unwrap", size=512)
    paths = write_mesh(chosen, tmp_path / f"new{suffix_of(mesh)}", {0: start_image(mesh, chosen, 0, 512)})
    again = read_mesh(paths[-1])
    assert difference(pictures(mesh), pictures(again)) < 3
    assert np.array_equal((pictures(mesh) != 128).any(-1), (pictures(again) != 128).any(-1))
