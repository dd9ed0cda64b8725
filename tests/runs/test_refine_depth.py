"""Refined meshes with depth: geometry untouched, what the front shows stays, models that are missing are one line."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from support.imported_meshes import gray_box
from support.tiny_depth import tiny_control

from dreamfusion_ngp.base.errors import PriorError
from dreamfusion_ngp.cli import main
from dreamfusion_ngp.config.presets import preset
from dreamfusion_ngp.config.schema import MeshConfig, OptimConfig, PaintConfig
from dreamfusion_ngp.guidance import painter
from dreamfusion_ngp.importer.read import read_mesh
from dreamfusion_ngp.runs.checkpoint import load_checkpoint
from dreamfusion_ngp.runs.generate import generate, resume
from dreamfusion_ngp.runs.refine import refine
from dreamfusion_ngp.toybox.prior.depth_model import start_depth_prior
from dreamfusion_ngp.toybox.prior.latent_model import LATENT_PRIOR, load_latent_prior

SIZE = 64


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    return gray_box(tmp_path_factory.mktemp("box") / "a box.glb")


@pytest.fixture(scope="module")
def control(tmp_path_factory):
    """A ControlNet of toybox-256 that has learnt nothing."""
    folder = tmp_path_factory.mktemp("control")
    start_depth_prior(load_latent_prior()).save(folder)
    return folder


def tiny(control="", **paint):
    config = preset("refine")
    return replace(
        config,
        steps=3,
        views=1,
        optim=OptimConfig(lr_grid=0.2, lr_mlp=0.1),  # three steps are seen
        render=replace(config.render, resolution=20),
        mesh=MeshConfig(detail_levels=3, detail_finest=48, detail_log2_table=11),
        guidance=replace(config.guidance, control=str(control)),
        paint=replace(PaintConfig(resolution=32, steps=2, batch=256), **paint),
    )


def test_vertices_uvs_order_place_and_size_are_untouched_and_the_front_stays(box, control, tmp_path):
    """Zero difference, read from the files; a finished run goes on without the painter."""
    size = len(read_mesh(box).textures[0].image)
    result = refine(
        box, "a red cube", tmp_path, size=size, depth=True, only_back=True, config=tiny(control), device="cpu"
    )
    before, after = read_mesh(box), read_mesh(result.meshes["glb"])
    for name in ("vertices", "faces", "uv", "uv_faces", "matrix", "face_material", "face_part"):
        assert np.array_equal(getattr(before, name), getattr(after, name)), name
    kept = load_checkpoint(result.folder / "checkpoint.safetensors", "cpu").surface.kept[0].numpy() == 1
    old, new = (mesh.textures[0].image[..., :3] for mesh in (before, after))
    assert kept.sum() > 500 and np.array_equal(old[kept], new[kept]) and (old != new).any()
    config = json.loads((result.folder / "config.json").read_text())
    assert config["paint"]["views"] == 4 and config["texture"]["keep"] == "front"
    assert config["guidance"]["control"] == str(control)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(painter, "load_painter", None)
        assert resume(result.folder, steps=4, device="cpu").step == 4


def test_the_surface_of_a_volume_is_painted(control, tmp_path):
    """Preset textmesh with a model of depth: both stages, one checkpoint, a mesh with the painted colours."""
    config, second = preset("textmesh"), tiny(control, views=4)
    small = replace(config.render, resolution=16, budget=1 << 15, occupancy_resolution=16)
    texture = replace(config.then.texture, size=SIZE, faces=600)
    then = replace(second, preset="textmesh", field=config.field, texture=texture)
    loss = replace(config.loss, eikonal_points=64)
    config = replace(config, prompt="a red sphere", steps=2, views=1, render=small, loss=loss, then=then)
    result = generate(config, tmp_path, device="cpu", formats=("glb",))
    stage = load_checkpoint(result.folder / "checkpoint.safetensors", "cpu")
    assert stage.is_generated and (stage.before, stage.step, stage.painted) == (2, 3, True)
    assert stage.views.shape == (4, 32, 32, 3) and len(stage.painted_points(stage.views)) > 500
    lines = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["views"] > 0 and "views" not in lines[0] and result.meshes["glb"].is_file()


def test_a_model_of_depth_that_is_not_there_is_one_line_and_leaves_nothing(box, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(painter, "PRIORS", tmp_path / "priors")
    (tmp_path / "priors").mkdir()
    (tmp_path / "priors" / "toybox-256").symlink_to(LATENT_PRIOR)
    out = tmp_path / "out"
    with pytest.raises(PriorError, match="--depth-control") as caught:
        refine(box, "a red cube", out, size=SIZE, depth=True, config=tiny(), device="cpu")
    assert "\n" not in str(caught.value) and not out.exists()
    other = tiny_control(tmp_path / "other", "sd")
    arguments = ["refine", str(box), "a red cube", "--depth", "--depth-control", str(other), "-o", str(out)]
    assert main(arguments) == PriorError.exit_code
    assert "another model" in capsys.readouterr().err and not out.exists()


def spoilt(control, folder, change):
    """A copy of a ControlNet with its weights, by name, changed."""
    folder = shutil.copytree(control, folder)
    path = folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)
    return folder


LAST = "controlnet_mid_block.weight"
DAMAGE = {
    "missing": (lambda weights: weights.pop(LAST), f"1 weights are missing or have the wrong shape.*{LAST}"),
    "misshapen": (lambda weights: weights.update({LAST: weights[LAST][:-1].clone()}), "wrong shape|size mismatch"),
    "nan": (lambda weights: weights[LAST].fill_(float("nan")), "gives numbers that are not finite: its weights"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_weights_are_found_before_the_first_stage(damage, control, tmp_path):
    """Of a model that only the second stage needs: no step is made, and nothing is written."""
    change, message = DAMAGE[damage]
    folder, config = spoilt(control, tmp_path / "control", change), preset("textmesh")
    then = replace(
        config.then,
        paint=PaintConfig(views=4, resolution=32, steps=2),
        guidance=replace(config.then.guidance, control=str(folder)),
    )
    with pytest.raises(PriorError, match=message) as caught:
        generate(replace(config, prompt="a red sphere", then=then), tmp_path / "out", device="cpu")
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_another_model_of_depth_is_not_gone_on_with(box, control, tmp_path):
    result = refine(box, "a red cube", tmp_path / "out", size=SIZE, depth=True, config=tiny(control), device="cpu")
    other = tmp_path / "other"
    start_depth_prior(load_latent_prior(), seed=1).save(other)
    with pytest.raises(PriorError, match="another model than the run was started with"):
        resume(result.folder, steps=4, control=str(other), device="cpu")
    moved = control.rename(control.with_name("moved"))
    with pytest.raises(PriorError, match="add --depth-control"):
        resume(result.folder, steps=4, device="cpu")
    assert resume(result.folder, steps=4, control=str(moved), device="cpu").step == 4
    moved.rename(control)
