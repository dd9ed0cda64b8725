"""Several volumes under one guidance: each its own run, one student, one checkpoint, one folder."""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from support.tiny_runs import TINY, Target

from dreamfusion_ngp.base.errors import ExportError, UsageError
from dreamfusion_ngp.config.checks import check_config
from dreamfusion_ngp.optimise.loop import train
from dreamfusion_ngp.optimise.particles import ParticleStage
from dreamfusion_ngp.runs import outputs
from dreamfusion_ngp.runs.generate import generate
from dreamfusion_ngp.runs.outputs import export_run, render, render_run
from dreamfusion_ngp.runs.stages import follow, start

THREE = replace(TINY, steps=4, particles=3)


class Counting(Target):
    """A target that remembers the parts that it was asked about."""

    def __init__(self):
        super().__init__()
        self.parts = []

    def __call__(self, image, views, part, progress):
        self.parts.append((part, progress))
        return super().__call__(image, views, part, progress)


def trained(stage, guidance=None, until=None):
    records = []
    train(stage, guidance or Counting(), lambda r: records.append(r.plain()) or stage.step == until)
    return records


def test_each_particle_is_the_run_of_its_seed():
    """A guidance without noise of its own leaves K runs."""
    stage, guidance = start(THREE, "cpu"), Counting()
    assert isinstance(stage, ParticleStage)
    records = trained(stage, guidance)
    assert [r["step"] for r in records] == [0, 1, 2, 3] and stage.step == 4
    for i in range(3):
        alone = start(replace(TINY, steps=4, seed=i), "cpu")
        trained(alone)
        mine = stage.members[i].tensors()
        assert all(torch.equal(v, mine[k]) for k, v in alone.tensors().items()), i
    assert [p for p, _ in guidance.parts] == list(range(12)), "noise of its own for each"
    assert [p for _, p in guidance.parts[::3]] == [0, 0.25, 0.5, 0.75]


def test_an_interrupted_step_is_not_whole():
    class Failing(Counting):
        def __call__(self, *arguments):
            if len(self.parts) == 4:
                raise KeyboardInterrupt
            return super().__call__(*arguments)

    stage = start(THREE, "cpu")
    with pytest.raises(KeyboardInterrupt):
        trained(stage, Failing())
    assert stage.step == 1 and not stage.whole


@pytest.mark.slow
def test_a_run_leaves_every_particle_and_the_next_stage_takes_the_first(tmp_path):
    from dreamfusion_ngp.config.presets import preset

    base = preset("fast")
    small = replace(base.render, resolution=16, budget=1 << 15, occupancy_resolution=16)
    run = replace(base, prompt="a red mug", steps=3, views=1, particles=2, render=small)
    result = generate(run, tmp_path, device="cpu")
    second = result.folder / "particle-2"
    assert result.meshes["glb"].parent == result.folder
    assert {p.name for p in second.iterdir()} >= {"mesh.glb", "contact_sheet.png"}
    assert (second / "mesh.glb").read_bytes() != result.meshes["glb"].read_bytes()
    (second / "contact_sheet.png").unlink()
    render(result.folder, frames=8, resolution=32, device="cpu")
    assert (second / "contact_sheet.png").is_file()


def test_a_mesh_goes_on_from_the_first():
    then = replace(TINY, kind="mesh", steps=1, mesh=replace(TINY.mesh, resolution=24))
    stage = start(replace(THREE, then=then), "cpu")
    trained(stage)
    mesh = follow(stage)
    assert torch.equal(mesh.surface.field.table, stage.members[0].field.table) and mesh.before == 4


def test_particles_are_of_a_first_volume_and_few():
    with pytest.raises(UsageError, match="particles must be from 1 to 4"):
        check_config(replace(TINY, particles=5))
    with pytest.raises(UsageError, match="particles are of volumes"):
        check_config(replace(TINY, kind="mesh", particles=2))
    with pytest.raises(UsageError, match="several particles start from nothing"):
        start(THREE, "cpu", start(TINY, "cpu"))


def test_a_save_in_the_middle_of_the_first_member_s_update_is_refused():
    """A second Ctrl-C comes at any time; the parameters of a half-made update belong to no step."""

    class Looking(Counting):
        wholes: ClassVar = []

        def __call__(self, *arguments):
            self.wholes.append(stage.whole)
            return super().__call__(*arguments)

    stage, guidance = start(THREE, "cpu"), Looking()
    first, seen = stage.members[0], []
    step = first.adam.step
    first.adam.step = lambda factors: seen.append(stage.whole) or step(factors)
    trained(stage, guidance, until=2)
    assert seen == [False, False], "during the update of the first"
    assert guidance.wholes == [True, False, False] * 2 and stage.whole


def test_the_largest_seed_has_particles_and_a_mesh():
    largest = replace(THREE, seed=(1 << 63) - 1, steps=1, particles=2)
    check_config(largest)
    stage = start(replace(largest, then=replace(TINY, kind="mesh", mesh=replace(TINY.mesh, resolution=24))), "cpu")
    assert [member.config.seed for member in stage.members] == [(1 << 63) - 1, 0]
    trained(stage)
    assert follow(stage).step == 0


def test_a_particle_without_a_surface_costs_the_others_nothing(tmp_path, monkeypatch):
    stage = start(THREE, "cpu")
    monkeypatch.setattr(outputs, "turntable_frames", lambda *_: [np.zeros((16, 16, 3), np.uint8)] * 48)
    torch.nn.init.constant_(stage.members[1].field.b2, -50.0)
    for name in ("table", "w1", "w2"):
        torch.nn.init.zeros_(getattr(stage.members[1].field, name))
    stage.members[1].field.refresh()
    with pytest.raises(ExportError, match="^particle-2: "):
        export_run(stage, tmp_path, ("ply",), resolution=24)
    assert {p.parent.name for p in tmp_path.rglob("mesh.ply")} == {tmp_path.name, "particle-3"}
    (tmp_path / "particle-2" / "contact_sheet.png").mkdir(parents=True)
    with pytest.raises(ExportError, match="^particle-2: "):
        render_run(stage, tmp_path)
    assert (tmp_path / "contact_sheet.png").is_file() and (tmp_path / "particle-3" / "contact_sheet.png").is_file()
