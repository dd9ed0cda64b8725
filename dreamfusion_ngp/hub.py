"""Models of the Hugging Face hub: fetched once, pinned to a revision, checked against their SHA-256, then used offline.

Nothing here is called unless a hub id (or a short name, which stands for hub ids) was chosen. The files lie in the
hub's own cache (HF_HOME, HF_HUB_CACHE), shared with other programs; what was fetched is recorded in our cache folder.
The environment's HF_HUB_OFFLINE, HF_TOKEN and HF_ENDPOINT are the client's and are honoured by it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import PriorError
from .models import TOYBOX_NAME, folder_of, on_the_hub

TIMEOUT = 3.0          # seconds for the hub's first answer
RESERVE = 512 << 20    # bytes of the disk that stay free
UNUSED = ("safety_checker", "feature_extractor", "watermarker", "image_encoder")


@dataclass(frozen=True)
class Snapshot:
    """A whole model on this machine. files: path -> {"size", "sha256", "checked"}, where checked is the time of the
    file's last change (ns) when its content was last read."""

    repo: str
    revision: str
    folder: Path
    files: dict[str, dict]

    @property
    def name(self) -> str:
        return f"{self.repo}@{self.revision}"


def cache_folder() -> Path:
    """Where this package keeps embeddings and records: DREAMFUSION_NGP_CACHE, else "dreamfusion_ngp" in the platform's
    cache folder."""
    if chosen := os.environ.get("DREAMFUSION_NGP_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "dreamfusion_ngp"


def client():
    """The hub's client. It is not to tell the hub what machine this is, which would also cost a request of its own."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import huggingface_hub
    import huggingface_hub.constants
    import huggingface_hub.errors

    return huggingface_hub


def locate(model: str) -> Snapshot:
    """The snapshot of a model that `models.on_the_hub` knows: from this machine if one is there, else from the hub, its
    repositories tried in order. Raises PriorError: one line with what to do next."""
    repos, revision = on_the_hub(model)
    for repo in repos:
        if found := on_this_machine(repo, revision, model):
            return found
    return fetch(model)


def pinned(model: str) -> str:
    """A name that means the same from anywhere and later on: a folder absolute, a short name or hub id with its
    revision (fetched if need be), "" and "toybox" as they are."""
    if model in ("", TOYBOX_NAME):
        return model
    return locate(model).name if on_the_hub(model) else str(folder_of(model))


def fetch(model: str, show=lambda line: None) -> Snapshot:
    """Download what is missing of a model and what is damaged, and record it. show: called with lines of text. Raises
    PriorError."""
    constants = client().constants
    if constants.HF_HUB_OFFLINE:
        raise PriorError(f"{model} is not whole on this machine and HF_HUB_OFFLINE is set; "
                         f"with a network: HF_HUB_OFFLINE=0 dreamfusion-ngp fetch {model}")
    repos, revision = on_the_hub(model)
    refusals = []
    for repo in repos:
        try:
            with hub_errors(model, repo):
                return download(model, repo, revision, show)
        except Refusal as refusal:
            refusals.append(str(refusal))
    raise PriorError("; ".join(refusals))


class Refusal(PriorError):
    """A repository that will not give the model; another one may."""


@contextmanager
def hub_errors(model: str, repo: str):
    """Turn what the client raises into one line: a Refusal where another repository may help, else PriorError."""
    errors, constants = client().errors, client().constants
    http_error = errors.HfHubHTTPError.__bases__[0]  # of whichever HTTP library the client is built on
    again, place = f"dreamfusion-ngp fetch {model}", f"{constants.ENDPOINT}/{repo}"
    try:
        yield
    except errors.GatedRepoError:
        raise Refusal(f"{repo} is gated: accept its terms at {place}, then run: HF_TOKEN=hf_... {again}") from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError):
        raise Refusal(f"{place} does not exist or is private; give another hub id or a folder "
                      "(--guidance FOLDER), or with access run: HF_TOKEN=hf_... " + again) from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "an error")
        kind = Refusal if status in (401, 403, 451) else PriorError
        raise kind(f"{place} answers {status}; try again later: {again}") from None
    except (errors.LocalEntryNotFoundError, http_error, errors.OfflineModeIsEnabled) as error:
        cause = error.__cause__ or error
        raise PriorError(f"{constants.ENDPOINT} cannot be reached ({type(cause).__name__}); with a network run: "
                         f"{again} (HF_ENDPOINT names a mirror of the hub), or give a folder: "
                         "--guidance FOLDER") from None
    except errors.HFValidationError as error:
        raise PriorError(f"{repo} is no hub id: {str(error).splitlines()[0]}") from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise PriorError(f"the disk is full: free some space in {constants.HF_HUB_CACHE} or set HF_HOME to another "
                             f"disk, then run: {again}") from None
        raise PriorError(f"{model} cannot be fetched: {error}; try again: {again}") from None


def download(model: str, repo: str, revision: str | None, show) -> Snapshot:
    """Fetch and check one repository's files that a pipeline needs."""
    info = client().HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=TIMEOUT)
    listed = {entry.rfilename: entry for entry in info.siblings}

    def get(path: str, force: bool = False) -> Path:
        return Path(client().hf_hub_download(repo, path, revision=info.sha, etag_timeout=TIMEOUT, force_download=force))

    root = "model_index.json" if "model_index.json" in listed else "config.json"
    if root not in listed:
        raise Refusal(f"{repo} holds no model in diffusers format")
    folder = get(root).parent
    wanted = needed_files(listed, read_json(folder / root) if root == "model_index.json" else None)
    if not any(path.endswith(".safetensors") for path in wanted):
        raise Refusal(f"{repo} has no weights in safetensors format")
    missing = sum(listed[p].size or 0 for p in wanted if not (folder / p).exists())
    room = shutil.disk_usage(folder).free - RESERVE
    if missing > room:
        raise PriorError(f"{model} needs {missing / 1e9:.1f} GB more in {folder.parents[2]}, where "
                         f"{max(room, 0) / 1e9:.1f} GB can be used: free some, or set HF_HOME to another disk, then: "
                         f"dreamfusion-ngp fetch {model}")
    show(f"{repo} at {info.sha[:12]}: {len(wanted)} files, {missing / 1e6:.1f} MB to fetch")
    files = {}
    for path in wanted:
        files[path] = checked(get(path), listed[path]) or checked(get(path, force=True), listed[path])
        if not files[path]:
            raise PriorError(f"{repo}: {path} arrives damaged; try again: dreamfusion-ngp fetch {model}")
        show(f"{files[path]['size']:>12}  {files[path]['sha256']}  {path}")
    return record(Snapshot(repo, info.sha, folder, files), revision)


