"""Checkpoints: round trip, atomic writing, and one clear line for what cannot be read."""

import json
import os
from dataclasses import replace

import pytest
import torch
from support.tiny_runs import TINY, run

from dreamfusion_ngp.base.errors import CheckpointError, DivergenceError, OutputError
from dreamfusion_ngp.base.files import write_atomically
from dreamfusion_ngp.config.io import to_dict
from dreamfusion_ngp.optimise.volume import VolumeStage
from dreamfusion_ngp.runs.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "checkpoint.safetensors"
    state, _ = run(replace(TINY, steps=6))
    save_checkpoint(path, state)
    return path, state


def test_round_trip(saved):
    path, state = saved
    loaded = load_checkpoint(path, "cpu")
    assert loaded.step == 6 and loaded.config == state.config
    assert all(torch.equal(a, b) for a, b in zip(state.tensors().values(), loaded.tensors().values(), strict=True))


def test_continues_bit_exactly(saved, tmp_path):
    whole, _ = run(replace(TINY, steps=10))
    part, _ = run(replace(TINY, steps=10), stop_after=4)
    save_checkpoint(tmp_path / "c.safetensors", part)
    again, _ = run(None, state=load_checkpoint(tmp_path / "c.safetensors", "cpu"))
    assert all(torch.equal(a, b) for a, b in zip(whole.tensors().values(), again.tensors().values(), strict=True))


def test_what_training_refills_is_that_of_the_checkpoints_step(tmp_path):
    """The weights of the levels and the float16 copy of the table: what is drawn or exported from a loaded run, in the
    middle of coarse-to-fine, is what the run itself would give."""
    field = replace(TINY.field, coarse_to_fine=(1, 0.9), half_table=True, interpolation="smoothstep")
    part, _ = run(replace(TINY, field=field), stop_after=15)
    save_checkpoint(tmp_path / "c", part)
    loaded = load_checkpoint(tmp_path / "c", "cpu")
    weights = torch.tensor(part.field.level_weight_at(15 / TINY.steps))
    assert 0 < weights[1] == 1 and 0 < weights[2] < 1 and weights[3] == 0
    points = torch.rand(500, 3, generator=torch.manual_seed(0)) - 0.5
    for state in (part, loaded):
        assert torch.equal(state.field.level_weight, weights)
        assert torch.equal(state.field.shadow, part.field.table.half())
    assert torch.equal(loaded.field.density(points), part.field.density(points))
    assert torch.equal(loaded.field.albedo(points), part.field.albedo(points))


def test_more_steps(saved):
    assert load_checkpoint(saved[0], "cpu", steps=99).config.steps == 99


def altered(saved, path, change):
    """A copy of the saved file, its metadata and tensors changed."""
    from safetensors import safe_open

    with safe_open(saved[0], framework="pt") as file:
        metadata, tensors = dict(file.metadata()), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (no dictionary)
    change(metadata, tensors)
    foreign_file(path, tensors, metadata)
    return path


def test_a_file_older_than_some_settings_is_continued_as_it_would_have_been(tmp_path):
    whole, _ = run(replace(TINY, steps=8))
    part, _ = run(replace(TINY, steps=8), stop_after=3)
    save_checkpoint(tmp_path / "new", part)

    def without_later_keys(metadata, tensors):
        del tensors["adam.nonfinite"]
        config = json.loads(metadata["config"])
        del config["accumulate"], config["field"]["half_table"], config["render"]["resolution_doubles"]
        del config["field"]["tensor_cores"]
        metadata["config"] = json.dumps(config)

    path = altered((tmp_path / "new",), tmp_path / "old", without_later_keys)
    again, _ = run(None, state=load_checkpoint(path, "cpu"))
    assert again.config == whole.config
    assert all(torch.equal(a, b) for a, b in zip(whole.tensors().values(), again.tensors().values(), strict=True))


def test_missing(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_checkpoint(tmp_path / "none.safetensors", "cpu")


@pytest.mark.parametrize("keep", [0, 7, 100, 3000, -1])
def test_truncated(saved, tmp_path, keep):
    path = tmp_path / "t.safetensors"
    path.write_bytes(saved[0].read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path, "cpu")


def foreign_file(path, tensors, metadata):
    from safetensors.torch import save_file

    save_file(tensors, path, metadata=metadata)


def test_foreign_files(saved, tmp_path):
    path = tmp_path / "f.safetensors"
    foreign_file(path, {"x": torch.zeros(3)}, {"format": "pt"})
    with pytest.raises(CheckpointError, match="not a checkpoint of dreamfusion_ngp"):
        load_checkpoint(path, "cpu")
    path.write_bytes(b"PK\x03\x04" + b"\0" * 400)
    with pytest.raises(CheckpointError):
        load_checkpoint(path, "cpu")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m, t: m.pop("config"), "header"),
        (lambda m, t: m.update(config="{"), "header"),
        (lambda m, t: m.update(config=json.dumps({"prompt": 1})), "RunConfig.prompt"),
        (lambda m, t: m.update(config=json.dumps({"zoom": 1})), "unknown keys 'zoom'"),
        (lambda m, t: m.update(config="[1]"), "expected an object"),
        (lambda m, t: m.update(config="[" * 100_000), "header"),
        (lambda m, t: m.update(config=json.dumps(to_dict(replace(TINY, seed=-1)))), "seed"),
        (lambda m, t: m.update(step="x"), "header"),
        (lambda m, t: m.update(step="-1"), "header"),
        (lambda m, t: t.pop("field.w1"), "do not fit"),
        (lambda m, t: t.update({"field.w1": torch.zeros(2, 2)}), "do not fit"),
    ],
)
def test_wrong_content(saved, tmp_path, change, message):
    path = altered(saved, tmp_path / "w.safetensors", change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path, "cpu")
    assert "\n" not in str(caught.value)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "c"
    write_atomically(path, b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError):
        write_atomically(path, b"new")
    with pytest.raises(OutputError, match="cannot write .*No space left"):
        save_checkpoint(path, VolumeStage(TINY, "cpu"))
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["c"]


def test_state_has_every_changing_tensor():
    names = set(VolumeStage(TINY, "cpu").tensors())
    assert {
        "field.table",
        "field.w1",
        "field.b1",
        "field.w2",
        "field.b2",
        "background.w1",
        "occupancy.values",
        "occupancy.bits",
        "adam.0.first",
        "adam.0.second",
    } <= names


def test_what_a_guidance_learns_is_checked_too(tmp_path):
    state = VolumeStage(TINY, "cpu")
    state.guided = {"vsd.to_q.second": torch.tensor([-1.0])}
    with pytest.raises(DivergenceError, match=r"^guidance\.vsd\.to_q\.second, means of squares, holds a negative"):
        save_checkpoint(tmp_path / "c", state)
