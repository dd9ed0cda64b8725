"""A run is saved on every way out of it, and what it can do without does not stop it."""

import io
import shutil
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from support.tiny_runs import TINY, Target

from dreamfusion_ngp.base.console import tolerant
from dreamfusion_ngp.base.errors import DivergenceError, ExportError, OutputError
from dreamfusion_ngp.cli.log import shown_log
from dreamfusion_ngp.cli.progress import TerminalProgress
from dreamfusion_ngp.optimise.loop import train
from dreamfusion_ngp.optimise.volume import VolumeStage
from dreamfusion_ngp.runs import generate, outputs, recorder, saver
from dreamfusion_ngp.runs.checkpoint import load_checkpoint
from dreamfusion_ngp.runs.saver import Saver

SHORT = replace(TINY, steps=12, render=replace(TINY.render, occupancy_interval=5))


class At(Target):
    """A guidance that does something at one step."""

    def __init__(self, step, act):
        super().__init__()
        self.step, self.act = step, act

    def __call__(self, image, views, part, progress):
        result = super().__call__(image, views, part, progress)
        return self.act(result) or result if part == self.step else result


def fail(*_):
    raise RuntimeError("broken on purpose")


def writing_fails(path):
    raise OutputError(f"cannot write {path}: No space left on device")