def checked(path: Path, entry) -> dict | None:
    """The record of a file that is what the hub says, by SHA-256 or, for files kept in git, by git's own hash."""
    size, sha256 = path.stat().st_size, digest(path)
    git = f"blob {size}\0".encode()
    right = sha256 == entry.lfs.sha256 if entry.lfs else (
        not entry.blob_id or hashlib.sha1(git + path.read_bytes()).hexdigest() == entry.blob_id)
    return {"size": size, "sha256": sha256, "checked": path.stat().st_mtime_ns} if right else None


def parts_of(index: dict | None) -> list[str]:
    """The folders of the parts that a model_index.json names and a pipeline needs; "" alone for None, a repository that
    is a single part."""
    return [""] if index is None else [name for name, entry in index.items() if name not in UNUSED
                                       and isinstance(entry, list) and entry and entry[0]]


def needed_files(listed: Iterable[str], index: dict | None) -> list[str]:
    """Of a repository's files those that its parts need: configs, vocabularies, and one set of weights in safetensors
    format for each, the half-precision one where there is one."""
    found = ["model_index.json"] if index is not None else []
    for part in parts_of(index):
        inside = [path for path in sorted(listed) if os.path.dirname(path) == part]
        found += [path for path in inside if path.endswith((".json", ".txt", ".model"))]
        found += choose_weights([path for path in inside if path.endswith(".safetensors")])
    return list(dict.fromkeys(found))


def choose_weights(paths: list[str]) -> list[str]:
    """One set of the files of weights that lie side by side: half precision, else the plain one."""
    half = [path for path in paths if re.search(r"\.fp16[.-]", path)]
    return half or [path for path in paths if re.fullmatch(r"[^.]*", Path(path).name.removesuffix(".safetensors"))]


def on_this_machine(repo: str, revision: str | None, model: str) -> Snapshot | None:
    """The snapshot of a repository in the hub's cache: that of `revision`, else the one that was fetched last, else
    whatever another program left there if it is whole. None if there is none or files are missing. Raises PriorError
    for a damaged one."""
    storage = Path(client().constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    saved = read_json(record_path(repo, revision))
    commit = saved.get("revision") or read_text(storage / "refs" / (revision or "main")) or revision
    if not commit or not (folder := storage / "snapshots" / commit).is_dir():
        return None
    files = saved.get("files") or foreign_files(folder)
    if not files or not all((folder / path).is_file() for path in files):
        return None
    for path, entry in files.items():
        if not still_right(folder / path, entry):
            raise PriorError(f"{folder / path} is damaged (its SHA-256 is not {entry['sha256'][:12]}...); "
                             f"run: dreamfusion-ngp fetch {model}")
    return record(Snapshot(repo, commit, folder, files), revision)


def still_right(path: Path, entry: dict) -> bool:
    """Whether a file is what was recorded. Its content is read if it changed since it last was."""
    stat = path.stat()
    if stat.st_size != entry["size"]:
        return False
    if stat.st_mtime_ns == entry["checked"]:
        return True
    entry["checked"] = stat.st_mtime_ns
    return digest(path) == entry["sha256"]


def foreign_files(folder: Path) -> dict[str, dict]:
    """Records of a snapshot that another program fetched: {} unless it is whole. The hub's cache names large files by
    their SHA-256, which they are checked against."""
    index = read_json(folder / "model_index.json") or None
    wanted = needed_files([p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()], index)
    weighted = {os.path.dirname(path) for path in wanted if path.endswith(".safetensors")}
    if not {name for name in parts_of(index) if not name.startswith(("tokenizer", "scheduler"))} <= weighted:
        return {}
    files = {}
    for path in wanted:
        blob = (folder / path).resolve().name
        sha256 = blob if re.fullmatch("[0-9a-f]{64}", blob) else digest(folder / path)
        files[path] = {"size": (folder / path).stat().st_size, "sha256": sha256, "checked": 0}
    return files


def record(snapshot: Snapshot, revision: str | None) -> Snapshot:
    """Write down what a snapshot holds: as that of its own and of the asked `revision`, or as the repository's last."""
    data = {"repo": snapshot.repo, "revision": snapshot.revision, "files": snapshot.files}
    for path in {record_path(snapshot.repo, asked) for asked in (revision, snapshot.revision)}:
        if read_json(path) != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                (part := Path(folder) / path.name).write_text(json.dumps(data, indent=1))
                os.replace(part, path)
    return snapshot


def record_path(repo: str, revision: str | None) -> Path:
    name = repo.replace("/", "--") + (f"@{revision.replace('/', '--')}" if revision else "")
    return cache_folder() / "hub" / f"{name}.json"


def digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict:
    """A JSON object; {} where there is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
