"""The cache folder: text embeddings and records of fetched models, kept between runs. Everything also works without
it."""

from __future__ import annotations

import functools
import logging
import os
import sys
from pathlib import Path

from .files import write_atomically

log = logging.getLogger(__name__)

NO_HOME, SET_HOME = "no home folder is known", "set HOME, or DREAMFUSION_NGP_CACHE to a folder"


def cache_folder() -> Path | None:
    """DREAMFUSION_NGP_CACHE, else "dreamfusion_ngp" in the platform's cache folder; None where that needs a home folder
    and none is known."""
    try:
        if chosen := os.environ.get("DREAMFUSION_NGP_CACHE"):
            return Path(chosen).expanduser()
        if sys.platform == "win32":
            base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:
            base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None
    return Path(base) / "dreamfusion_ngp"


def keep(name: str, data: bytes) -> None:
    """Write the file `name` into the cache. Where that fails, log one warning per folder."""
    folder = cache_folder()
    if folder is None:
        return warn_unwritable(None, f"{NO_HOME}; {SET_HOME}")
    try:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / name, data)
    except OSError as error:
        warn_unwritable(folder, f"{folder}: {error.strerror or error}")


@functools.cache
def warn_unwritable(folder: Path | None, why: str) -> None:
    log.warning("the records of models and the cache of text embeddings cannot be written (%s); going on without", why)
