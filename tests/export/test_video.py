"""Videos and contact sheets, read back."""

import os

import numpy as np
import pytest
from PIL import Image

from dreamfusion_ngp.base.errors import ExportError, UsageError
from dreamfusion_ngp.export import video as turntable
from dreamfusion_ngp.export.video import SHEET_BYTES, contact_sheet, write_turntable


def frames(count=6, height=48, width=80):
    """A white bar that moves to the right over dark blue."""
    out = np.full((count, height, width, 3), (10, 20, 90), dtype=np.uint8)
    for i in range(count):
        out[i, :, 10 * i : 10 * i + 20] = 255
    return out


def read_mp4(path):
    import imageio_ffmpeg

    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    width, height = meta["size"]
    return meta, [np.frombuffer(f, np.uint8).reshape(height, width, 3) for f in reader]


@pytest.mark.parametrize("height, width", [(48, 80), (47, 81)])
def test_mp4_is_h264_yuv420p_with_every_frame(tmp_path, height, width):
    path = write_turntable(tmp_path / "new" / "turn.mp4", list(frames(6, height, width)), fps=12)
    assert path.is_absolute() and os.listdir(path.parent) == ["turn.mp4"]
    meta, back = read_mp4(path)
    assert meta["codec"] == "h264" and meta["pix_fmt"].startswith("yuv420p") and meta["fps"] == 12
    assert meta["size"] == (width + width % 2, height + height % 2) and len(back) == 6
    for sent, got in zip(frames(6, height, width), back, strict=True):
        assert np.abs(got[:height, :width].astype(int) - sent).mean() < 6
    moov = path.read_bytes().find(b"moov")
    assert 0 < moov < path.read_bytes().find(b"mdat")  # a browser can start before the end


def test_webp_is_animated_and_loops(tmp_path):
    path = write_turntable(tmp_path / "turn.webp", frames(), fps=10)
    with Image.open(path) as image:
        assert image.format == "WEBP" and image.n_frames == 6 and image.size == (80, 48) and image.info["loop"] == 0
        image.seek(3)
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - frames()[3]).mean() < 6
        assert image.info["duration"] == 100
    assert os.listdir(tmp_path) == ["turn.webp"]


def test_without_ffmpeg_an_mp4_becomes_a_webp(tmp_path, monkeypatch):
    monkeypatch.setattr(turntable, "has_ffmpeg", lambda: False)
    assert write_turntable(tmp_path / "turn.mp4", frames()).name == "turn.webp"
    assert os.listdir(tmp_path) == ["turn.webp"]


def test_a_failed_video_keeps_the_old_one_and_leaves_no_part(tmp_path, monkeypatch):
    (tmp_path / "turn.mp4").write_bytes(b"old")

    def fail(path, *_):
        path.write_bytes(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(turntable, "write_mp4", fail)
    with pytest.raises(ExportError, match="the disk is full"):
        write_turntable(tmp_path / "turn.mp4", frames())
    assert os.listdir(tmp_path) == ["turn.mp4"] and (tmp_path / "turn.mp4").read_bytes() == b"old"


@pytest.mark.parametrize(
    "bad",
    [
        [],
        [np.zeros((4, 4, 3))],
        [np.zeros((4, 4), np.uint8)],
        [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)],
    ],
)
def test_bad_frames_are_refused(tmp_path, bad):
    with pytest.raises(ExportError, match="frames"):
        write_turntable(tmp_path / "turn.mp4", bad)
    assert os.listdir(tmp_path) == []


def test_other_extensions_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"\.mp4 or a \.webp"):
        write_turntable(tmp_path / "turn.avi", frames())


def test_contact_sheet_lays_tiles_out_row_by_row(tmp_path):
    tiles = [np.full((8, 12, 3), i / 5, dtype=np.float32) for i in range(5)]
    path = contact_sheet(tmp_path / "sheet.png", tiles, columns=3)
    with Image.open(path) as image:
        assert image.mode == "RGB" and image.size == (36, 16)
        pixels = np.asarray(image)
    assert pixels[4, [6, 18, 30], 0].tolist() == [0, 51, 102] and pixels[12, [6, 18], 0].tolist() == [153, 204]
    assert (pixels[8:, 24:] == 255).all()


def test_contact_sheet_is_scaled_down_until_it_is_small(tmp_path):
    random = np.random.default_rng(0)
    tiles = [random.integers(0, 256, (256, 256, 3), dtype=np.uint8) for _ in range(8)]
    path = contact_sheet(tmp_path / "sheet.png", tiles, columns=4)
    assert path.stat().st_size <= SHEET_BYTES
    with Image.open(path) as image:
        assert abs(image.size[0] - 2 * image.size[1]) <= 2 and image.size[0] > 300
