"""The run folder: names, metrics, pictures."""

import json
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from support.tiny_runs import TINY

from dreamfusion_ngp import cli
from dreamfusion_ngp.base.errors import CheckpointError, OutputError, UsageError
from dreamfusion_ngp.optimise.volume import VolumeStage
from dreamfusion_ngp.runs.checkpoint import save_checkpoint
from dreamfusion_ngp.runs.display import display, preview_picture, render_opacity, turntable_frames
from dreamfusion_ngp.runs.folder import (
    append_metrics,
    checkpoint_of,
    create_run,
    find_runs,
    lock_run,
    remember_files,
    remembered_files,
    reopen_run,
    slug,
    truncate_metrics,
)


@pytest.mark.parametrize(
    "prompt", ["a red mug", "../../etc/passwd", "/", "CON", "…", "é" * 500, "a\tb", "🦆", "x" * 4000, "${HOME}", "-rf"]
)
def test_slug_is_a_safe_name(prompt):
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}-[0-9a-f]{8}", slug(prompt))


def test_slugs_differ_where_prompts_differ():
    assert slug("a red mug") != slug("a red mug!") and slug("a red mug").startswith("a-red-mug-")


def test_create_run_never_reuses_a_folder(tmp_path):
    a, b = create_run(tmp_path, TINY), create_run(tmp_path, TINY)
    assert a != b and a.parent == b.parent and a.is_absolute()
    assert json.loads((a / "config.json").read_text())["prompt"] == TINY.prompt and (a / "previews").is_dir()


def test_runs_that_start_together_have_folders_of_their_own(tmp_path, monkeypatch):
    """Whenever the other one makes its folder: here just before each call of mkdir, and in 60 threads."""
    mkdir, others = type(tmp_path).mkdir, []

    def after_another(self, *args, **options):
        if self.name[:2] == "20" and len(others) < 5:
            os.makedirs(self, exist_ok=True)
            others.append(self)
        return mkdir(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "mkdir", after_another)
        assert create_run(tmp_path, TINY) not in others and len(others) == 5
    with ThreadPoolExecutor(12) as pool:
        assert len(set(pool.map(lambda _: create_run(tmp_path, TINY), range(60)))) == 60


def test_a_run_is_open_to_one_at_a_time(tmp_path):
    with lock_run(tmp_path):
        with pytest.raises(UsageError, match=rf"in use by another process \(number {os.getpid()}\)"):
            with lock_run(tmp_path):
                pass
        assert os.listdir(tmp_path) == [".lock"], "the refused one leaves it"
    assert os.listdir(tmp_path) == []
    with lock_run(tmp_path):
        pass


def test_a_killed_process_leaves_no_lock(tmp_path):
    child = os.fork()
    if not child:
        with lock_run(tmp_path):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    with lock_run(tmp_path):
        pass


def test_resume_leaves_a_run_alone_that_goes_on_elsewhere(tmp_path, capsys):
    save_checkpoint(tmp_path / "checkpoint.safetensors", VolumeStage(TINY, "cpu"))
    append_metrics(tmp_path, {"step": 30})
    with lock_run(tmp_path):
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        assert cli.main(["resume", str(tmp_path), "--threads", "1"]) == 2
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "in use" in error and error.count("\n") == 1


def test_a_resumed_run_sweeps_its_folder(tmp_path, ball):
    for name in (".checkpoint.safetensors.999999999.part", ".turntable.999999999.part.mp4"):
        (tmp_path / name).write_bytes(b"half")
    reopen_run(tmp_path, ball)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "previews"]


def test_the_files_that_a_run_was_asked_for_are_remembered(tmp_path):
    remember_files(tmp_path, {})
    assert not list(tmp_path.iterdir()) and remembered_files(tmp_path) == {}
    files = {"formats": ("stl", "obj"), "size": 30.0, "origin": "base"}
    remember_files(tmp_path, files)
    assert remembered_files(tmp_path) == files
    for damaged in (
        b"",
        b"[]",
        b'{"formats": ["exe"]}',
        b'{"size": "x"}',
        b'{"colour": 1}',
        b'{"formats": 1}',
        b"\xff",
    ):
        (tmp_path / "files.json").write_bytes(damaged)
        with pytest.raises(UsageError, match="files.json.*mend it or remove it"):
            remembered_files(tmp_path)


