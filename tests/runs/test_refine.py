"""Refined meshes: colours alone change, kept views stay, the run resumes, bad input is one line."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from support.imported_meshes import gray_box
from support.mesh_files import write_obj

from dreamfusion_ngp.base.errors import MeshError, UsageError
from dreamfusion_ngp.base.files import file_digest
from dreamfusion_ngp.cli import main
from dreamfusion_ngp.config.presets import preset
from dreamfusion_ngp.config.schema import MeshConfig, OptimConfig
from dreamfusion_ngp.evaluation.evaluate import evaluate
from dreamfusion_ngp.guidance.protocol import GuidanceOutput
from dreamfusion_ngp.importer.read import read_mesh
from dreamfusion_ngp.optimise.loop import train
from dreamfusion_ngp.runs.checkpoint import load_checkpoint, save_checkpoint
from dreamfusion_ngp.runs.generate import generate, resume
from dreamfusion_ngp.runs.kept import kept_views
from dreamfusion_ngp.runs.outputs import export
from dreamfusion_ngp.runs.refine import refine
from dreamfusion_ngp.runs.texture import TextureStage
from dreamfusion_ngp.scene.painted_surface import Maps, PaintedSurface

SIZE = 64


def tiny(**changes):
    config = preset("refine")
    mesh = MeshConfig(detail_levels=3, detail_finest=48, detail_log2_table=11)
    small = replace(config.render, resolution=20)
    return replace(config, steps=4, views=1, render=small, mesh=mesh, **changes)


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    return gray_box(tmp_path_factory.mktemp("box") / "a box.glb")


@pytest.fixture(scope="module")
def refined(box, tmp_path_factory):
    return refine(box, "a red cube", tmp_path_factory.mktemp("out"), size=SIZE, config=tiny(), device="cpu")


def test_colours_alone_change(box, refined):
    before, after = read_mesh(box), read_mesh(refined.meshes["glb"])
    for name in ("vertices", "faces", "uv", "uv_faces", "matrix", "face_material"):
        assert np.array_equal(getattr(before, name), getattr(after, name)), name
    old, new = (mesh.textures[0].image for mesh in (before, after))
    assert new.shape == (SIZE, SIZE, 3) and old.shape == (96, 96, 3)
    assert refined.meshes["glb"].name == "a box.glb" and refined.step == 4
    assert {"turntable", "sheet"} <= set(refined.pictures)


class Red:
    """A guidance that wants every picture red."""

    def tensors(self):
        return {}

    def __call__(self, image, views, part, progress):
        wanted = torch.tensor([0.9, 0.05, 0.05])
        return GuidanceOutput((image - wanted) / image[0].numel(), (image - wanted).square().mean(), {})


def stage_of(box, steps=80, **texture):
    config = tiny(optim=OptimConfig(lr_grid=0.05, lr_mlp=0.02))
    source = replace(config.texture, source=str(box), size=SIZE, **texture)
    return TextureStage.start(replace(config, steps=steps, prompt="a red cube", texture=source), "cpu")


def trained(stage, until=None):
    losses = []
    train(stage, Red(), lambda r: losses.append(float(r.terms["sds"])) or stage.step == until)
    return losses


def test_starts_as_it_is_and_follows_its_guidance(box):
    stage = stage_of(box)
    old = read_mesh(box).textures[0].image
    small = np.asarray(Image.fromarray(old).resize((SIZE, SIZE), Image.Resampling.LANCZOS))
    covered = stage.texels[0][0] >= 0
    assert np.abs(stage.images()[0].astype(int) - small)[covered].max() <= 1
    losses = trained(stage)
    assert sum(losses[-8:]) < 0.6 * sum(losses[:8])
    change = stage.images()[0].astype(int) - small
    assert change[covered][:, 0].mean() > 10 and change[covered][:, 1].mean() < -30


def test_kept_views_stay(box):
    """The front, +Z, of gray 240 stays to the last bit; its opposite and the sides become red."""
    stage = stage_of(box, keep="front")
    before = stage.images()[0].astype(int)
    face, _ = stage.texels[0]
    normal = trimesh.Trimesh(stage.mesh.vertices, stage.mesh.faces, process=False).face_normals[face.clip(min=0)]
    front, back = ((face >= 0) & (sign * normal[..., 2] > 0.9) for sign in (1, -1))
    kept = stage.surface.kept[0].numpy()
    assert (kept[front] == 1).mean() > 0.8 and not kept[back].any() and not kept[(face >= 0) & ~front].any()
    trained(stage)
    after = stage.images()[0].astype(int)
    whole = front & (kept == 1)
    assert np.array_equal(after[whole], before[whole])
    assert np.abs(after[back] - before[back]).mean() > 20


def test_what_is_hidden_is_not_kept(tmp_path):
    """Two plates, one before the other: of the one behind only the part beside the other is seen."""
    near, far = trimesh.creation.box(extents=(1, 2, 0.1)), trimesh.creation.box(extents=(2, 2, 0.1))
    near.apply_translation([0, 0, 1])
    path = tmp_path / "plates.glb"
    path.write_bytes(trimesh.Scene(trimesh.util.concatenate([near, far])).export(file_type="glb"))
    stage = stage_of(path, keep="front", uv="unwrap")
    face, place = stage.texels[0]
    corners = stage.mesh.vertices[stage.mesh.faces[face.clip(min=0)]]
    x = (corners * place[..., None]).sum(2)
    normal = trimesh.Trimesh(stage.mesh.vertices, stage.mesh.faces, process=False).face_normals[face.clip(min=0)]
    kept = stage.surface.kept[0].numpy()
    front = (face >= 0) & (normal[..., 2] > 0.9)
    low, high = stage.mesh.vertices.min(0), stage.mesh.vertices.max(0)
    behind = front & (x[..., 2] < low[2] + 0.4 * (high[2] - low[2]))
    half = (high[0] - low[0]) / 2
    hidden, beside = behind & (np.abs(x[..., 0]) < 0.4 * half), behind & (np.abs(x[..., 0]) > 0.75 * half)
    assert hidden.sum() > 20 and beside.sum() > 20
    assert not kept[hidden].any() and (kept[beside] > 0).mean() > 0.6


def test_texels_repeat_or_end_at_the_border():
    """A map of 2 x 2 texels, black and white columns: beyond the right border is the left one again, or the right."""
    image = torch.tensor([0.0, 1.0]).view(1, 1, 2, 1).expand(2, 2, 2, 3).contiguous()
    uv = torch.tensor([[0.25, 0.5], [0.75, 0.5], [1.0, 0.5], [1.25, 0.5], [-0.25, 0.5], [0.5, 0.5]])
    faces = torch.zeros(1, 3, dtype=torch.int32)
    maps = Maps(image, torch.zeros(2, 2, 2), torch.tensor([True, False]), uv, faces.long(), torch.zeros(1).long())
    surface = PaintedSurface(torch.zeros(3, 3), faces, maps, tiny().mesh, 0.75, 0)
    repeated, _ = surface.texels(torch.zeros(6).long(), uv)
    ended, _ = surface.texels(torch.ones(6).long(), uv)
    assert repeated[:, 0].tolist() == pytest.approx([0, 1, 0.5, 0, 1, 0.5])
    assert ended[:, 0].tolist() == pytest.approx([0, 1, 1, 1, 0, 0.5])
    gray, kept = surface.texels(torch.full((6,), -1), uv)
    assert (gray == 0.5).all() and not kept.any()


def test_resumes_bit_exactly(box, tmp_path):
    whole = stage_of(box, steps=6)
    losses = trained(whole)
    part = stage_of(box, steps=6)
    before = trained(part, until=2)
    save_checkpoint(tmp_path / "c.safetensors", part)
    again = load_checkpoint(tmp_path / "c.safetensors", "cpu")
    assert before + trained(again) == losses
    assert all(np.array_equal(again.images()[k], v) for k, v in whole.images().items())


def test_a_finished_run_goes_on_and_is_exported_again(refined):
    again = resume(refined.folder, steps=5, device="cpu")
    assert again.step == 5 and export(refined.folder, device="cpu")["glb"].name == "a box.glb"
    assert json.loads((refined.folder / "config.json").read_text())["texture"]["size"] == SIZE


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--formats", "stl,ply", "--size", "60", "--origin", "base"], "--formats, --size, --origin"),
        (["--formats", "glb,obj"], "--formats"),
        (["--resolution", "32", "--texture", "64", "--faces", "9"], "--resolution, --texture, --faces"),
        (["--keep-all"], "--keep-all"),
    ],
)
def test_options_that_an_imported_mesh_cannot_have_are_named(refined, capsys, flags, named):
    assert main(["export", str(refined.folder), "--device", "cpu", *flags]) == UsageError.exit_code
    (line,) = (line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: "))
    message = f"leave out {named}: the mesh of this run was imported, and a box.glb keeps its format, place"
    assert message in line


def test_its_own_format_may_be_named_and_others_are_refused_before_a_step(refined, box, tmp_path):
    assert export(refined.folder, ("glb",), device="cpu")["glb"].name == "a box.glb"
    before = (refined.folder / "checkpoint.safetensors").read_bytes()
    with pytest.raises(UsageError, match="leave out --formats, --origin: .* imported"):
        resume(refined.folder, steps=9, formats=("obj",), origin="base", device="cpu")
    assert (refined.folder / "checkpoint.safetensors").read_bytes() == before
    source = replace(preset("refine").texture, source=str(box), size=SIZE)
    with pytest.raises(UsageError, match="leave out --formats: .* imported"):
        generate(tiny(prompt="a red cube", texture=source), tmp_path / "out", formats=("stl",), device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_mesh_that_has_changed_is_refused(box, tmp_path):
    copy = tmp_path / "copy.glb"
    copy.write_bytes(box.read_bytes())
    result = refine(copy, "a red cube", tmp_path / "out", size=SIZE, config=tiny(), device="cpu")
    copy.write_bytes((result.meshes["glb"]).read_bytes())
    with pytest.raises(UsageError, match=r"copy\.glb is not the file that this run was started with"):
        resume(result.folder, steps=5, device="cpu")
    copy.unlink()
    with pytest.raises(MeshError, match=rf"^{copy}, the mesh of this run, is not there; put it back"):
        export(result.folder, device="cpu")


def test_a_texture_that_has_changed_under_an_unchanged_obj_is_refused(tmp_path):
    mesh = write_obj(tmp_path)
    result = refine(mesh, "a red mug", tmp_path / "out", size=SIZE, config=tiny(), device="cpu")
    assert export(result.folder, device="cpu")["obj"].name == "mug.obj"
    (tmp_path / "skin" / "mug.png").write_bytes((tmp_path / "bump.png").read_bytes())
    with pytest.raises(UsageError, match=r"mug\.obj is not the file .* or a file that it names is not"):
        export(result.folder, device="cpu")


def test_a_link_is_read_by_its_own_name(box, tmp_path, monkeypatch):
    """In the caches of the hub and of git-annex files are links to others without a suffix."""
    made = []
    monkeypatch.setattr("dreamfusion_ngp.runs.refine.generate", lambda config, *_, **more: made.append(config.texture))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blob").write_bytes(box.read_bytes())
    (tmp_path / "mug.glb").symlink_to("blob")
    refine("mug.glb", "a red cube", size=96)
    assert made[0].source == str(tmp_path / "mug.glb") and made[0].digest == file_digest(box)


def test_a_mesh_is_tried_before_a_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("dreamfusion_ngp.runs.refine.generate", None)
    (tmp_path / "mug.fbx").write_bytes(b"Kaydara")
    with pytest.raises(UsageError, match=r"mug\.fbx: unknown kind of mesh"):
        refine(tmp_path / "mug.fbx", "a red mug", tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(mesh="nowhere.glb"), MeshError, r"nowhere\.glb: No such file"),
        (dict(uv="best"), UsageError, r"texture\.uv must be one of auto, keep, unwrap"),
        (dict(size=8), UsageError, r"texture\.size must be from 16 to 4096"),
        (dict(keep_views=("top",)), UsageError, "views to keep are of front, left, back, right, got 'top'"),
        (dict(up="w"), UsageError, "up must be an axis"),
        (dict(prompt="a zeppelin"), UsageError, "does not know 'zeppelin'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(box, tmp_path, change, error, message):
    arguments = dict(mesh=box, prompt="a red cube", size=SIZE) | change
    with pytest.raises(error, match=message) as caught:
        refine(root=tmp_path, config=tiny(), device="cpu", **arguments)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_a_hostile_file_is_one_line_and_leaves_nothing(tmp_path):
    (tmp_path / "cut.glb").write_bytes(b"glTF\x02\x00\x00\x00")
    with pytest.raises(MeshError, match=r"cut\.glb"):
        refine(tmp_path / "cut.glb", "a red cube", tmp_path / "out", config=tiny(), device="cpu")
    assert not (tmp_path / "out").exists()


def test_has_no_figures(refined):
    with pytest.raises(UsageError, match="a refined mesh has no figures"):
        evaluate([refined.folder], device="cpu")


def test_a_flag_that_is_not_given_leaves_the_setting(box, monkeypatch):
    made = []
    monkeypatch.setattr("dreamfusion_ngp.runs.refine.generate", lambda config, *_, **more: made.append(config.texture))
    texture = replace(preset("refine").texture, size=64, uv="unwrap", up="+z", front="-y", keep="left")
    refine(box, "a red mug", config=replace(preset("refine"), texture=texture), only_back=True)
    refine(box, "a red mug", config=replace(preset("refine"), texture=texture), size=32, uv="keep", keep_views=["back"])
    refine(box, "a red mug", only_back=True)
    assert [(t.size, t.uv, t.up, t.front, t.keep) for t in made] == [
        (64, "unwrap", "+z", "-y", "left"),
        (32, "keep", "+z", "-y", "back"),
        (1024, "auto", None, None, "front"),
    ]


def test_names_of_views():
    assert kept_views("") == () and kept_views(" Front, left,") == ("front", "left")
