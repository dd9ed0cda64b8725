"""Videos and contact sheets from frames."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np

from .checkpoint import write_atomically
from .errors import ExportError, UsageError

SHEET_BYTES = 300_000


def write_turntable(path, frames, fps: int = 16) -> Path:
    """Write frames, (F, H, W, 3) uint8 or a list of (H, W, 3), as `path`: .mp4 (H.264, yuv420p, sides padded to even)
    or .webp (animated).

    An .mp4 becomes a .webp beside it where no ffmpeg can be run. Returns the absolute path written. Raises UsageError
    for another extension, ExportError for no frames, frames of several sizes, or a file that cannot be written.
    """
    path = Path(path).resolve()
    frames = check_frames(frames)
    if path.suffix not in (".mp4", ".webp"):
        raise UsageError(f"a turntable is an .mp4 or a .webp, not {path.name!r}")
    if path.suffix == ".mp4" and not has_ffmpeg():
        path = path.with_suffix(".webp")
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        (write_mp4 if path.suffix == ".mp4" else write_webp)(part, frames, fps)
        os.replace(part, path)
    except OSError as error:  # ffmpeg's own failures are OSError too
        raise ExportError(f"cannot write {path}: {str(error).strip().splitlines()[-1]}") from None
    finally:
        part.unlink(missing_ok=True)
    return path


def check_frames(frames) -> np.ndarray:
    frames = [np.asarray(f) for f in frames]
    if not frames:
        raise ExportError("no frames to write")
    if any(f.shape != frames[0].shape or f.ndim != 3 or f.shape[2] != 3 or f.dtype != np.uint8 for f in frames):
        raise ExportError("frames must be (height, width, 3) uint8 arrays of one size")
    return np.stack(frames)


def has_ffmpeg() -> bool:
    try:
        import imageio_ffmpeg
        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        return False
    return True


def write_mp4(path: Path, frames: np.ndarray, fps: int) -> None:
    import imageio_ffmpeg

    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")  # yuv420p halves both sides
    writer = imageio_ffmpeg.write_frames(str(path), (frames.shape[2], frames.shape[1]), fps=fps, codec="libx264",
                                         pix_fmt_out="yuv420p", quality=7, macro_block_size=1,
                                         ffmpeg_log_level="error", output_params=["-movflags", "+faststart"])
    try:
        writer.send(None)
        for frame in frames:
            writer.send(np.ascontiguousarray(frame))
    finally:
        writer.close()
    if not path.is_file() or path.stat().st_size == 0:
        raise OSError("ffmpeg wrote nothing")


def write_webp(path: Path, frames: np.ndarray, fps: int) -> None:
    from PIL import Image

    first, *rest = (Image.fromarray(f) for f in frames)
    first.save(path, "WEBP", save_all=True, append_images=rest, duration=round(1000 / fps), loop=0, quality=80,
               method=2)


def contact_sheet(path, images, columns: int = 4) -> Path:
    """Write images, a list of (H, W, 3) arrays of one size (uint8, or float in [0, 1]), row by row as one PNG of at
    most SHEET_BYTES: the sheet is scaled down until it fits. Returns the absolute path written. Raises ExportError as
    `write_turntable`."""
    from PIL import Image

    path = Path(path).resolve()
    tiles = check_frames([as_bytes(np.asarray(image)) for image in images])
    columns = max(1, min(columns, len(tiles)))
    blank = np.full((-len(tiles) % columns, *tiles.shape[1:]), 255, dtype=np.uint8)
    grid = np.concatenate([tiles, blank]).reshape(-1, columns, *tiles.shape[1:])
    pixels = np.ascontiguousarray(grid.transpose(0, 2, 1, 3, 4)).reshape(len(grid) * grid.shape[2], -1, 3)
    sheet = Image.fromarray(pixels)
    data = encode(sheet)
    while len(data) > SHEET_BYTES and min(sheet.size) > 16:
        factor = min(0.9, 0.97 * (SHEET_BYTES / len(data)) ** 0.5)
        sheet = sheet.resize([max(8, round(side * factor)) for side in sheet.size], Image.Resampling.LANCZOS)
        data = encode(sheet)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error.strerror or error}") from None
    return path


def as_bytes(image: np.ndarray) -> np.ndarray:
    return image if image.dtype == np.uint8 else (image.clip(0, 1) * 255).round().astype(np.uint8)


def encode(sheet) -> bytes:
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
