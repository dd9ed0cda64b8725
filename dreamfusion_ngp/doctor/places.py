"""Verdicts on the folders that this package writes to: whether they exist and are writable."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from ..base import cache
from .verdict import FAIL, OK, SKIP, WARN, Verdict

LITTLE_DISK = 1 << 30  # bytes; a default run leaves some 50 MB
PROBE = 1 << 16  # bytes, written as a test and removed


def hindrance(folder: Path) -> str:
    """Why `folder` cannot be written or created, with the folder at fault; "" where it can."""
    try:
        while not folder.exists():
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(PROBE))
    except OSError as error:
        return f"{folder} cannot be written: {error.strerror or error}"
    return ""


def disk(gpus: list[dict]) -> Verdict:
    try:
        here = os.getcwd()
    except OSError:
        return Verdict(FAIL, "the working directory is no longer there", "change to a folder that is there")
    free = shutil.disk_usage(here).free
    detail = f"{free / 1e9:.1f} GB free in {here}"
    if free < LITTLE_DISK:
        return Verdict(WARN, detail, "free some space, or use -o")
    why = hindrance(Path(here))
    return Verdict(WARN, why, "start elsewhere, or use -o") if why else Verdict(OK, detail)


def cache_folder(gpus: list[dict]) -> Verdict:
    """The cache of text embeddings and of records of models."""
    folder = cache.cache_folder()
    if folder is None:
        return Verdict(WARN, f"nothing is kept from run to run: {cache.NO_HOME}", cache.SET_HOME)
    if why := hindrance(folder):
        return Verdict(WARN, f"nothing is kept from run to run: {why}", "set DREAMFUSION_NGP_CACHE to another folder")
    return Verdict(OK, str(folder))


def fetched_models(gpus: list[dict]) -> Verdict:
    """The hub's cache."""
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError as error:
        return Verdict(SKIP, f"needs huggingface_hub ({error})")
    if HF_HUB_CACHE.startswith("~"):
        return Verdict(WARN, "models cannot be fetched: no home folder is known", "set HOME, or HF_HOME to a folder")
    if why := hindrance(Path(HF_HUB_CACHE)):
        return Verdict(WARN, f"models cannot be fetched: {why}", "set HF_HOME to another folder")
    return Verdict(OK, HF_HUB_CACHE)


def temporary_folder(gpus: list[dict]) -> Verdict:
    """The temporary folder, which only models with unusual names of weights, train-prior with several processes and
    torch.compile need."""
    remedy, setting = "set TMPDIR to a folder with some room", os.environ.get("TMPDIR")
    try:
        folder = Path(tempfile.gettempdir())
    except OSError:
        return Verdict(
            WARN, f"no temporary folder can be written, of TMPDIR={setting or ''}, /tmp and /var/tmp", remedy
        )
    if why := hindrance(folder):
        return Verdict(WARN, why, remedy)
    if setting and folder.resolve() != Path(setting).resolve():
        return Verdict(WARN, f"TMPDIR={setting} cannot be used, {folder} is instead", remedy)
    return Verdict(OK, str(folder))
