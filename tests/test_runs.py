"""The run folder: names, metrics, pictures."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from dreamfusion_ngp.errors import CheckpointError, OutputError, UsageError
from dreamfusion_ngp.runs import (append_metrics, checkpoint_of, create_run, display, preview_picture, render_opacity,
                                  reopen_run, slug, truncate_metrics, turntable_frames)
from dreamfusion_ngp.train import State
from test_train import TINY


@pytest.mark.parametrize("prompt", ["a red mug", "../../etc/passwd", "/", "CON", "…", "é" * 500,
                                    "a\tb", "🦆", "x" * 4000, "${HOME}", "-rf"])
def test_slug_is_a_safe_name(prompt):
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}-[0-9a-f]{8}", slug(prompt))


def test_slugs_differ_where_prompts_differ():
    assert slug("a red mug") != slug("a red mug!") and slug("a red mug").startswith("a-red-mug-")


def test_create_run_never_reuses_a_folder(tmp_path):
    a, b = create_run(tmp_path, TINY), create_run(tmp_path, TINY)
    assert a != b and a.parent == b.parent and a.is_absolute()
    assert json.loads((a / "config.json").read_text())["prompt"] == TINY.prompt and (a / "previews").is_dir()


def test_create_run_under_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "f").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        create_run(tmp_path / "f", TINY)


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
    state = State(replace(TINY, field=replace(TINY.field, blob=("cone", 12.0, 0.3))), "cpu")
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
    from dreamfusion_ngp.cameras import orbit
    opacity = render_opacity(ball)(orbit([0.0, 45.0], 0.0, 1.55, 1.25), 16)
    assert opacity.shape == (2, 16, 16) and float(opacity[0, 8, 8]) > 0.95 and not opacity.requires_grad


def test_pictures_do_not_suffer_from_the_training_budget(ball):
    """Many pixels need more samples than a training step may take; rays must not be cut off."""
    from dreamfusion_ngp.cameras import orbit
    small = State(replace(ball.config, render=replace(ball.config.render, budget=64)), "cpu")
    small.occupancy.load_state_dict(ball.occupancy.state_dict())
    cameras = orbit([0.0, 45.0, 90.0], 0.0, 1.55, 1.25)
    assert np.array_equal(render_opacity(small)(cameras, 24), render_opacity(ball)(cameras, 24))
