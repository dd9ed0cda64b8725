"""Snapshots of repositories on this machine: which files a pipeline needs, whether they are complete and unchanged.

They lie in the hub's own cache, shared with other programs; records of what was fetched lie in our cache folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..base.cache import cache_folder, keep
from ..base.errors import PriorError
from .client import client
from .weights import FULL_FIRST, HALF_FIRST, USUAL, best_weights, choose_weights, fault

UNUSED = ("safety_checker", "feature_extractor", "watermarker", "image_encoder", "depth_estimator")
SHA256, SHA1 = re.compile("[0-9a-f]{64}"), "git's SHA-1"


@dataclass(frozen=True)
class Snapshot:
    """A complete model on this machine. files: path -> {"size", "sha256", "checked", "by"}. checked: the file's
    modification time (ns) when its content was last read. by: the hub's hash that it was checked against: "SHA-256",
    "git's SHA-1", or "" if the hub gives none; missing if another program fetched the file."""

    repo: str
    revision: str
    folder: Path
    files: dict[str, dict]

    @property
    def name(self) -> str:
        return f"{self.repo}@{self.revision}"

    def checks(self) -> str:
        """What was checked when the files were fetched, in words."""
        none = [path for path, entry in self.files.items() if entry.get("by") == ""]
        git = sum(entry.get("by") == SHA1 for entry in self.files.values())
        if any("by" not in entry for entry in self.files.values()):
            return "not checked: another program fetched them, and the hub is not asked"
        if none:
            which = "" if len(none) == len(self.files) else f" of {len(none)} files, the first is {none[0]}"
            return f"not checked: the hub gives no hashes{which} (sizes and headers are right)"
        return "SHA-256 checked" + (f" ({SHA1} for {git} small ones)" if git else "")


def parts_of(index: dict | None) -> list[str]:
    """The folders of the components that a model_index.json names and a pipeline needs; [""] for None, a repository
    that is a single component."""
    return (
        [""]
        if index is None
        else [
            name
            for name, entry in index.items()
            if name not in UNUSED and isinstance(entry, list) and entry and entry[0]
        ]
    )


def weighted_parts(index: dict | None) -> list[str]:
    """The folders among `parts_of` that hold weights."""
    return [name for name in parts_of(index) if not re.search("tokenizer|scheduler|processor|extractor", name)]


def needed_files(listed: Iterable[str], index: dict | None, order: Sequence[str] = HALF_FIRST) -> list[str]:
    """The files of a repository that a pipeline needs: configs, vocabularies, and for each component one set of weights
    in safetensors format, by default in half precision if available."""
    paths = ["model_index.json"] if index is not None else []
    for part in parts_of(index):
        inside = [path for path in sorted(listed) if os.path.dirname(path) == part]
        paths += [path for path in inside if path.endswith((".json", ".txt", ".model"))]
        paths += choose_weights([path for path in inside if path.endswith(".safetensors")], order)
    return list(dict.fromkeys(paths))


def examine(path: Path, entry) -> tuple[dict, str]:
    """The record of a fetched file, and what is wrong with it as the end of a sentence ("" if nothing). Checked against
    what the hub lists: its SHA-256, or git's hash of it (for a large file, of its LFS pointer), else its size and
    header."""
    size, sha256 = path.stat().st_size, digest(path)
    by, wrong = "", ""
    if entry.lfs and entry.lfs.sha256:
        by, wrong = "SHA-256", "" if sha256 == entry.lfs.sha256 else "has not the SHA-256 that the hub lists"
    elif entry.blob_id:
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
        by = "SHA-256" if git_hash(pointer) == entry.blob_id else SHA1
        if by == SHA1 and git_hash(path.read_bytes()) != entry.blob_id:
            wrong = "has not the hash that the hub lists"
    elif entry.size is not None and size != entry.size:
        wrong = f"has {size} bytes, the hub lists {entry.size}"
    return (
        {"size": size, "sha256": sha256, "checked": path.stat().st_mtime_ns, "by": by},
        fault(path) or wrong if wrong or not by else "",
    )


def git_hash(data: bytes) -> str:
    """Git's blob id of a file's content."""
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


def on_this_machine(repo: str, revision: str | None, model: str) -> Snapshot | None:
    """The snapshot of a repository in the hub's cache: that of `revision`, else the last one fetched, else one that
    another program fetched, if it is complete. None if there is none or files are missing. Raises PriorError for a
    damaged one."""
    storage = Path(client().constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    saved = read_record(record_path(repo, revision))
    for commit in [saved["revision"]] if saved else commits(storage, revision):
        folder = storage / "snapshots" / commit
        if files := present_files(folder, saved.get("files", {})):
            for path, entry in files.items():
                if reason := change(folder / path, entry):
                    raise PriorError(
                        f"{folder / path} is damaged or was changed: {reason}; run: dreamfusion-ngp fetch {model}"
                    )
            return record(Snapshot(repo, commit, folder, files), revision)
    return None


def commits(storage: Path, revision: str | None) -> list[str]:
    """The commits that a revision may mean in the hub's cache: a branch or tag is looked up in refs/, a commit hash is
    itself. Without a revision, and if refs/ has no main: all commits in the cache, newest first."""
    if named := read_text(storage / "refs" / (revision or "main")):
        return [named] if re.fullmatch(r"\w[\w.-]*", named, re.ASCII) else []
    if revision:
        return [revision]
    folders = [folder for folder in storage.glob("snapshots/*") if folder.is_dir()]
    return [folder.name for folder in sorted(folders, key=lambda folder: folder.stat().st_mtime, reverse=True)]


def present_files(folder: Path, recorded: dict[str, dict]) -> dict[str, dict]:
    """Records of the files of a snapshot, {} unless it is complete: of the recorded files, and of files from other
    programs that would be loaded besides or instead of them."""
    if not folder.is_dir() or not all((folder / path).is_file() for path in recorded):
        return {}
    listed = [
        path.relative_to(folder).as_posix() for path in (*folder.glob("*"), *folder.glob("*/*")) if path.is_file()
    ]
    index = read_json(folder / "model_index.json") or None
    if not recorded and not (is_whole(listed, index) or is_style(listed)):
        return {}
    return recorded | {
        path: foreign_record(folder / path) for path in needed_files(listed, index, FULL_FIRST) if path not in recorded
    }


def is_whole(listed: list[str], index: dict | None) -> bool:
    """Whether these files are a complete model: every component is there, and those with weights have a config and all
    shards."""
    if not set(parts_of(index)) <= {os.path.dirname(path) for path in listed}:
        return False
    for part in weighted_parts(index):
        inside = [path for path in listed if os.path.dirname(path) == part]
        weights = best_weights(inside)
        if weights is None or weights.missing or f"{part}/config.json".lstrip("/") not in inside:
            return False
    return True


def is_style(listed: list[str]) -> bool:
    """Whether these files are a LoRA or a textual inversion as diffusers saves it, and no model."""
    return any(name in USUAL for name in listed) and not {"model_index.json", "config.json"} & set(listed)


def foreign_record(path: Path) -> dict:
    """The record of a file that another program fetched. The hub's cache names large files by their SHA-256; for files
    shared between repositories that name is a link to one with another hash."""
    blob = os.path.basename(os.readlink(path)) if path.is_symlink() else ""
    entry = {"size": path.stat().st_size, "sha256": blob, "checked": 0}
    if SHA256.fullmatch(blob):
        return entry | {"by": "SHA-256"}
    small = entry["size"] < 1 << 26 and git_hash(path.read_bytes()) == blob
    return entry | {"sha256": digest(path)} | ({"by": SHA1} if small else {})


def change(path: Path, entry: dict) -> str:
    """How a file differs from its record; "" if it does not. Its content is read only if it was modified since the last
    check."""
    stat = path.stat()
    if stat.st_size != entry["size"]:
        return f"it has {stat.st_size} bytes instead of {entry['size']}"
    if stat.st_mtime_ns == entry["checked"]:
        return ""
    if digest(path) != entry["sha256"]:
        return f"its SHA-256 is not {entry['sha256'][:12]}..."
    entry["checked"] = stat.st_mtime_ns
    return ""


def record(snapshot: Snapshot, revision: str | None) -> Snapshot:
    """Write the records of a snapshot: for its commit, and for the `revision` it was asked by, or as the repository's
    latest. If the folder cannot be written, the files are checked again next time, nothing worse."""
    data = {"repo": snapshot.repo, "revision": snapshot.revision, "files": snapshot.files}
    for rev in {revision, snapshot.revision}:
        if read_json(record_path(snapshot.repo, rev)) != data:
            keep(record_name(snapshot.repo, rev), json.dumps(data, indent=1).encode())
    return snapshot


def record_name(repo: str, revision: str | None) -> str:
    """The file of a record in the cache."""
    return "hub/" + repo.replace("/", "--") + (f"@{revision.replace('/', '--')}" if revision else "") + ".json"


def record_path(repo: str, revision: str | None) -> Path | None:
    """The path of a record; None without a cache folder."""
    folder = cache_folder()
    return folder and folder / record_name(repo, revision)


def read_record(path: Path | None) -> dict:
    """A record; {} if there is none, or if `record` did not write it."""
    data = read_json(path)
    revision, files = data.get("revision"), data.get("files")
    right = (
        isinstance(revision, str)
        and re.fullmatch(r"\w[\w.-]*", revision, re.ASCII)
        and isinstance(files, dict)
        and files
        and all(is_inside(name) and is_entry(entry) for name, entry in files.items())
    )
    return data if right else {}


def is_inside(name: str) -> bool:
    """Whether a relative path stays inside its folder."""
    path = PurePosixPath(name)
    return name.isprintable() and not path.is_absolute() and path.parts != () and ".." not in path.parts


def is_entry(entry) -> bool:
    return (
        isinstance(entry, dict)
        and type(entry.get("size")) is int
        and type(entry.get("checked")) is int
        and isinstance(entry.get("sha256"), str)
        and bool(SHA256.fullmatch(entry["sha256"]))
        and isinstance(entry.get("by", ""), str)
    )


def digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path | None) -> dict:
    """The JSON object in a file; {} if there is none."""
    if path is None:
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
