"""Where this package writes: whether the folders are there and can be written. For `doctor`: each function returns
(status, detail, remedy)."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from .cache import NO_HOME, cache_folder

OK, WARN, SKIP = "OK", "WARN", "SKIP"
PROBE = 1 << 16  # bytes, written and thrown away


def hindrance(folder: Path) -> str:
    """Why nothing can be written to `folder`, or made where it is to be, with the place; "" where it can."""
    try:
        while not folder.exists():
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(PROBE))
    except OSError as error:
        return f"{folder} cannot be written: {error.strerror or error}"
    return ""


def cache() -> tuple[str, str, str]:
    """Of text embeddings and of records of models."""
    folder = cache_folder()
    if folder is None:
        return WARN, "nothing is kept from run to run: no home folder is known", NO_HOME.split("; ")[1]
    if why := hindrance(folder):
        return WARN, f"nothing is kept from run to run: {why}", "set DREAMFUSION_NGP_CACHE to another folder"
    return OK, str(folder), ""


def models() -> tuple[str, str, str]:
    """The hub's cache."""
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError as error:
        return SKIP, f"needs huggingface_hub ({error})", ""
    if HF_HUB_CACHE.startswith("~"):
        return WARN, "models cannot be fetched: no home folder is known", "set HOME, or HF_HOME to a folder"
    if why := hindrance(Path(HF_HUB_CACHE)):
        return WARN, f"models cannot be fetched: {why}", "set HF_HOME to another folder"
    return OK, HF_HUB_CACHE, ""


def temporary() -> tuple[str, str, str]:
    """What models with weights of unusual names, train-prior with several processes and torch.compile need; other runs
    do not."""
    remedy, wanted = "set TMPDIR to a folder with some room", os.environ.get("TMPDIR")
    try:
        folder = Path(tempfile.gettempdir())
    except OSError:
        return WARN, f"no temporary folder can be written, of TMPDIR={wanted or ''}, /tmp and /var/tmp", remedy
    if why := hindrance(folder):
        return WARN, why, remedy
    if wanted and folder.resolve() != Path(wanted).resolve():
        return WARN, f"TMPDIR={wanted} cannot be used, {folder} is instead", remedy
    return OK, str(folder), ""
