"""The stage of a mesh: it starts from a volume, follows its guidance in shape and colour, resumes bit-exactly."""

from dataclasses import replace

import pytest
import torch
from support.tiny_runs import TINY, Target, run

from dreamfusion_ngp.base.errors import CheckpointError, UsageError
from dreamfusion_ngp.config.checks import check_config
from dreamfusion_ngp.config.schema import LightConfig, MeshConfig
from dreamfusion_ngp.guidance.protocol import GuidanceOutput
from dreamfusion_ngp.optimise.loop import train
from dreamfusion_ngp.optimise.mesh import MeshStage
from dreamfusion_ngp.runs.checkpoint import load_checkpoint, save_checkpoint
from dreamfusion_ngp.runs.stages import follow, next_config, start, steps_in_all

PLAIN = LightConfig(albedo_only_until=2.0)
MESH = replace(
    TINY,
    kind="mesh",
    steps=30,
    light=PLAIN,
    render=replace(TINY.render, resolution=24),
    mesh=MeshConfig(resolution=24, detail_levels=2, detail_finest=32, detail_log2_table=10, refresh=4),
)
BOTH = replace(TINY, steps=5, light=PLAIN, then=MESH)


@pytest.fixture(scope="module")
def volume():
    return run(BOTH)[0]


def trained(stage, guidance=None, until=None):
    records = []
    train(stage, guidance or Target(), lambda r: records.append(r.plain()) or stage.step == until)
    return records


def test_follows_a_volume_in_shape_and_colour(volume):
    stage = follow(volume)
    assert isinstance(stage, MeshStage) and stage.before == 5 and stage.step == 0
    assert follow(stage) is None and steps_in_all(BOTH) == 35
    assert stage.config.field == BOTH.field and stage.config.prompt == BOTH.prompt
    vertices, _ = stage.surface()
    x = vertices.detach()
    torch.testing.assert_close(stage.surface.color(x), volume.field.albedo(x), atol=1e-6, rtol=0)


@pytest.mark.parametrize("then", [MESH, replace(TINY, light=PLAIN)], ids=["mesh", "volume"])
def test_follows_a_volume_whose_fine_levels_faded_in(then, tmp_path):
    """With all levels, as at the end of the volume; also from a checkpoint, and after a step."""
    field = replace(TINY.field, coarse_to_fine=(1, 0.5))
    volume = start(replace(BOTH, field=field, then=replace(then, field=field)), "cpu")
    with torch.no_grad():
        volume.field.table.mul_(3000)
    volume.restore(BOTH.steps, {})
    stage = follow(volume)
    x = torch.linspace(-0.5, 0.5, 60).view(-1, 3)
    assert torch.equal(field_of(stage).density(x), volume.field.density(x))
    save_checkpoint(tmp_path / "next.safetensors", stage)
    again = load_checkpoint(tmp_path / "next.safetensors", "cpu")
    assert torch.equal(field_of(again).density(x), volume.field.density(x))
    trained(again, until=1)
    assert field_of(again).level_weight.tolist() == [1.0] * 4


def field_of(stage):
    return stage.surface.field if isinstance(stage, MeshStage) else stage.field


def test_learns_the_colour_of_its_guidance(volume):
    stage = follow(volume)
    records = trained(stage, Target((0.1, 0.8, 0.2)))
    first, last = (sum(r["sds"] for r in part) / 5 for part in (records[:5], records[-5:]))
    assert last < 0.7 * first and [r["step"] for r in records] == list(range(30))
    assert all(r["samples"] > 100 and 0 < r["opacity"] < 1 and r["nonfinite"] == 0 for r in records)


class Wider:
    """A guidance that wants more of the picture covered: black background, white object."""

    def tensors(self):
        return {}

    def __call__(self, image, views, part, progress):
        return GuidanceOutput(-torch.ones_like(image) / image.numel(), -image.mean(), {})


def test_learns_its_shape(volume):
    """The surface grows where pictures are to be brighter over backgrounds darker than itself."""
    stage = follow(volume)
    with torch.no_grad():
        stage.surface.detail.b2[1:] = 5.0  # a white object
    before = stage.occupied()
    trained(stage, Wider())
    assert stage.occupied() > 1.1 * before
    bare = follow(volume)
    with torch.no_grad():
        bare.surface.detail.b2[1:] = -8.0  # a black one should vanish
    trained(bare, Wider())
    assert bare.occupied() < 0.95 * before


@pytest.mark.parametrize("weights", [dict(consistency=1.0), dict(laplacian=100.0), dict(sign_change=0.1)])
def test_regularisers_are_recorded_and_differentiated(volume, weights):
    config = replace(BOTH, then=replace(MESH, steps=3, mesh=replace(MESH.mesh, **weights)))
    volume = replace_config(volume, config)
    stage, plain = follow(volume), follow(replace_config(volume, replace(BOTH, then=replace(MESH, steps=3))))
    records = trained(stage)
    trained(plain)
    assert set(weights) <= set(records[0]) and all(r[name] > 0 for r in records for name in weights)
    assert not torch.equal(stage.surface.field.table, plain.surface.field.table)


def replace_config(stage, config):
    """The same finished stage under another config."""
    from copy import copy

    other = copy(stage)
    other.config = config
    return other


def test_accumulated_parts_are_one_step(volume):
    parts = follow(replace_config(volume, replace(BOTH, then=replace(MESH, steps=2, accumulate=3))))
    records = trained(parts)
    assert len(records) == 2 and parts.step == 2


