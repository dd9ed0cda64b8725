"""Runs that go on from the same volume make it once, and are what they would be alone."""

import time
from dataclasses import replace

import pytest
import torch

from dreamfusion_ngp.config.io import to_dict
from dreamfusion_ngp.config.presets import preset
from dreamfusion_ngp.experiments import first_stages, run_task
from dreamfusion_ngp.runs.checkpoint import load_checkpoint

CPU = torch.device("cpu")


def config_of(name, seed=0):
    config = preset(name)
    then = config.then
    if then:
        small = dict(render=replace(then.render, resolution=16), mesh=replace(then.mesh, resolution=24))
        then = replace(then, steps=2, **small)
    render = replace(config.render, resolution=16)
    return replace(config, prompt="a red sphere", seed=seed, steps=30, render=render, then=then)


def make(config, folder, oracle=""):
    folder.mkdir(parents=True)
    task = {"config": to_dict(config), "whole": False, "oracle": oracle, "device": "cpu"}
    made = run_task.make(task | {"threads": 1, "processes": 1, "began": time.time()}, folder)
    assert not made["failed"]
    return made, load_checkpoint(folder / made["checkpoint"], "cpu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A volume and a mesh that goes on from it; the same mesh alone. Each with the kinds of the stages it trained."""
    shared, alone = tmp_path_factory.mktemp("shared"), tmp_path_factory.mktemp("alone")
    trained, made, advance = [], {}, run_task.advance
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            run_task, "advance", lambda stage, task: (trained.append(stage.config.kind), advance(stage, task))
        )
        for name, root, kind in (("volume", shared, "fast"), ("mesh", shared, "magic3d"), ("alone", alone, "magic3d")):
            made[name] = (*make(config_of(kind), root / name), list(trained))
            trained.clear()
    return made | {"root": shared}


def place_of(runs):
    return first_stages.place_of(runs["root"], config_of("fast"), CPU)


def test_a_volume_is_made_once(runs):
    assert [runs[name][2] for name in ("volume", "mesh", "alone")] == [["volume"], ["mesh"], ["volume", "mesh"]]
    first, second = runs["volume"][0], runs["mesh"][0]
    assert first["shared_seconds"] == 0 < second["shared_seconds"] <= second["seconds"]
    assert second["shared_seconds"] < first["seconds"] + 0.1, "what the volume took counts for the mesh, too"
    assert second["cpu_seconds"] > first_stages.take(place_of(runs), config_of("fast"), CPU)[1].cpu_seconds > 0


def test_the_run_is_what_it_is_alone(runs):
    shared, alone = runs["mesh"][1], runs["alone"][1]
    assert shared.config == alone.config and (shared.before, shared.step) == (alone.before, alone.step) == (30, 2)
    tensors = alone.tensors()
    assert all(torch.equal(value, tensors[name]) for name, value in shared.tensors().items())


def test_only_the_same_stage_is_taken(runs):
    place = place_of(runs)
    assert place.is_file() and place == first_stages.place_of(runs["root"], config_of("magic3d"), CPU)
    others = [
        config_of("fast", seed=1),
        replace(config_of("fast"), steps=31),
        replace(config_of("fast"), guidance=replace(preset("fast").guidance, model="toybox-mv")),
    ]
    places = {first_stages.place_of(runs["root"], config, CPU) for config in others}
    places.add(first_stages.place_of(runs["root"], config_of("fast"), torch.device("cuda")))
    assert len(places) == 4 and place not in places


def test_a_damaged_one_is_made_anew_and_a_large_one_is_not_kept(runs, tmp_path, monkeypatch):
    config, place = config_of("fast"), tmp_path / "stages" / "a.safetensors"
    stage = runs["volume"][1]
    first_stages.keep(place, stage, first_stages.Cost(1.0, 2.0, 3))
    taken, cost = first_stages.take(place, config, CPU)
    assert taken.step == 30 and cost == first_stages.Cost(1.0, 2.0, 3)
    place.write_bytes(place.read_bytes()[:-9])
    assert first_stages.take(place, config, CPU) is None
    place.with_suffix(".json").write_text('{"seconds": 1, "more": 2}')
    assert first_stages.take(place, config, CPU) is None
    monkeypatch.setattr(first_stages, "LARGEST", 1000)
    first_stages.keep(tmp_path / "none" / "b.safetensors", stage, cost)
    assert not (tmp_path / "none").exists()


def test_true_pictures_are_not_shared(tmp_path):
    make(config_of("fast"), tmp_path / "run", oracle="words")
    assert not (tmp_path / first_stages.FOLDER).exists()
