"""What `refine` announces before a mesh is painted: axes, defects, smaller images, UVs that are kept, new UVs."""

from dataclasses import replace

import numpy as np
import pytest
import trimesh
from support.imported_meshes import gray_box

from dreamfusion_ngp.config.presets import preset
from dreamfusion_ngp.config.schema import MeshConfig
from dreamfusion_ngp.runs.refine import refine
from dreamfusion_ngp.runs.texture import TextureStage, log_new_uvs

SIZE = 64


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    return gray_box(tmp_path_factory.mktemp("box") / "a box.glb")


def stage_of(path, **texture):
    config = preset("refine")
    mesh, source = MeshConfig(detail_levels=3, detail_finest=48, detail_log2_table=11), config.texture
    source = replace(source, source=str(path), size=SIZE, **texture)
    return TextureStage.start(replace(config, prompt="a red cube", mesh=mesh, texture=source), "cpu")


def test_a_smaller_image_is_announced(box, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("dreamfusion_ngp.runs.refine.generate", lambda *_, **__: None)
    with caplog.at_level("INFO", "dreamfusion_ngp"):
        refine(box, "a red cube", tmp_path, size=96)
        assert not caplog.messages
        refine(box, "a red cube", tmp_path, size=SIZE)
    (line,) = caplog.messages
    assert "a box.glb has 96 x 96 texels and will have 64 x 64 texels" in line and "--texture-size" in line


def test_kept_uvs_that_overlap_are_announced(box, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("dreamfusion_ngp.runs.refine.generate", lambda *_, **__: None)
    twice = trimesh.load(box, force="mesh")
    twice.visual.uv = np.abs(twice.visual.uv - 0.5) + 0.25  # four quarters of the image, one upon the other
    twice.export(tmp_path / "twice.glb")
    with caplog.at_level("INFO", "dreamfusion_ngp"):
        refine(box, "a red cube", tmp_path, size=96, uv="keep")
        refine(tmp_path / "twice.glb", "a red cube", tmp_path, size=96)
        assert not caplog.messages
        refine(tmp_path / "twice.glb", "a red cube", tmp_path, size=96, uv="keep")
    (line,) = caplog.messages
    assert "that are kept: " in line and "% of the texture is used more than once" in line


def test_new_uvs_are_announced(box, tmp_path, caplog):
    trimesh.creation.box().export(tmp_path / "plain.stl")
    with caplog.at_level("INFO", "dreamfusion_ngp"):
        log_new_uvs(stage_of(box))
        log_new_uvs(stage_of(tmp_path / "plain.stl", uv="unwrap"))
        assert not caplog.messages
        log_new_uvs(stage_of(tmp_path / "plain.stl"))
    assert "new UVs for surface: those of the file are missing" in caplog.text


def announced(monkeypatch, caplog, path, **arguments) -> list[str]:
    """What `refine` says of a file before a run is made of it."""
    monkeypatch.setattr("dreamfusion_ngp.runs.refine.generate", lambda *_, **__: None)
    caplog.clear()
    with caplog.at_level("INFO", "dreamfusion_ngp"):
        refine(path, "a red cube", **{"size": 96, **arguments})
    return caplog.messages


def test_axes_that_are_taken_for_granted_are_announced(box, tmp_path, monkeypatch, caplog):
    for kind, axes in (("obj", "+Y up and its front towards +Z"), ("stl", "+Z up and its front towards -Y")):
        path = tmp_path / f"plain.{kind}"
        trimesh.creation.box().export(path)
        (line,) = announced(monkeypatch, caplog, path)
        assert f"plain.{kind} is taken to have {axes}" in line and "--up and --front" in line
        assert not announced(monkeypatch, caplog, path, up="+z", front="-y")
    assert not announced(monkeypatch, caplog, box)


def test_defects_of_triangles_are_announced(tmp_path, monkeypatch, caplog):
    made = trimesh.creation.icosphere(2)
    faces = made.faces[1:].copy()
    faces[7] = faces[7][::-1]
    path = tmp_path / "bad.glb"
    trimesh.Trimesh(made.vertices, [*faces, [3, 3, 4]], process=False).export(path)
    (line,) = announced(monkeypatch, caplog, path)
    assert "bad.glb has 1 hole (3 edges of one triangle); 1 flipped triangle; 1 triangle without area" in line


def test_what_is_kept_of_an_image_that_becomes_larger_is_announced(box, monkeypatch, caplog):
    larger = preset("refine")
    larger = replace(larger, texture=replace(larger.texture, size=128))
    assert not announced(monkeypatch, caplog, box, only_back=True)
    assert not announced(monkeypatch, caplog, box, size=None, config=larger)
    (line,) = announced(monkeypatch, caplog, box, size=None, config=larger, only_back=True)
    assert "96 x 96 texels and will have 128 x 128, so what views keep is interpolated" in line


def test_a_mesh_without_colours_is_announced_before_it_is_painted(box, tmp_path, monkeypatch, caplog):
    """What its plain white leaves in the painted sides, unless all of it is to be forgotten."""
    path, base = tmp_path / "plain.stl", preset("refine")
    trimesh.creation.box().export(path)
    axes = {"up": "+z", "front": "-y"}
    forgets = replace(base, paint=replace(base.paint, strength=1.0))
    assert not announced(monkeypatch, caplog, path, **axes)
    assert not announced(monkeypatch, caplog, box, depth=True)
    assert not announced(monkeypatch, caplog, path, **axes, depth=True, config=forgets)
    (line,) = announced(monkeypatch, caplog, path, **axes, depth=True)
    assert "plain.stl has one plain colour" in line and "--set paint.strength=1" in line


def test_emitted_light_is_announced(box, tmp_path, monkeypatch, caplog):
    """Some programs put their image there, over a black base colour, which is all that would be repainted."""
    path, made = tmp_path / "lamp.glb", trimesh.load(box, force="mesh")
    made.visual.material.name, made.visual.material.emissiveFactor = "glow", [1.0, 1.0, 1.0]
    made.export(path)
    (line,) = announced(monkeypatch, caplog, path)
    assert "light that lamp.glb emits (glow) is not seen by guidance" in line


def test_one_view_to_keep_need_not_be_in_a_list(box, monkeypatch):
    configs = []
    monkeypatch.setattr("dreamfusion_ngp.runs.refine.generate", lambda config, *_, **__: configs.append(config))
    for views in ("left", "front, left", ("front", "left")):
        refine(box, "a red cube", keep_views=views)
    assert [config.texture.keep for config in configs] == ["left", "front,left", "front,left"]
