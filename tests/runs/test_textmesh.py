"""A run of a signed distance and then of its texture: one folder, one checkpoint, one mesh handed on."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from support.coarse_figures import coarsen
from support.tiny_runs import stopping_at

from dreamfusion_ngp.base.errors import CheckpointError, UsageError
from dreamfusion_ngp.config.presets import preset
from dreamfusion_ngp.config.schema import MeshConfig, TextureConfig
from dreamfusion_ngp.evaluation.evaluate import evaluate
from dreamfusion_ngp.export.isosurface import Mesh, is_closed
from dreamfusion_ngp.optimise.mesh import MeshStage
from dreamfusion_ngp.optimise.volume import VolumeStage
from dreamfusion_ngp.runs.checkpoint import load_checkpoint, save_checkpoint
from dreamfusion_ngp.runs.generate import generate, resume
from dreamfusion_ngp.runs.handover import mesh_in, mesh_of, mesh_tensors, textured_mesh
from dreamfusion_ngp.runs.outputs import export, render
from dreamfusion_ngp.runs.stages import start
from dreamfusion_ngp.runs.texture import TextureStage
from dreamfusion_ngp.scene.distance_field import DistanceField

SIZE = 64


def tiny():
    config = preset("textmesh")
    small = replace(config.render, resolution=16, budget=1 << 15, occupancy_resolution=16)
    then = replace(
        config.then,
        steps=4,
        views=1,
        render=replace(small, resolution=24),
        mesh=MeshConfig(detail_levels=2, detail_finest=32, detail_log2_table=10),
        texture=TextureConfig(size=SIZE, faces=600),
    )
    loss = replace(config.loss, eikonal_points=64)
    return replace(config, prompt="a red sphere", steps=5, views=1, render=small, loss=loss, then=then)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return generate(tiny(), tmp_path_factory.mktemp("run"), device="cpu", formats=("glb", "obj", "ply", "stl"))


@pytest.fixture(scope="module")
def volume():
    return VolumeStage(tiny(), "cpu")


def test_the_preset():
    config = preset("textmesh")
    assert (config.field.kind, config.kind, config.then.kind) == ("sdf", "volume", "texture")
    assert config.loss.eikonal > 0 and config.then.then is None
    low, high = config.camera.elevation
    assert low <= -10 and high >= 90, "all elevations that the prior knows"


def test_a_run_of_both_stages(made):
    assert made.step == made.made == 9 and {"turntable", "sheet"} <= set(made.pictures)
    stage = load_checkpoint(made.folder / "checkpoint.safetensors", "cpu")
    assert isinstance(stage, TextureStage) and stage.is_generated and (stage.before, stage.step) == (5, 4)
    assert stage.mesh.name == "mesh" and 50 < len(stage.mesh.faces) <= 600
    lines = [json.loads(line) for line in (made.folder / "metrics.jsonl").read_text().splitlines()]
    assert "eikonal" in lines[0] and "eikonal" not in lines[-1] and np.isfinite(lines[-1]["sds"])


def test_every_format_is_the_mesh_that_was_painted(made):
    stage = load_checkpoint(made.folder / "checkpoint.safetensors", "cpu")
    low, high = stage.mesh.vertices.min(0), stage.mesh.vertices.max(0)
    assert set(made.meshes) == {"glb", "obj", "mtl", "png", "ply", "stl"}
    glb = trimesh.load(made.meshes["glb"], force="mesh")
    assert np.allclose(glb.bounds, [low, high], atol=1e-5) and len(glb.faces) == len(stage.mesh.faces)
    assert glb.visual.material.baseColorTexture.size == (SIZE, SIZE)
    solid = trimesh.load(made.meshes["ply"], force="mesh")
    assert len(solid.vertices) == len(stage.mesh.vertices) and solid.visual.vertex_colors.shape[1] == 4
    assert is_closed(Mesh(stage.mesh.vertices.astype(np.float64), stage.mesh.faces.astype(np.int64)))
    again = export(made.folder, ("glb",), device="cpu")
    assert again["glb"].read_bytes() == made.meshes["glb"].read_bytes()
    assert render(made.folder, frames=8, resolution=16, device="cpu")["sheet"].is_file()


def test_the_surface_is_the_level_set_of_the_volume(volume):
    """The sphere that the field starts as, at its place, closed, in the colours of the field."""
    mesh = mesh_of(volume, TextureConfig(size=SIZE, faces=4000))
    assert isinstance(volume.field, DistanceField)
    assert np.linalg.norm(mesh.vertices, axis=1) == pytest.approx(volume.config.field.sphere, abs=2e-3)
    assert is_closed(Mesh(mesh.vertices.astype(np.float64), mesh.faces.astype(np.int64)))
    grey = volume.field.albedo(torch.from_numpy(mesh.vertices)).mean()
    assert mesh.textures[0].image.mean() / 255 == pytest.approx(float(grey), abs=0.02)


def test_a_mesh_stage_hands_on_as_well(volume):
    config = replace(tiny(), kind="mesh", mesh=MeshConfig(resolution=24, detail_levels=2, detail_finest=32))
    surface = MeshStage.start(config, "cpu", volume)
    mesh = mesh_of(surface, TextureConfig(size=SIZE, faces=400))
    assert len(mesh.faces) <= 400 and np.linalg.norm(mesh.vertices, axis=1) == pytest.approx(0.3, abs=0.02)


def test_what_is_held_is_the_mesh(volume):
    mesh = mesh_of(volume, TextureConfig(size=SIZE, faces=300))
    again = mesh_in(mesh_tensors(mesh))
    for name in ("vertices", "faces", "uv", "uv_faces"):
        assert np.array_equal(getattr(again, name), getattr(mesh, name))
    assert np.array_equal(again.textures[0].image, mesh.textures[0].image)
    textured = textured_mesh(mesh, mesh.textures[0].image)
    assert np.array_equal(textured.vertices[textured.faces], mesh.vertices[mesh.faces])
    tensors = mesh_tensors(mesh)
    assert mesh_in({}) is None and mesh_in({**tensors, "mesh.faces": tensors["mesh.faces"][:, :2]}) is None
    assert mesh_in({**tensors, "mesh.uv": tensors["mesh.uv"][:3]}) is None


@pytest.mark.parametrize("at", [2, 7])
def test_stopped_in_either_stage_and_resumed(made, tmp_path, at):
    with stopping_at(at):
        part = generate(tiny(), tmp_path, device="cpu", formats=("stl",))
    assert part.step == at
    again = resume(part.folder, device="cpu", formats=("stl",))
    assert (again.step, again.made) == (9, 9 - at)
    ours, theirs = (load_checkpoint(f / "checkpoint.safetensors", "cpu") for f in (part.folder, made.folder))
    other = theirs.tensors()
    assert set(other) == set(ours.tensors()) and all((v == other[k]).all() for k, v in ours.tensors().items())


def test_a_checkpoint_whose_mesh_is_none(made, tmp_path):
    """One line, not a stack of calls: tensors that no mesh could be."""
    stage = load_checkpoint(made.folder / "checkpoint.safetensors", "cpu")
    stage.mesh_tensors["mesh.faces"] = stage.mesh_tensors["mesh.faces"] + len(stage.mesh.vertices)
    save_checkpoint(tmp_path / "c", stage)
    with pytest.raises(CheckpointError, match="do not fit its config"):
        load_checkpoint(tmp_path / "c", "cpu")


def test_an_imported_mesh_takes_nothing_over(volume):
    config = replace(tiny(), kind="texture", texture=TextureConfig(source="/nowhere/mesh.glb"))
    with pytest.raises(UsageError, match="is the first stage"):
        start(config, "cpu", volume)


@pytest.mark.slow
def test_is_evaluated(made, monkeypatch):
    coarsen(monkeypatch)
    record = evaluate([made.folder], device="cpu")["runs"][0]
    assert record["steps"] == 9 and record["watertight"] and record["holes"] == 0
    assert record["genus"] == record["genus_error"] == 0 and record["faces_needed"] <= 600
    assert 0 < record["volumetric_iou"] <= 1 and 0 < record["mesh_chamfer"] < 0.3 and record["color_error"] is not None
