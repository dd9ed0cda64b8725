"""Snapshots of repositories on this machine: what of them a pipeline needs, whether it is all there and as it was.

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
from .weights import FULL_FIRST, HALF_FIRST, best_weights, choose_weights, fault

UNUSED = ("safety_checker", "feature_extractor", "watermarker", "image_encoder", "depth_estimator")
SHA256, SHA1 = re.compile("[0-9a-f]{64}"), "git's SHA-1"


@dataclass(frozen=True)
class Snapshot:
    """A whole model on this machine. files: path -> {"size", "sha256", "checked", "by"}, where checked is the time of
    the file's last change (ns) when its content was last read, and by the hash of the hub's that it was checked
    against: "SHA-256", "git's SHA-1", "" where the hub gives none; not there where another program fetched it."""

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
    """The folders of the parts that a model_index.json names and a pipeline needs; "" alone for None, a repository that
    is a single part."""
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
    """Those that have weights."""
    return [name for name in parts_of(index) if not re.search("tokenizer|scheduler|processor|extractor", name)]


def needed_files(listed: Iterable[str], index: dict | None, order: Sequence[str] = HALF_FIRST) -> list[str]:
    """Of a repository's files those that its parts need: configs, vocabularies, and one set of weights in safetensors
    format for each, by default the half-precision one where there is one."""
    found = ["model_index.json"] if index is not None else []
    for part in parts_of(index):
        inside = [path for path in sorted(listed) if os.path.dirname(path) == part]
        found += [path for path in inside if path.endswith((".json", ".txt", ".model"))]
        found += choose_weights([path for path in inside if path.endswith(".safetensors")], order)
    return list(dict.fromkeys(found))


def examine(path: Path, entry) -> tuple[dict, str]:
    """The record of a fetched file, and what is wrong with it as the end of a sentence ("" if nothing), by what the hub
    lists of it: its SHA-256, or git's hash of it (of its pointer, for a large one), else its size and form."""
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
    """The name under which git keeps a file."""
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


def on_this_machine(repo: str, revision: str | None, model: str) -> Snapshot | None:
    """The snapshot of a repository in the hub's cache: that of `revision`, else the one that was fetched last, else
    whatever another program left there if it is whole. None if there is none or files are missing. Raises PriorError
    for a damaged one."""
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
    """The commits that a revision may mean in the hub's cache, which keeps those of names in refs/ (unless the commit
    itself was asked for). Without one, where the cache does not say: all, newest first."""
    if named := read_text(storage / "refs" / (revision or "main")):
        return [named] if re.fullmatch(r"\w[\w.-]*", named, re.ASCII) else []
    if revision:
        return [revision]
    folders = [folder for folder in storage.glob("snapshots/*") if folder.is_dir()]
    return [folder.name for folder in sorted(folders, key=lambda folder: folder.stat().st_mtime, reverse=True)]


def present_files(folder: Path, recorded: dict[str, dict]) -> dict[str, dict]:
    """Records of the files of a snapshot, {} unless it is whole: of those that were recorded and of those that would be
    loaded beside or instead of them because another program has put them there."""
    if not folder.is_dir() or not all((folder / path).is_file() for path in recorded):
        return {}
    listed = [
        path.relative_to(folder).as_posix() for path in (*folder.glob("*"), *folder.glob("*/*")) if path.is_file()
    ]
    index = read_json(folder / "model_index.json") or None
    if not recorded and not is_whole(listed, index):
        return {}
    return recorded | {
        path: foreign_record(folder / path) for path in needed_files(listed, index, FULL_FIRST) if path not in recorded
    }


def is_whole(listed: list[str], index: dict | None) -> bool:
    """Whether these files are a model: something of every part; a config and a complete set of weights where there are
    weights."""
    if not set(parts_of(index)) <= {os.path.dirname(path) for path in listed}:
        return False
    for part in weighted_parts(index):
        inside = [path for path in listed if os.path.dirname(path) == part]
        found = best_weights(inside)
        if found is None or found.missing or f"{part}/config.json".lstrip("/") not in inside:
            return False
    return True


def foreign_record(path: Path) -> dict:
    """The record of a file that another program fetched. The hub's cache names large files by their SHA-256; where
    repositories share them, that name is a link to one by another hash."""
    blob = os.path.basename(os.readlink(path)) if path.is_symlink() else ""
    entry = {"size": path.stat().st_size, "sha256": blob, "checked": 0}
    if SHA256.fullmatch(blob):
        return entry | {"by": "SHA-256"}
    small = entry["size"] < 1 << 26 and git_hash(path.read_bytes()) == blob
    return entry | {"sha256": digest(path)} | ({"by": SHA1} if small else {})


def change(path: Path, entry: dict) -> str:
    """How a file differs from what was recorded; "" if it does not. Its content is read if it changed since it last
    was."""
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
    """Write down what a snapshot holds: as that of its own and of the asked `revision`, or as the repository's last. A
    folder that cannot be written costs the time of checking again, no more."""
    data = {"repo": snapshot.repo, "revision": snapshot.revision, "files": snapshot.files}
    for asked in {revision, snapshot.revision}:
        if read_json(record_path(snapshot.repo, asked)) != data:
            keep(record_name(snapshot.repo, asked), json.dumps(data, indent=1).encode())
    return snapshot


def record_name(repo: str, revision: str | None) -> str:
    """Of a record in the cache."""
    return "hub/" + repo.replace("/", "--") + (f"@{revision.replace('/', '--')}" if revision else "") + ".json"


def record_path(repo: str, revision: str | None) -> Path | None:
    """None where there is no cache."""
    folder = cache_folder()
    return folder and folder / record_name(repo, revision)


def read_record(path: Path | None) -> dict:
    """A record; {} where there is none, or one that `record` did not write."""
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
    """Whether a path stays in the folder that it is relative to."""
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
    """A JSON object; {} where there is none."""
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
