"""Runs of several stages: a volume, then a mesh, as one run with one folder, one count of steps and one checkpoint."""

import json
from dataclasses import replace

import numpy as np
import pytest
import trimesh
from support.coarse_figures import coarsen
from support.tiny_latent import tiny_latent_folder
from support.tiny_runs import stopping_at

from dreamfusion_ngp.base.errors import PriorError, UsageError
from dreamfusion_ngp.config.overrides import override
from dreamfusion_ngp.config.presets import preset
from dreamfusion_ngp.config.schema import MeshConfig
from dreamfusion_ngp.evaluation.evaluate import evaluate
from dreamfusion_ngp.guidance.load import load_guidance
from dreamfusion_ngp.optimise.loop import train
from dreamfusion_ngp.optimise.mesh import MeshStage
from dreamfusion_ngp.runs.checkpoint import load_checkpoint, save_checkpoint
from dreamfusion_ngp.runs.generate import check_prompt, generate, pin_model, resume
from dreamfusion_ngp.runs.outputs import export, render
from dreamfusion_ngp.runs.stages import start


def tiny():
    config = preset("magic3d")
    small = replace(config.render, resolution=16, budget=1 << 15, occupancy_resolution=16)
    mesh = MeshConfig(resolution=24, detail_levels=2, detail_finest=32, detail_log2_table=10, consistency=0.1)
    then = replace(config.then, steps=5, views=1, render=replace(small, resolution=24), mesh=mesh)
    return replace(config, prompt="a red sphere", steps=6, views=1, render=small, then=then)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    seen = []
    return generate(tiny(), tmp_path_factory.mktemp("run"), device="cpu", observer=seen.append), seen


def steps_of(folder):
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_of_two_stages(made):
    result, seen = made
    assert result.step == result.made == 11 and result.signal is None
    assert [p.steps for p in seen] == [11] * len(seen) and seen[-1].step == 11
    assert [p.ending for p in seen] == [False] * (len(seen) - 1) + [True]
    assert steps_of(result.folder) == [0, 5, 6, 10]
    assert {"turntable", "sheet"} <= set(result.pictures) and result.meshes["glb"].is_file()
    config = json.loads((result.folder / "config.json").read_text())
    assert (config["kind"], config["then"]["kind"], config["then"]["then"]) == ("volume", "mesh", None)
    stage = load_checkpoint(result.folder / "checkpoint.safetensors", "cpu")
    assert isinstance(stage, MeshStage) and (stage.before, stage.step) == (6, 5)


def test_the_mesh_that_is_written_is_the_stage_s(made):
    result, _ = made
    stage = load_checkpoint(result.folder / "checkpoint.safetensors", "cpu")
    vertices, _ = stage.surface()
    mesh = trimesh.load(result.meshes["glb"], force="mesh")
    assert np.allclose(mesh.bounds[0], vertices.detach().amin(0), atol=0.02)
    assert np.allclose(mesh.bounds[1], vertices.detach().amax(0), atol=0.02)


def test_outputs_are_made_again(made):
    folder = made[0].folder
    old = trimesh.load(made[0].meshes["glb"], force="mesh")
    paths = export(folder, ("glb", "ply"), texture=128, device="cpu")
    assert np.allclose(trimesh.load(paths["glb"], force="mesh").bounds, old.bounds, atol=1e-4)
    assert render(folder, frames=8, resolution=16, device="cpu")["sheet"].is_file()


class Stop(Exception):
    pass


@pytest.mark.parametrize("at", [2, 6, 8])
def test_stopped_in_either_stage_and_resumed(made, tmp_path, at):
    """Stopped in the volume, between the two, in the mesh: the run goes on to the very same tensors."""
    with stopping_at(at):
        part = generate(tiny(), tmp_path, device="cpu", formats=("stl",), size=30)
    assert part.step == (11 if at == 6 else at), "a stage that has made its steps is not stopped"
    if at == 6:
        return
    again = resume(part.folder, device="cpu")
    assert (again.step, again.made) == (11, 11 - at)
    assert set(again.meshes) == {"stl"}, "as it was asked for"
    assert trimesh.load(again.meshes["stl"]).extents.max() == pytest.approx(30, rel=1e-3)
    ours, theirs = (load_checkpoint(f / "checkpoint.safetensors", "cpu") for f in (part.folder, made[0].folder))
    other = theirs.tensors()
    assert all((v == other[k]).all() for k, v in ours.tensors().items())
    assert steps_of(part.folder)[-1] == 10
    config = json.loads((part.folder / "config.json").read_text())
    assert config["kind"] == "volume" and config["then"]["kind"] == "mesh"


