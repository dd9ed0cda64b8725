"""Places that are not there or cannot be written: a run does without, in one line at most, and doctor says so."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from dreamfusion_ngp.base import cache
from dreamfusion_ngp.base.errors import ExportError
from dreamfusion_ngp.doctor import places
from dreamfusion_ngp.export.atlas import make_atlas
from dreamfusion_ngp.export.video import write_turntable
from dreamfusion_ngp.hub.fetch import locate


@pytest.fixture
def homeless(monkeypatch):
    """A process whose user has no entry in the password file, and no HOME."""
    for name in ("HOME", "XDG_CACHE_HOME", "DREAMFUSION_NGP_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it does where it finds nothing
    cache.warn_unwritable.cache_clear()


def test_without_a_home_nothing_is_kept_and_one_line_says_so(homeless, caplog):
    assert cache.cache_folder() is None
    for k in range(5):
        cache.keep(f"{k}.safetensors", b"")
    assert len(caplog.messages) == 1 and "DREAMFUSION_NGP_CACHE" in caplog.text
    verdict = places.cache_folder([])
    assert verdict.status == "WARN" and "no home" in verdict.detail and verdict.remedy


@pytest.mark.parametrize("path", ["~/cache", "~nobody-of-this-name/cache"])
def test_a_cache_in_no_home_is_none(homeless, monkeypatch, path):
    monkeypatch.setenv("DREAMFUSION_NGP_CACHE", path)
    assert cache.cache_folder() is None


def test_a_cache_that_cannot_be_written_is_said_once(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    for name in ("file", "file/cache"):
        caplog.clear()
        monkeypatch.setenv("DREAMFUSION_NGP_CACHE", str(tmp_path / name))
        for k in range(5):
            cache.keep(f"hub/{k}.json", b"")
        assert len(caplog.messages) == 1 and str(tmp_path / name) in caplog.text
        verdict = places.cache_folder([])
        assert verdict.status == "WARN" and str(tmp_path / "file") in verdict.detail
    monkeypatch.setenv("DREAMFUSION_NGP_CACHE", str(tmp_path / "new" / "cache"))
    assert places.cache_folder([]).status == "OK" and os.listdir(tmp_path) == ["file"], "doctor makes nothing"


def test_no_model_is_looked_for_in_a_folder_called_tilde(homeless, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", "~/.cache/huggingface/hub")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(Exception, match="no home folder is known.*HF_HOME"):
        locate("someone/something")
    verdict = places.fetched_models([])
    assert verdict.status == "WARN" and "HF_HOME" in verdict.remedy


def test_doctor_notices_temporary_folders_that_are_missing_or_full(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    verdict = places.temporary_folder([])
    assert verdict.status == "WARN" and str(tmp_path / "gone") in verdict.detail
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "gone")])
    verdict = places.temporary_folder([])
    assert verdict.status == "WARN" and "TMPDIR" in verdict.remedy
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(places, "hindrance", lambda folder: f"{folder} cannot be written: No space left on device")
    assert "No space" in places.temporary_folder([]).detail


def test_doctor_notices_a_working_directory_that_is_gone(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    verdict = places.disk([])
    assert verdict.status == "FAIL" and "no longer there" in verdict.detail
    monkeypatch.chdir(tmp_path)


def test_an_atlas_needs_no_temporary_folder(monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    for name in ("mkdtemp", "mkstemp", "gettempdir"):
        monkeypatch.setattr(tempfile, name, full)
    monkeypatch.setenv("TMPDIR", "/nowhere")
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
    up = np.tile(np.float32([0, 0, 1]), (3, 1))
    source, faces, uv, count = make_atlas(corners, np.array([[0, 1, 2]], np.uint32), up, 64)
    assert sorted(source) == [0, 1, 2] and faces.shape == (1, 3) and uv.shape == (3, 2) and count == 1


def test_what_ffmpeg_says_and_where_is_in_the_error(tmp_path, monkeypatch):
    import imageio_ffmpeg

    script = tmp_path / "ffmpeg"
    script.write_text("#!/bin/sh\necho start >&2\necho 'Error writing trailer: No space left on device' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(script))
    with pytest.raises(ExportError, match=f"{tmp_path}/out/turn.mp4: ffmpeg: Error writing trailer: No space left"):
        write_turntable(Path(tmp_path) / "out" / "turn.mp4", [np.zeros((16, 16, 3), np.uint8)] * 2)
    assert os.listdir(tmp_path / "out") == []
