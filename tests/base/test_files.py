"""Files are written in one step and leave nothing behind."""

import os

import pytest

from dreamfusion_ngp.base import files
from dreamfusion_ngp.base.files import replacing, sweep, write_atomically, write_together


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


def test_a_name_may_be_as_long_as_the_file_system_takes(tmp_path):
    names = ["\N{CJK UNIFIED IDEOGRAPH-676F}" * 83 + end for end in (".glb", ".png")]  # 253 bytes
    write_together(tmp_path, {name: name.encode() for name in names})
    assert sorted(os.listdir(tmp_path)) == names and (tmp_path / names[1]).read_bytes() == names[1].encode()


def test_files_that_belong_together_are_new_all_or_none(tmp_path, monkeypatch):
    """A new mesh beside an old texture would be of no use to anybody."""
    (tmp_path / "mesh.png").write_bytes(b"old")
    whole, order = {"mesh.png": b"new", "mesh.mtl": b"new", "mesh.obj": b"new"}, []

    def full(path, data, write=files.Path.write_bytes):
        if "mesh.mtl" in path.name:
            raise OSError(28, "No space left on device")
        return write(path, data)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(files.Path, "write_bytes", full)
        write_together(tmp_path, whole)
    assert os.listdir(tmp_path) == ["mesh.png"] and (tmp_path / "mesh.png").read_bytes() == b"old"
    monkeypatch.setattr(files.os, "replace", lambda a, b, replace=os.replace: order.append(b.name) or replace(a, b))
    write_together(tmp_path, whole)
    assert order == [*whole] and {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == whole
