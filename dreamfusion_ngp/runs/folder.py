"""The output folder of a run: names, lock, config, metrics."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import time
import unicodedata
from contextlib import contextmanager, suppress
from pathlib import Path

from ..base.characters import lookalike
from ..base.errors import CheckpointError, UsageError, writing
from ..base.files import flush_folder, sweep, write_atomically
from ..config.io import to_dict
from ..config.schema import RunConfig
from ..export.formats import check_files
from ..optimise.stage import Stage

CHECKPOINT, CONFIG, METRICS, LOCK = "checkpoint.safetensors", "config.json", "metrics.jsonl", ".lock"
FILES = "files.json"
DEPTH = 2  # folders below a given one that are searched for runs: outputs/<prompt>/<time>


def slug(prompt: str) -> str:
    """A file name for any prompt: at most 40 safe ASCII characters, then 8 hex digits of the prompt's SHA-256. Prompts
    that look alike have one name."""
    prompt = lookalike(prompt)
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].strip("-")
    return f"{words or 'prompt'}-{hashlib.sha256(prompt.encode(errors='backslashreplace')).hexdigest()[:8]}"


def create_run(root: Path, config: RunConfig, files: dict | None = None) -> Path:
    """Make outputs/<slug>/<timestamp> with config.json in it and `files` remembered (`remember_files`). Raises
    UsageError where that cannot be written."""
    base = Path(root) / slug(config.prompt)
    if any("\ud800" <= c <= "\udfff" for c in str(base.absolute())):
        raise UsageError(
            f"{base.absolute()}: the name is not UTF-8, and what reads checkpoints takes no other names; "
            "choose another folder with -o"
        )
    try:
        base.mkdir(parents=True, exist_ok=True)
        folder = make_new(base)
        (folder / "previews").mkdir()
        write_atomically(folder / CONFIG, config_bytes(config))
        remember_files(folder, files or {})
        flush_folder(base)
        return folder.resolve()
    except OSError as error:
        raise UsageError(f"cannot write to {base}: {error.strerror or error}; choose another folder with -o") from None


def make_new(base: Path) -> Path:
    """A new folder in `base` named after the time. Making it is the only way to know that nobody else just has."""
    now, n = time.strftime("%Y%m%d-%H%M%S"), 0
    while True:
        folder = base / (f"{now}-{n}" if n else now)
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            n += 1


@contextmanager
def lock_run(folder: Path):
    """Keep other processes from running in `folder` for the length of the block. The operating system releases the lock
    when the process ends, however it ends. Raises UsageError where another process holds it. On Windows, and on a file
    system without locks, there is none."""
    with writing(folder / LOCK):
        number = take_lock(folder / LOCK)
    try:
        if number is None:
            raise UsageError(
                f"{folder} is in use by another process{holder(folder / LOCK)}; wait for it to end, or stop it"
            )
        yield
    finally:
        if number is not None:
            with suppress(OSError):
                os.unlink(folder / LOCK)
            os.close(number)


def take_lock(path: Path) -> int | None:
    """A file descriptor that holds the lock `path`; None if another process holds it."""
    while True:
        number = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            import fcntl

            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(number)
            return None
        except (ImportError, OSError):
            return number
        with suppress(OSError):
            if os.path.samestat(os.fstat(number), os.stat(path)):
                os.ftruncate(number, 0)
                os.write(number, b"%d\n" % os.getpid())
                return number
        os.close(number)  # its last holder has just removed the file


def holder(path: Path) -> str:
    """ " (number N)" of the process that wrote its number into a lock; "" if it cannot be read."""
    with suppress(OSError, ValueError):
        return f" (number {int(path.read_text(encoding='ascii'))})"
    return ""


def config_bytes(config: RunConfig) -> bytes:
    return (json.dumps(to_dict(config), indent=1) + "\n").encode()


def remember_files(folder: Path, files: dict) -> None:
    """Write the options of the mesh files that a run was asked for, if any, for who resumes it."""
    if files:
        write_atomically(folder / FILES, (json.dumps(files) + "\n").encode())


def remembered_files(folder: Path) -> dict:
    """What `remember_files` wrote, {} for nothing. Raises UsageError for what nobody could have asked for."""
    path = folder / FILES
    try:
        return check_files(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, UsageError) as error:
        raise UsageError(f"{path}: {error}; mend it or remove it") from None


def reopen_run(folder: Path, state: Stage, files: dict | None = None) -> None:
    """Bring a run's folder to the step of `state`: write its config to config.json, drop later metrics, remove what a
    killed process left half-written; remember `files`. Raises OutputError where it cannot be written."""
    with writing(folder / "previews"):
        (folder / "previews").mkdir(exist_ok=True)
    for place in (folder, folder / "previews"):
        sweep(place)
    if not state.before:  # else config.json is that of the first stage
        with writing(folder / CONFIG):
            write_atomically(folder / CONFIG, config_bytes(state.config))
    with writing(folder / FILES):
        remember_files(folder, files or {})
    truncate_metrics(folder, state.before + state.step)


def checkpoint_of(run: Path) -> Path:
    """The checkpoint of a run folder (or the path itself if it is a file). Raises CheckpointError if there is none."""
    run = Path(run)
    path = run if run.is_file() else run / CHECKPOINT
    if not path.is_file():
        raise CheckpointError(f"{run} holds no {CHECKPOINT}; give the folder of a run (outputs/<prompt>/<time>)")
    return path


def find_runs(paths: list[Path], depth: int = DEPTH) -> list[Path]:
    """The folders of runs that `paths` are or hold, at most `depth` folders below, each once. Links and hidden folders
    are not searched. Raises CheckpointError for one without."""
    folders = []
    for path in paths:
        inside = [] if path.is_file() or (path / CHECKPOINT).is_file() else sorted(below(path, depth))
        if not inside and path.is_dir() and not (path / CHECKPOINT).is_file():
            raise CheckpointError(
                f"{path} holds no {CHECKPOINT}, nor do the {depth} levels of folders in it; give the "
                "folder of a run (outputs/<prompt>/<time>), or look deeper with --depth"
            )
        folders += [checkpoint_of(p).parent.resolve() for p in inside or [path]]
    return list(dict.fromkeys(folders))


def below(folder: Path, depth: int):
    """Yield the folders with a checkpoint at most `depth` levels below `folder`; not those inside a run."""
    if depth < 1:
        return
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False) or entry.name.startswith("."):
                continue
            if os.path.isfile(os.path.join(entry.path, CHECKPOINT)):
                yield Path(entry.path)
            else:
                yield from below(Path(entry.path), depth - 1)


def append_metrics(folder: Path, record: dict) -> None:
    with writing(folder / METRICS), open(folder / METRICS, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def truncate_metrics(folder: Path, step: int) -> None:
    """Drop the records of steps from `step` on, which a resumed run writes again, and lines that are no records: a
    crash or a full disk may have left half of one."""
    path = folder / METRICS
    with writing(path), suppress(FileNotFoundError):
        lines = path.read_bytes().decode("utf-8", "replace").split("\n")
        write_atomically(path, "".join(f"{line}\n" for line in lines if recorded_step(line) < step).encode())


def recorded_step(line: str) -> float:
    """The step of a line of metrics; infinity for a line that is no record."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, TypeError, KeyError):
        return math.inf
    return step if type(step) is int else math.inf