def test_resumes_bit_exactly(volume, tmp_path):
    whole = follow(volume)
    records = trained(whole)
    part = follow(volume)
    before = trained(part, until=11)
    save_checkpoint(tmp_path / "c.safetensors", part)
    again = load_checkpoint(tmp_path / "c.safetensors", "cpu")
    assert isinstance(again, MeshStage) and (again.step, again.before) == (11, 5)
    after = trained(again)
    assert [r["sds"] for r in records] == [r["sds"] for r in before + after]
    theirs = again.tensors()
    assert all(torch.equal(v, theirs[k]) for k, v in whole.tensors().items())


def test_same_for_any_number_of_threads(volume, restore_threads):
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        stage = follow(replace_config(volume, replace(BOTH, then=replace(MESH, steps=4))))
        trained(stage)
        results.append(stage.tensors())
    assert all(torch.equal(v, results[1][k]) for k, v in results[0].items())


def test_starts_from_a_volume_with_its_field_only(volume):
    other = replace(MESH, field=replace(TINY.field, levels=5))
    with pytest.raises(UsageError, match="a mesh starts from a volume with the same field"):
        start(other, "cpu", volume)


def test_a_checkpoint_of_another_lattice_is_refused(volume, tmp_path):
    stage = follow(volume)
    stage.config = replace(stage.config, mesh=replace(MESH.mesh, resolution=28))
    save_checkpoint(tmp_path / "c.safetensors", stage)
    with pytest.raises(CheckpointError, match="do not fit its config"):
        load_checkpoint(tmp_path / "c.safetensors", "cpu")


def test_the_next_stage_has_prompt_seed_and_field_of_the_first():
    other = replace(BOTH, prompt="a blue boat", seed=7, field=replace(TINY.field, levels=3))
    config = next_config(other)
    assert (config.prompt, config.seed, config.field.levels, config.kind) == ("a blue boat", 7, 3, "mesh")
    assert next_config(config) is None


def test_shows_itself(volume):
    stage = follow(volume)
    from dreamfusion_ngp.runs.display import display, preview_picture

    picture = preview_picture(stage, 32)
    assert picture.shape == (64, 128, 3) and picture.std() > 5
    ours, theirs = (display(s, (0, 90), 20.0, 48) for s in (stage, volume))
    for (rgb, _, opacity), (other, _, solid) in zip(ours, theirs, strict=True):
        sure = (opacity > 0.99) & (solid > 0.9)
        assert sure.sum() > 50 and abs(rgb[sure] - other[sure]).mean() < 0.1
        assert ((opacity > 0.5) & (solid > 0.5)).sum() > 0.7 * ((opacity > 0.5) | (solid > 0.5)).sum()


def test_a_mesh_goes_on_from_a_mesh_and_learns_colours_alone(volume):
    """The shape, offsets and colours of the one before, to the last bit; then the finer grid alone changes."""
    third = replace(MESH, steps=30, mesh=replace(MESH.mesh, learn="color"))
    second = follow(replace_config(volume, replace(BOTH, then=replace(MESH, steps=6, then=third))))
    trained(second)
    stage = follow(second)
    assert stage.before == 11 and all(
        torch.equal(*pair) for pair in zip(second.surface(), stage.surface(), strict=True)
    )
    before = {k: v.clone() for k, v in stage.tensors().items() if k.startswith("surface.")}
    assert all(torch.equal(v, second.tensors()[k]) for k, v in before.items())
    x, wanted = stage.surface()[0], torch.tensor([0.1, 0.8, 0.2])
    begun = (stage.surface.color(x) - wanted).abs().mean()
    trained(stage, Target((0.1, 0.8, 0.2)))
    changed = {k for k, v in stage.tensors().items() if k in before and not torch.equal(v, before[k])}
    changed -= {"surface.near"}  # a band is made anew now and then, for the same surface
    assert changed == {f"surface.detail.{k}" for k in ("table", "w1", "b1", "w2", "b2")}
    assert (stage.surface.color(x) - wanted).abs().mean() < 0.5 * begun


def test_a_guidance_that_is_shown_normals_learns_the_shape(volume):
    """Pictures of normals have no colours of the surface, and none of its colours' own parameters learn from them."""
    seen = []

    class Watching(Target):
        def __call__(self, image, views, part, progress):
            seen.append(image)
            return super().__call__(image, views, part, progress)

    stage = follow(
        replace_config(volume, replace(BOTH, then=replace(MESH, steps=3, mesh=replace(MESH.mesh, show="normal"))))
    )
    before = {k: v.clone() for k, v in stage.tensors().items()}
    trained(stage, Watching((0.5, 0.5, 1.0)))
    after = stage.tensors()
    assert not torch.equal(before["surface.field.table"], after["surface.field.table"])
    assert torch.equal(before["surface.detail.table"], after["surface.detail.table"])
    middle = seen[0][:, 10:14, 10:14]
    assert (middle[..., 2] > 0.6).all() and middle.std() > 0.01


def test_a_step_is_whole_once_the_band_is_rebuilt(volume):
    """Saved before, by a second Ctrl-C, the run would go on with the old band."""
    stage, seen = follow(volume), []
    stage.stepped = lambda step=stage.stepped: seen.append(stage.whole) or step()
    trained(stage, until=2)
    assert seen == [False, False] and stage.whole


def test_a_fixed_shape_has_no_regularisers(volume):
    """They would have nothing to change."""
    fixed = replace(MESH.mesh, learn="color", consistency=0.1, laplacian=0.1, sign_change=0.1)
    stage = MeshStage.start(replace(next_config(BOTH), mesh=fixed), "cpu", volume)
    assert "consistency" not in trained(stage, until=1)[0]
    with pytest.raises(UsageError, match=r'mesh\.show "normal" is for a stage that changes the shape'):
        check_config(replace(MESH, mesh=replace(fixed, show="normal")))
