"""Writing files in one step: a crash, a full disk or a second process leaves the old file or the new one."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

ABANDONED = 600.0  # seconds: a half-written file that was not touched for so long has no writer
LONG_NAME = 200  # bytes; file systems take 255


@contextmanager
def replacing(path: Path):
    """Yield a path beside `path` to write to. At the end it is flushed to disk and renamed over `path`; after an
    exception it is removed."""
    name = os.fsencode(path.name)
    short = path.name if len(name) <= LONG_NAME else hashlib.sha256(name).hexdigest()  # which leaves room for the rest
    part = path.with_name(f".{short}.{os.getpid()}-{threading.get_native_id()}.part")
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
        flush_folder(path.parent)
    finally:
        with suppress(OSError):  # the error that stopped the writing is the one to see
            part.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` as `replacing` does."""
    with replacing(path) as part:
        part.write_bytes(data)


def write_together(folder: Path, files: dict[str, bytes]) -> None:
    """Write files that belong together into `folder`, by their names there: as `write_atomically`, but all of them are
    written before the first is renamed, in their order, so that a full disk leaves every old file."""
    with ExitStack() as stack:
        for name, data in reversed(files.items()):  # the last that is entered is renamed first
            stack.enter_context(replacing(folder / name)).write_bytes(data)


def flush_folder(folder: Path) -> None:
    """Flush a folder's list of files to disk, so that a new name outlives a power cut. Some file systems cannot."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def sweep(folder: Path) -> None:
    """Remove half-written files that killed processes left in `folder` (see `replacing`)."""
    for part in folder.glob(".*.part*"):
        match = re.search(r"\.(\d+)(?:-\d+)?\.part(?:\.\w+)?$", part.name)
        with suppress(OSError):
            if match and (not is_running(int(match[1])) or time.time() - part.stat().st_mtime > ABANDONED):
                part.unlink()


def is_running(process: int) -> bool:
    """Whether another process with this id runs on this machine."""
    if os.name == "nt":
        return True  # unknown: os.kill would end the process there
    if process == os.getpid() or process < 1:
        return False
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, 64 hex digits. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