def one_warning(caplog) -> bool:
    return [record.levelname for record in caplog.records].count("WARNING") == 1


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of a run whose mesh and pictures are made in no time."""
    monkeypatch.setattr(recorder, "write_preview", lambda folder, state: "previews/one.png")
    monkeypatch.setattr(outputs, "turntable_frames", lambda *_: [np.zeros((16, 16, 3), np.uint8)] * 48)
    monkeypatch.setattr(
        generate, "export_run", lambda state, folder, formats: (folder / "mesh.glb").write_text("mesh") and {}
    )
    return tmp_path / "run"


def optimise(folder, guidance=None, state=None, observer=None):
    folder.mkdir(exist_ok=True)
    return generate.optimise(
        state or VolumeStage(SHORT, "cpu"), guidance or Target(), folder, ("glb",), observer=observer
    )


def saved(folder):
    return load_checkpoint(folder / "checkpoint.safetensors", "cpu")


def is_all_there(folder):
    return saved(folder).step == 12 and (folder / "mesh.glb").exists() and (folder / "contact_sheet.png").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("of\nits own"), MemoryError()])
@pytest.mark.parametrize("name", ["append_metrics", "write_preview", "observer"])
def test_what_a_run_can_do_without_costs_one_line(folder, monkeypatch, caplog, name, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(recorder, "LOG_INTERVAL", 1)
    monkeypatch.setattr(recorder, "FIRST_PREVIEW", 0.0)
    monkeypatch.setattr(recorder, "PREVIEW_INTERVAL", 0.0)
    if name != "observer":
        monkeypatch.setattr(recorder, name, fail)
    optimise(folder, observer=fail if name == "observer" else None)
    assert is_all_there(folder) and one_warning(caplog)


def test_an_observer_sees_the_start_every_tenth_step_and_the_end(folder):
    seen = []
    result = optimise(folder, observer=seen.append)
    assert [(p.step, p.ending) for p in seen] == [(0, False), (1, False), (11, False), (12, True)]
    assert seen[0].figures == {} and seen[-1].figures["step"] == 11 and {p.steps for p in seen} == {12}
    assert (result.step, result.made, result.signal) == (12, 12, None) and result.folder == folder
    assert result.pictures.keys() == {"turntable", "sheet"} and result.seconds >= seen[-1].seconds > 0


def test_lines_that_cannot_be_written_cost_nothing(folder, monkeypatch):
    """With what the command line shows of a run."""

    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    monkeypatch.setattr(sys, "stderr", Full())
    with tolerant("stdout", "stderr"), shown_log(), TerminalProgress() as progress:
        optimise(folder, observer=progress)
    assert is_all_there(folder) and sys.stdout.tell() == 0


@pytest.mark.parametrize("step", [3, 5])
def test_a_step_that_fails_is_made_again_bit_exactly(folder, step):
    """Also one before which the occupancy grid was refreshed."""
    with pytest.raises(RuntimeError, match="broken on purpose"):
        optimise(folder, At(step, fail))
    again, whole = saved(folder), VolumeStage(SHORT, "cpu")
    assert again.step == step
    train(again, Target(), lambda record: None)
    train(whole, Target(), lambda record: None)
    assert all(torch.equal(a, b) for a, b in zip(whole.tensors().values(), again.tensors().values(), strict=True))


@pytest.mark.parametrize("leave", [KeyboardInterrupt, SystemExit])
def test_whatever_ends_the_loop_the_steps_are_saved(folder, leave):
    def act(_):
        raise leave

    with pytest.raises(leave):
        optimise(folder, At(4, act))
    assert saved(folder).step == 4


def test_what_is_said_of_the_checkpoint_is_true_for_a_loss_that_is_not_finite(folder):
    with pytest.raises(DivergenceError, match=r"'sds'.*checkpoint.safetensors is good, of step 7$"):
        optimise(folder, At(7, lambda result: replace(result, value=result.value * float("nan"))))
    assert saved(folder).step == 7, "what is loaded is checked"


@pytest.mark.parametrize(
    "name, value",
    [
        *(
            (name, value)
            for name in ("field.table", "background.w1", "adam.0.first", "adam.1.second")
            for value in (float("nan"), float("inf"))
        ),
        ("adam.1.second", -1.0),
    ],
)
def test_a_state_that_is_not_sound_never_replaces_a_checkpoint(folder, name, value):
    state = VolumeStage(SHORT, "cpu")

    def spoil(_):
        state.tensors()[name].view(-1)[0] = value

    with pytest.raises(DivergenceError, match=f"{name}.* is good, of step ") as caught:
        optimise(folder, At(7, spoil), state)
    assert saved(folder).step == int(str(caught.value).rsplit(" ", 1)[1]) <= 8


def test_saves_that_fail_are_tried_again(folder, monkeypatch, caplog):
    calls, save = [], saver.save_checkpoint

    def sometimes(path, state):
        calls.append(state.step)
        if 0 < state.step < 12:
            raise OutputError(f"cannot write {path}: No space left on device")
        save(path, state)

    monkeypatch.setattr(saver, "save_checkpoint", sometimes)
    monkeypatch.setattr(saver, "SHORTEST", 0.0)
    monkeypatch.setattr(saver, "LONGEST", 0.0)
    optimise(folder)
    assert is_all_there(folder) and calls == list(range(13)) and one_warning(caplog)


def test_where_the_last_save_fails_the_rest_is_made(folder, monkeypatch):
    save = saver.save_checkpoint

    def full(path, state):
        if state.step:
            raise OutputError(f"cannot write {path}: No space left on device")
        save(path, state)

    monkeypatch.setattr(saver, "save_checkpoint", full)
    with pytest.raises(OutputError, match="checkpoint.safetensors: No space"):
        optimise(folder)
    assert (folder / "mesh.glb").exists() and (folder / "contact_sheet.png").exists()


def test_two_faults_are_one_line(folder, monkeypatch):
    def full(path, *_):
        raise OutputError(f"cannot write to {path}")

    save = saver.save_checkpoint
    monkeypatch.setattr(saver, "save_checkpoint", lambda path, state: (full if state.step else save)(path, state))
    monkeypatch.setattr(generate, "export_run", lambda state, folder, formats: full("the mesh"))
    with pytest.raises(OutputError, match="^cannot write to .*checkpoint.safetensors; cannot write to the mesh$"):
        optimise(folder)


def test_a_mesh_that_fails_leaves_the_pictures(folder, monkeypatch):
    monkeypatch.setattr(generate, "export_run", fail)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        optimise(folder)
    assert saved(folder).step == 12 and (folder / "contact_sheet.png").exists()


def test_a_turntable_that_fails_leaves_the_mesh_and_the_sheet(folder, caplog):
    folder.mkdir()
    for name in ("turntable.mp4", "turntable.webp"):
        (folder / name / "in the way").mkdir(parents=True)
    result = optimise(folder)
    assert is_all_there(folder) and result.pictures == {}
    assert one_warning(caplog) and f"{folder}/turntable." in caplog.text
    with pytest.raises(ExportError, match="turntable"):
        outputs.render_run(VolumeStage(SHORT, "cpu"), folder)


def test_a_folder_that_vanishes_comes_back(folder, caplog):
    optimise(folder, At(6, lambda _: shutil.rmtree(folder)))
    assert is_all_there(folder) and [record.levelname for record in caplog.records].count("WARNING") <= 1


def test_saves_become_rarer_up_to_a_minute(tmp_path, monkeypatch):
    now, saves = [0.0], []
    monkeypatch.setattr(saver.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(saver, "save_checkpoint", lambda path, state: saves.append(now[0]))
    state = VolumeStage(TINY, "cpu")
    keeper = Saver(state, tmp_path)
    for second in range(600):
        now[0], state.step = float(second), second + 1
        keeper.save_if_due()
    gaps = [b - a for a, b in pairwise(saves)]
    assert saves[0] == 0 and gaps[0] <= 6 and gaps == sorted(gaps) and 60 <= gaps[-1] <= 61


def two_stages(folder):
    """A saver of a stage of which step 3 is saved, its state at step 5, and the stage after it."""
    first, second = VolumeStage(SHORT, "cpu"), VolumeStage(SHORT, "cpu")
    keeper = Saver(first, folder)
    first.step = 3
    keeper.save()
    first.step = second.before = 5
    return keeper, first, second


def test_a_stage_whose_first_save_fails_is_saved_later(folder, monkeypatch, caplog):
    keeper, _, second = two_stages(folder)
    with monkeypatch.context() as patch:
        patch.setattr(saver, "save_checkpoint", lambda path, state: writing_fails(path))
        keeper.follow(second)
    assert one_warning(caplog) and keeper.checkpoint_note().endswith("is good, of step 3")
    keeper.save_if_due()
    assert (saved(folder).before, saved(folder).step, keeper.step) == (5, 0, 5)


def test_a_stage_that_begins_unsound_leaves_the_finished_one(folder):
    keeper, _, second = two_stages(folder)
    second.tensors()["field.table"].view(-1)[0] = float("nan")
    with pytest.raises(DivergenceError, match="field.table.* is good, of step 5$"), keeper.saved_on_error():
        keeper.follow(second)
    assert (saved(folder).before, saved(folder).step) == (0, 5)