def test_runs_are_searched_two_folders_deep(tmp_path):
    for name in ("outputs/mug/1", "outputs/mug/2", "a/b/c/deep", "outputs/.hidden/3", "outputs/mug/1/inside"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "checkpoint.safetensors").write_bytes(b"")
    (tmp_path / "outputs" / "loop").symlink_to(tmp_path)
    both = [(tmp_path / "outputs/mug" / name).resolve() for name in "12"]
    assert find_runs([tmp_path / "outputs"]) == both
    assert find_runs([tmp_path], depth=3) == both
    assert len(find_runs([tmp_path], depth=4)) == 3
    with pytest.raises(CheckpointError, match="holds no .*2 levels.*--depth"):
        find_runs([tmp_path])


def test_create_run_under_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "f").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        create_run(tmp_path / "f", TINY)


def test_a_folder_from_which_no_checkpoint_could_be_read_is_refused(tmp_path):
    with pytest.raises(UsageError, match="not UTF-8.* -o"):
        create_run(tmp_path / "caf\udce9", TINY)
    assert list(tmp_path.iterdir()) == []


def test_prompts_that_look_alike_have_one_folder(tmp_path):
    twins = "a red mug", "a\u00a0red\u200b mug"
    one, other = (create_run(tmp_path, replace(TINY, prompt=prompt)) for prompt in twins)
    assert one.parent == other.parent and one != other


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path):
    for step in (0, 10, 20, 30):
        append_metrics(tmp_path, {"step": step, "sds": 0.5})
    truncate_metrics(tmp_path, 20)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [0, 10]
    truncate_metrics(tmp_path / "elsewhere", 20)  # nothing there: nothing to do


def test_checkpoint_of(tmp_path):
    with pytest.raises(CheckpointError, match="holds no"):
        checkpoint_of(tmp_path)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"x")
    path = tmp_path / "checkpoint.safetensors"
    assert checkpoint_of(tmp_path) == checkpoint_of(path) == path


def test_half_a_record_does_not_stop_a_resumed_run(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 0, "sds": 1}\nnull\n\n{"sds": 1}\n{"step": "1"}\n\xff\xfe\n{"step": 3, "sd')
    truncate_metrics(tmp_path, 20)
    assert path.read_text() == '{"step": 0, "sds": 1}\n'


def test_what_cannot_be_written_is_a_clear_error(tmp_path, ball):
    with pytest.raises(OutputError, match="cannot write .*metrics.jsonl"):
        append_metrics(tmp_path / "gone", {"step": 0})
    with pytest.raises(OutputError, match="cannot write .*previews"):
        reopen_run(tmp_path / "gone", ball)


@pytest.fixture(scope="module")
def ball():
    """An untrained field: a grey ball."""
    state = VolumeStage(replace(TINY, field=replace(TINY.field, blob=("cone", 12.0, 0.3))), "cpu")
    state.occupancy.update(state.field.density, 0, 0, full=True)
    return state


def test_pictures_show_the_object_from_all_sides(ball):
    frames = display(ball, (0, 90, 180), 10.0, 24)
    assert len(frames) == 3
    for rgb, normal, opacity in frames:
        assert rgb.shape == normal.shape == (24, 24, 3) and opacity.shape == (24, 24)
        assert opacity[12, 12] > 0.95 and opacity[0, 0] == 0
        assert (rgb[0, 0] == np.float32(0.92)).all() and normal[0, 0].min() == 1
    front, right, back = (normal[12, 12] for _, normal, _ in frames)
    assert front[2] > 0.9 and right[0] > 0.9 and back[2] < 0.1, "normals face each camera"


def test_preview_and_turntable_sizes(ball):
    preview = preview_picture(ball, 16)
    assert preview.shape == (32, 64, 3) and preview.dtype == np.uint8
    assert preview[24, 8].mean() > preview[8, 8].mean(), "the untextured row is brighter than grey"
    frames = list(turntable_frames(ball, 6, 16))
    assert len(frames) == 6 and frames[0].shape == (16, 48, 3)


def test_opacity_for_silhouettes(ball):
    from dreamfusion_ngp.scene.cameras import orbit

    opacity = render_opacity(ball)(orbit([0.0, 45.0], 0.0, 1.55, 1.25), 16)
    assert opacity.shape == (2, 16, 16) and float(opacity[0, 8, 8]) > 0.95 and not opacity.requires_grad


def test_pictures_do_not_suffer_from_the_training_budget(ball):
    """Many pixels need more samples than a training step may take; rays must not be cut off."""
    from dreamfusion_ngp.scene.cameras import orbit

    small = VolumeStage(replace(ball.config, render=replace(ball.config.render, budget=64)), "cpu")
    small.occupancy.load_state_dict(ball.occupancy.state_dict())
    cameras = orbit([0.0, 45.0, 90.0], 0.0, 1.55, 1.25)
    assert np.array_equal(render_opacity(small)(cameras, 24), render_opacity(ball)(cameras, 24))
