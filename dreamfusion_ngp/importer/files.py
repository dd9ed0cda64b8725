"""Reads a mesh file and the files that it names, which must lie beside it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path, PurePosixPath
from urllib.parse import unquote_to_bytes

from ..base.errors import MeshError

MAX_FILE = 1 << 30  # bytes
_noted: ContextVar[dict[str, str] | None] = ContextVar("noted", default=None)


@contextmanager
def reads_noted() -> Iterator[dict[str, str]]:
    """Yield a dictionary that gets, by the name in the mesh file, the SHA-256 of every file that the block reads by
    `read_beside`: a mesh file alone does not say what an OBJ's library or a glTF's buffers hold."""
    noted: dict[str, str] = {}
    token = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(token)


def excerpt(text) -> str:
    """A text from a file, cut short for a message of one line."""
    text = repr(text)
    return text if len(text) <= 60 else text[:57] + "..."


def read_file(path: Path, limit: int = MAX_FILE) -> bytes:
    """The bytes of an ordinary file. Raises MeshError, without the file's name."""
    try:
        number = os.open(
            path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        )  # does not block on a pipe
        with open(number, "rb") as file:
            status = os.fstat(number)
            if not stat.S_ISREG(status.st_mode):
                raise MeshError("is not a file")
            if status.st_size > limit:
                raise MeshError(f"has {status.st_size:,} bytes; more than {limit:,} are not read")
            return file.read(status.st_size)
    except (OSError, ValueError) as error:
        raise MeshError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def beside(folder: Path, name: str) -> Path:
    """The file `name` of a mesh file in `folder`: a relative path to a file there or in a folder of it, links followed.
    Raises MeshError."""
    plain = name.replace("\\", "/")
    if not plain.strip() or "\0" in plain or len(plain) > 1000 or re.match(r"[A-Za-z][\w+.-]*:", plain):
        raise MeshError(f"names {excerpt(name)}: only files beside it, by relative names, are read")
    if PurePosixPath(plain).is_absolute() or ".." in PurePosixPath(plain).parts:
        raise MeshError(f"names {excerpt(name)}, outside of its folder; put the file beside it and name it alone")
    try:
        home, path = folder.resolve(), (folder / plain).resolve()
        inside, there = path.is_relative_to(home), path.is_file()
    except (OSError, ValueError, RuntimeError):
        inside, there = True, False
    if not inside:
        raise MeshError(f"names {excerpt(name)}, which leads out of its folder")
    if not there:
        raise MeshError(f"names {excerpt(name)}, which is not there")
    return path


def read_beside(folder: Path, name: str, limit: int = MAX_FILE) -> bytes:
    """The bytes of the file `name` in `folder`. Raises MeshError."""
    path = beside(folder, name)
    try:
        data = read_file(path, limit)
    except MeshError as error:
        raise MeshError(f"names {excerpt(name)}, which {error}") from None
    if (noted := _noted.get()) is not None:
        noted[name] = hashlib.sha256(data).hexdigest()
    return data


def read_uri(folder: Path, uri) -> bytes:
    """The bytes of a glTF URI: inline data, or a file beside the mesh. Raises MeshError."""
    if not isinstance(uri, str):
        raise MeshError(f"has the URI {excerpt(uri)}")
    if not uri.startswith("data:"):
        return read_beside(folder, os.fsdecode(unquote_to_bytes(uri)))
    head, comma, body = uri.partition(",")
    try:
        if not comma:
            raise ValueError
        return (
            base64.b64decode(unquote_to_bytes(body), validate=True)
            if head.endswith(";base64")
            else unquote_to_bytes(body)
        )
    except (ValueError, binascii.Error):
        raise MeshError(f"has a damaged data URI, {excerpt(uri)}") from None
