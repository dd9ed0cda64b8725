"""The truth of painted textures: the toy's colours, what is measured, one short run."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh
from support.tiny_runs import TINY

from dreamfusion_ngp.experiments import texture
from dreamfusion_ngp.experiments.repair import true_colors
from dreamfusion_ngp.experiments.texture import disagreement, main, seams
from dreamfusion_ngp.optimise.volume import VolumeStage
from dreamfusion_ngp.render.sides import rasterise_sides, view_weights
from dreamfusion_ngp.runs.handover import whole_mesh
from dreamfusion_ngp.runs.texture import TextureStage
from dreamfusion_ngp.scene.cameras import orbit
from dreamfusion_ngp.toybox.prior.depth_model import start_depth_prior
from dreamfusion_ngp.toybox.prior.latent_model import load_latent_prior
from dreamfusion_ngp.toybox.world.shapes import COLORS


def test_colours_are_those_of_the_nearest_part():
    """A tree's crown is of its colour, its trunk is not, also a little beside them."""
    found = true_colors("a green tree", torch.tensor([[0.3, 0.2, 0.0], [0.06, -0.48, 0.0]]))
    torch.testing.assert_close(found[0], torch.tensor(COLORS["green"]))
    assert (found[1] - found[0]).abs().max() > 0.1


def test_disagreement_is_that_of_points_that_two_views_see():
    """Views of a ball that say the same differ by nothing, and by what is added to one of two."""
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.5)
    surface = torch.tensor(ball.vertices, dtype=torch.float32), torch.tensor(ball.faces, dtype=torch.int32)
    sides = rasterise_sides(*surface, orbit([0.0, 90.0], 0.0, 1.5, 1.2), 128)
    weight, views = view_weights(sides, 0.2, 6.0, 2), sides.x * 0.5 + 0.5
    assert disagreement(views, sides, weight) < 0.02
    views[1] += 0.1
    assert disagreement(views, sides, weight) == pytest.approx(0.1, abs=0.01)


def test_seams_are_jumps_at_the_borders_of_charts():
    """None of a texture of one colour; that of two charts of a ball which differ by a fifth in one channel of three."""
    config = replace(TINY, kind="texture", texture=replace(TINY.texture, size=64))
    ball, half = trimesh.creation.icosphere(subdivisions=2, radius=0.5), np.array([0.5, 1.0])
    front = ball.triangles_center[:, 2] > 0
    uv = np.concatenate([(ball.vertices[:, :2] + [0.75, 0]) * half * 0.4 + [0, 0.5], ball.vertices[:, :2] * 0.2 + 0.8])
    uv_faces = ball.faces + np.where(front, 0, len(ball.vertices))[:, None]
    image = np.full((64, 64, 3), 100, np.uint8)
    stages = [TextureStage(config, "cpu", whole_mesh(ball.vertices, ball.faces, uv, uv_faces, image.copy()))]
    image[:, 36:, 0] += 51
    stages.append(TextureStage(config, "cpu", whole_mesh(ball.vertices, ball.faces, uv, uv_faces, image)))
    assert [seams(stage) for stage in stages] == [0.0, pytest.approx(0.2 / 3**0.5, abs=1e-3)]


def test_a_short_run(tmp_path, monkeypatch):
    """Of a volume before its first step, its blob painted."""
    start_depth_prior(load_latent_prior()).save(tmp_path / "control")
    small = {"views": 4, "sds": 0.0, "resolution": 32, "steps": 2}
    monkeypatch.setattr(texture, "VARIANTS", {"sds": {"views": 0}, "painted": small})
    clock, load = [0.0], texture.load_guidance

    def slow(*args):
        clock[0] += 1000
        return load(*args)

    monkeypatch.setattr(texture, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(texture, "load_guidance", slow)
    monkeypatch.setattr(texture, "load_state", lambda run, device: (VolumeStage.start(TINY, device), run))
    out = tmp_path / "texture.json"
    flags = ["--steps", "2", "--texture-size", "64", "--runs", str(tmp_path / "runs"), "--threads", "1"]
    flags += ["--depth-control", str(tmp_path / "control")]
    assert main(["a-run", "-o", str(out), *flags]) == 0
    (run,) = json.loads(out.read_text())["runs"]
    assert set(run) == {"prompt", "seed", "baked", "sds", "painted"}
    assert all(0 < run[name][view] < 60 for name in ("baked", "sds", "painted") for view in ("sides", "between"))
    assert all(0 <= run[name][figure] < 1.01 for name in ("baked", "painted") for figure in ("seams", "r_precision"))
    assert clock == [1000] and run["sds"]["seconds"] == 0, "a model is loaded for whichever variant comes first"
    assert 0 <= run["painted"]["disagreement"] < 1 and (tmp_path / "runs" / "0" / "a-red-mug" / "painted.png").is_file()
