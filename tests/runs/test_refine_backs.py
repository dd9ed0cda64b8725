"""Triangles that imported meshes show from behind: sheets, solids that are inside out, single triangles that are."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from support.imported_meshes import gray_box

from dreamfusion_ngp.config.presets import preset
from dreamfusion_ngp.config.schema import MeshConfig
from dreamfusion_ngp.render.mesh import render_mesh
from dreamfusion_ngp.render.sides import side_cameras
from dreamfusion_ngp.runs.texture import TextureStage

SIZE = 64


def stage_of(path, **texture):
    config = preset("refine")
    mesh = MeshConfig(detail_levels=3, detail_finest=48, detail_log2_table=11)
    source = replace(config.texture, source=str(path), size=SIZE, **texture)
    return TextureStage.start(replace(config, prompt="a red cube", mesh=mesh, texture=source), "cpu")


def turned_over(path, which):
    """The box of `gray_box` with triangles `which` the other way round, and its vertices shared, as normals are."""
    mesh = trimesh.load(gray_box(path), force="mesh", process=False)
    faces = mesh.faces.copy()
    faces[which] = faces[which][:, ::-1]
    visual = trimesh.visual.TextureVisuals(uv=mesh.visual.uv, material=mesh.visual.material)
    trimesh.Trimesh(mesh.vertices, faces, visual=visual, process=False).export(path)
    return path


@torch.no_grad()
def brightness(stage) -> torch.Tensor:
    """(4,) of the front, left, back and right of a stage's surface, lit from each camera."""
    cameras = side_cameras(stage.config.camera, 4)
    shading = torch.cat([cameras.position, torch.tensor([[0.1, 0.9, 0.0]]).expand(4, 3)], 1)
    image = render_mesh(stage.surface, cameras, shading, torch.zeros(4, 3), resolution=32)
    return image.rgb.sum((1, 2, 3)) / image.opacity.sum((1, 2)) / 3


def test_a_solid_is_lit_alike_whichever_way_its_triangles_run(tmp_path):
    wanted = brightness(stage_of(gray_box(tmp_path / "right.glb")))
    for name, which in (("out.glb", slice(None)), ("some.glb", slice(0, 12, 3))):
        assert torch.allclose(brightness(stage_of(turned_over(tmp_path / name, which))), wanted, atol=0.01), name


def test_a_sheet_is_lit_on_both_sides(tmp_path):
    corner = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0], [0, 0, 0.1]])
    path = tmp_path / "sheet.glb"
    trimesh.Trimesh(corner, [[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]], process=False).export(path)
    front, _, back, _ = brightness(stage_of(path)).tolist()
    assert front > 0.5 and back == pytest.approx(front, rel=0.05)


def test_views_are_kept_whichever_way_triangles_run(tmp_path):
    wanted = stage_of(gray_box(tmp_path / "right.glb"), keep="front").surface.kept
    assert (wanted == 1).sum() > 200
    for name, which in (("out.glb", slice(None)), ("some.glb", slice(0, 12, 3))):
        kept = stage_of(turned_over(tmp_path / name, which), keep="front").surface.kept
        assert (kept - wanted).abs().mean() < 0.005, name


@pytest.mark.parametrize("inside_out", [False, True])
def test_the_back_of_a_thin_plate_is_not_kept_for_its_front(tmp_path, inside_out):
    plate = trimesh.creation.box((1, 1, 0.004))
    if inside_out:
        plate.invert()
    plate.export(tmp_path / "plate.glb")
    stage = stage_of(tmp_path / "plate.glb", keep="front")
    kept, face = stage.surface.kept[0].numpy(), stage.texels[0][0]
    place = stage.mesh.vertices[stage.mesh.faces].mean(1)[:, 2][face]
    front, back = ((face >= 0) & (sign * place > 0.001) for sign in (1, -1))
    assert front.sum() > 100 and back.sum() > 100
    assert kept[front].mean() > 0.7 and not kept[back].any()
