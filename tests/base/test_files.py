"""Files are written in one step and leave nothing behind."""

import os

import pytest

from dreamfusion_ngp.base import files
from dreamfusion_ngp.base.files import replacing, sweep, write_atomically


def test_a_new_file_and_its_name_are_flushed_to_disk(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(files.os, "fsync", lambda number: order.append(os.path.isdir(f"/proc/self/fd/{number}")))
    monkeypatch.setattr(files.os, "replace", lambda a, b, replace=os.replace: order.append("rename") or replace(a, b))
    write_atomically(tmp_path / "a", b"new")
    assert order == [False, "rename", True] and (tmp_path / "a").read_bytes() == b"new"


def test_what_stops_a_writer_is_seen_and_nothing_is_left(tmp_path, monkeypatch):
    """Also where the half-written file cannot be removed, as on a disk that has become read-only."""
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(OSError, match="ffmpeg failed"), replacing(tmp_path / "a") as part:
        part.write_bytes(b"half")
        raise OSError("ffmpeg failed")
    assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == b"old"

    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(files.Path, "unlink", read_only)
    with pytest.raises(OSError, match="ffmpeg failed"), replacing(tmp_path / "a"):
        raise OSError("ffmpeg failed")


def test_what_killed_writers_left_is_swept_and_nothing_else(tmp_path):
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    alive = os.getppid()
    gone = [f".checkpoint.safetensors.{child}-{child}.part", f".turntable.{child}.part.mp4", f".c.{os.getpid()}.part"]
    old = f".mesh.glb.{alive}-{alive}.part"
    kept = [f".config.json.{alive}-{alive}.part", ".part", "a.part", "checkpoint.safetensors", f"x.{child}.part"]
    for name in (*gone, old, *kept):
        (tmp_path / name).write_bytes(b"")
    os.utime(tmp_path / old, (0, 0))
    sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(kept)