@pytest.mark.slow
def test_is_evaluated_as_the_surface_that_it_is(made, monkeypatch):
    coarsen(monkeypatch)
    record = evaluate([made[0].folder], device="cpu")["runs"][0]
    assert record["steps"] == 11 and record["watertight"] and record["psnr_256"] > 5
    assert 0 < record["volumetric_iou"] < 1 and 0 < record["mesh_chamfer"] < 0.3 and 0 < record["normal_angle"] < 90


def test_killed_between_the_stages(made, tmp_path):
    """The checkpoint is that of the finished volume: the run goes on with its mesh, to the same end."""
    config = pin_model(check_prompt(tiny()))
    volume = start(config, "cpu")
    train(volume, load_guidance(config, "cpu"), lambda record: None)
    save_checkpoint(tmp_path / "checkpoint.safetensors", volume)
    again = resume(tmp_path, device="cpu", formats=("stl",))
    assert (again.step, again.made) == (11, 5)
    ours, theirs = (load_checkpoint(f / "checkpoint.safetensors", "cpu") for f in (tmp_path, made[0].folder))
    assert all((v == theirs.tensors()[k]).all() for k, v in ours.tensors().items())


def test_settings_of_the_second_stage_are_set_by_their_path():
    config = override(preset("magic3d"), "then.mesh.resolution=64")
    assert config.then.mesh.resolution == 64
    with pytest.raises(UsageError, match="no such setting"):
        override(preset("fast"), "then.steps=4")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("then.mesh.resolution=63", "mesh.resolution must be even"),
        ("then.kind=sculpture", "then.kind must be one of volume, mesh"),
        ("then.mesh.samples=9", "then.mesh.samples must be from 1 to 4"),
        ("kind=mesh", "a mesh goes on from a volume"),
        ("then.texture.keep=top", "texture.keep must be views, of front, left, back, right"),
        ("then.kind=sphere", "a sphere is the first stage"),
        ('then.then={"kind": "texture", "mesh": {"show": "normal"}}', 'mesh.show "normal" is for a stage that changes'),
        ('then.then={"kind": "volume"}', "a volume goes on from a volume only"),
        ('then.then={"kind": "volume", "particles": 2}', "several particles start from nothing"),
        ('then.then={"kind": "texture", "then": {"kind": "texture"}}', "not from another texture"),
        ('then.then={"kind": "texture", "texture": {"source": "a.glb"}}', "a texture of an imported mesh is the first"),
        ("kind=texture", "a texture needs a mesh"),
    ],
)
def test_settings_that_cannot_be(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        generate(override(tiny(), text), tmp_path, device="cpu")
    assert not list(tmp_path.iterdir())


def test_the_second_stage_has_a_model_of_its_own(tmp_path):
    """Magic3D's: pixels for the volume, a latent model for the mesh, loaded when its stage begins."""
    folder = tiny_latent_folder(tmp_path / "latent", "sd")
    config = tiny()
    guidance = replace(config.guidance, model=str(folder), view_words="paper", mode_words=False, scale=7.5)
    config = replace(config, steps=2, then=replace(config.then, steps=2, guidance=guidance))
    part = generate(config, tmp_path / "runs", device="cpu")
    assert part.step == 4 and np.isfinite([p.stat().st_size for p in part.meshes.values()]).all()
    stage = load_checkpoint(part.folder / "checkpoint.safetensors", "cpu")
    assert stage.config.guidance.model == str(folder) and set(stage.weights) != set()
    last = [json.loads(line) for line in (part.folder / "metrics.jsonl").read_text().splitlines()][-1]
    assert last["step"] == 3 and np.isfinite(last["sds"])
    with pytest.raises(PriorError, match="nowhere"):
        generate(override(config, 'then.guidance.model="/nowhere/at/all"'), tmp_path / "other", device="cpu")
    assert not (tmp_path / "other").exists(), "models of all stages are looked for before the first"


def test_texts_of_the_second_stage_are_cleaned_too():
    config = check_prompt(override(tiny(), "then.guidance.negative=a zeppelin, gray"))
    assert config.then.guidance.negative == "a gray" and config.then.prompt == config.prompt == "a red sphere"


def test_a_rule_that_a_later_stage_cannot_have_is_refused_before_the_first(tmp_path):
    config = tiny()
    config = replace(config, then=replace(config.then, guidance=replace(config.then.guidance, rule="rfds_rev")))
    config = replace(config, then=replace(config.then, guidance=replace(config.then.guidance, clip_clean=False)))
    with pytest.raises(UsageError, match="rule rfds_rev is for models that predict the velocity of a flow"):
        generate(config, tmp_path / "runs", device="cpu")
    assert not (tmp_path / "runs").exists()
