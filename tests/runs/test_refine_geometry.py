"""Refined shapes: what a mesh on a lattice begins as, where it is written, what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from dreamfusion_ngp.base.errors import MeshError, UsageError
from dreamfusion_ngp.config.presets import preset
from dreamfusion_ngp.config.schema import MeshConfig, TextureConfig
from dreamfusion_ngp.optimise import adopt
from dreamfusion_ngp.optimise.mesh import MeshStage
from dreamfusion_ngp.runs import stages
from dreamfusion_ngp.runs.checkpoint import load_checkpoint, save_checkpoint
from dreamfusion_ngp.runs.outputs import export_run
from dreamfusion_ngp.runs.refine import refine


def tiny():
    config = preset("refine-geometry")
    render = replace(config.render, resolution=20)
    mesh = MeshConfig(resolution=48, detail_levels=3, detail_finest=48, detail_log2_table=11)
    then = replace(config.then, steps=2, views=1, render=render, mesh=mesh)
    field = replace(config.field, levels=6, finest_resolution=64, log2_table=13)
    return replace(config, steps=2, views=1, render=render, field=field, mesh=mesh, then=then)


@pytest.fixture(scope="module", autouse=True)
def short_lesson():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adopt, "STEPS", 120)
        patch.setattr(adopt, "POINTS", 1 << 14)
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A ball of radius 20 about (5, 30, -7), red on top and blue below, as a PLY with colours, Z up."""
    ball = trimesh.creation.icosphere(4, 20.0)
    colors = np.where(ball.vertices[:, 2:] > 0, [200, 20, 20, 255], [20, 20, 200, 255]).astype(np.uint8)
    mesh = trimesh.Trimesh(ball.vertices + np.array([5.0, 30.0, -7.0]), ball.faces, vertex_colors=colors, process=False)
    path = tmp_path_factory.mktemp("source") / "ball.ply"
    path.write_bytes(mesh.export(file_type="ply"))
    return path


@pytest.fixture(scope="module")
def result(source, tmp_path_factory):
    return refine(
        source, "a red sphere", tmp_path_factory.mktemp("out"), geometry=True, size=64, config=tiny(), device="cpu"
    )


def test_the_mesh_is_where_it_was_upright(result):
    assert result.step == 4 and result.meshes["glb"].name == "mesh.glb"
    mesh = trimesh.load(result.meshes["glb"], force="mesh")
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    assert mesh.is_watertight and mesh.volume == pytest.approx(4 / 3 * np.pi * 20**3, rel=0.05)
    # Z up becomes Y up: (x, y, z) -> (x, z, -y).
    assert np.allclose(mesh.bounds.mean(0), [5.0, -7.0, -30.0], atol=1.0)
    assert np.allclose(np.ptp(mesh.bounds, axis=0), 40.0, rtol=0.04)


def test_it_begins_as_it_was(source):
    config = tiny()
    config = replace(config, kind="texture", prompt="a red sphere", texture=replace(config.texture, source=str(source)))
    before = stages.start(config, "cpu")
    mesh = stages.follow(before)
    assert isinstance(mesh, MeshStage)
    with torch.no_grad():
        vertices, faces = mesh.surface()
        radius = float(np.ptp(before.surface.vertices.numpy(), axis=0).max()) / 2
        assert float((vertices.norm(dim=1) - radius).abs().max()) < 0.01 and len(faces) > 500
        top, bottom = (mesh.surface.color(torch.tensor([[0.0, y, 0.0]]))[0] for y in (radius, -radius))
    assert torch.allclose(top * 255, torch.tensor([200.0, 20, 20]), atol=12)
    assert torch.allclose(bottom * 255, torch.tensor([20.0, 20, 200]), atol=12)


def test_the_checkpoint_needs_no_source(result, tmp_path, source):
    state = load_checkpoint(result.folder / "checkpoint.safetensors", "cpu")
    assert isinstance(state, MeshStage) and float(state.frame[3]) == pytest.approx(40 / (1.05 / 3**0.5), rel=1e-3)
    save_checkpoint(tmp_path / "again", state)
    again = load_checkpoint(tmp_path / "again", "cpu")
    assert all(torch.equal(v, again.tensors()[k]) for k, v in state.tensors().items())


def test_what_is_refused(source, tmp_path):
    with pytest.raises(UsageError, match="no view of it can be kept"):
        refine(source, "a red sphere", tmp_path, geometry=True, keep_views=("front",), config=tiny())
    with pytest.raises(UsageError, match="second stage"):
        refine(source, "a red sphere", tmp_path, geometry=True, config=preset("refine"))
    sheet = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]])
    path = tmp_path / "sheet.ply"
    path.write_bytes(sheet.export(file_type="ply"))
    config = tiny()
    config = replace(config, kind="texture", prompt="a red cube", texture=replace(config.texture, source=str(path)))
    stage = stages.start(config, "cpu")
    stage.surface.vertices[:, 2] = 0.9  # out of the cube
    with pytest.raises(MeshError, match="nothing is inside"):
        stages.follow(stage)


def test_a_texture_after_it_is_there_as_well(result, tmp_path):
    """The place and the units of the file go from stage to stage."""
    shape = load_checkpoint(result.folder / "checkpoint.safetensors", "cpu")
    source = TextureConfig(size=64, faces=400)
    shape.config = replace(shape.config, then=replace(shape.config, kind="texture", texture=source))
    stage = stages.follow(shape)
    assert torch.allclose(stage.frame, shape.frame) and float(stage.frame[3]) > 10
    save_checkpoint(tmp_path / "c", stage)
    again = load_checkpoint(tmp_path / "c", "cpu")
    export_run(again, tmp_path, ("glb", "ply"))
    bounds = trimesh.load(tmp_path / "mesh.glb", force="mesh").bounds
    assert np.allclose(bounds.mean(0), [5.0, -7.0, -30.0], atol=1.0) and np.ptp(bounds) > 40
    assert np.allclose(trimesh.load(tmp_path / "mesh.ply").bounds.mean(0), [5.0, 30.0, -7.0], atol=1.0)
