"""Videos and contact sheets from frames."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import numpy as np

from ..base.errors import ExportError, UsageError
from ..base.files import replacing, write_atomically

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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            (write_mp4 if path.suffix == ".mp4" else write_webp)(part, frames, fps)
    except OSError as error:  # ffmpeg's own failures are OSError too
        raise ExportError(f"cannot write {path}: {error.strerror or error}") from None
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
    except (ImportError, RuntimeError, OSError):
        return False
    return True


def write_mp4(path: Path, frames: np.ndarray, fps: int) -> None:
    import imageio_ffmpeg

    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")  # yuv420p halves both sides
    input_args = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{frames.shape[2]}x{frames.shape[1]}", "-r", str(fps)]
    output_args = ["-vcodec", "libx264", "-pix_fmt", "yuv420p", "-crf", "15", "-movflags", "+faststart", "-f", "mp4"]
    done = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *input_args, "-i", "-", "-an", *output_args, str(path)],
        input=frames.data.cast("B"),
        capture_output=True,
        start_new_session=True,
    )
    if done.returncode or not path.is_file() or path.stat().st_size == 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise OSError(f"ffmpeg: {lines[-1] if lines else f'exit status {done.returncode}'}")


def write_webp(path: Path, frames: np.ndarray, fps: int) -> None:
    from PIL import Image

    first, *rest = (Image.fromarray(f) for f in frames)
    first.save(
        path, "WEBP", save_all=True, append_images=rest, duration=round(1000 / fps), loop=0, quality=80, method=2
    )


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
