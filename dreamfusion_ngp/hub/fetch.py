"""Models of the Hugging Face hub: fetched once, pinned to a revision, checked against the hub's hashes, then used
offline.

Nothing here is called unless a hub id (or a short name, which stands for hub ids) was chosen. The files lie in the
hub's own cache (HF_HOME, HF_HUB_CACHE), shared with other programs; what was fetched is recorded in our cache folder.
The client honours the environment variables HF_HUB_OFFLINE, HF_TOKEN, HF_ENDPOINT, HF_HUB_ETAG_TIMEOUT and
HF_HUB_DOWNLOAD_TIMEOUT.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from ..base.cache import cache_folder
from ..base.errors import PriorError
from .client import Refusal, TokenRefusal, check_settings, client, hub_errors, timeout
from .names import EMBEDDED, check_folder, folder_of, on_the_hub
from .snapshots import Snapshot, examine, needed_files, on_this_machine, read_json, record, weighted_parts
from .weights import HALF_FIRST, best_weights, choose_weights, style_files, unread_weights

log = logging.getLogger(__name__)

RESERVE = 512 << 20  # bytes of the disk that stay free

__all__ = [
    "Snapshot",
    "cache_folder",
    "choose_weights",
    "fetch",
    "locate",
    "model_path",
    "needed_files",
    "pinned",
    "read_json",
]


def repositories(model: str) -> tuple[tuple[str, ...], str | None]:
    """`names.on_the_hub` of a model; raises PriorError for one that is not on the hub."""
    source = on_the_hub(model)
    if source is None:
        raise PriorError(f"{model!r} is no model of the hub; give a short name of one, or owner/name")
    return source


def locate(model: str) -> Snapshot:
    """The snapshot of a model that `names.on_the_hub` knows: from this machine if possible, else from the hub, whose
    repositories are tried in order. Raises PriorError: one line with what to do next."""
    repos, revision = repositories(model)
    for repo in repos:
        if snapshot := on_this_machine(repo, revision, model):
            return snapshot
    return fetch(model)


def pinned(model: str) -> str:
    """A name that stays valid anywhere and later on: an absolute path for a folder, the hub id with revision for a
    short name or hub id (fetched if necessary); "" and embedded priors are returned as they are."""
    if model in EMBEDDED:
        return model
    return locate(model).name if on_the_hub(model) else str(folder_of(model))


def model_path(model: str) -> Path:
    """The local folder of a model by any name except an embedded prior's; fetched if it is on the hub only. Raises
    PriorError."""
    if not model.strip():
        raise PriorError("the name of the model is empty; give a folder, a hub id (owner/name) or a short name")
    if model in EMBEDDED:
        raise PriorError(
            f"{model} is an embedded model, which has another use; give a folder (./{model} for one of that name), "
            "a hub id (owner/name) or a short name"
        )
    if on_the_hub(model):
        return locate(model).folder
    check_folder(folder_of(model), model)
    return folder_of(model)


def fetch(model: str, show=lambda line: None) -> Snapshot:
    """Download the missing and damaged files of a model, and record them. show: called with lines of text. Raises
    PriorError."""
    repos, revision = repositories(model)
    if client().constants.HF_HUB_OFFLINE:
        return offline(model, repos, revision)
    check_settings()
    refusals = []
    for repo in repos:
        try:
            return download_or_refuse(model, repo, revision, show)
        except Refusal as refusal:
            refusals.append(str(refusal))
    raise PriorError("; ".join(refusals))


def offline(model: str, repos: tuple[str, ...], revision: str | None) -> Snapshot:
    """The first complete snapshot on this machine, for offline mode."""
    for repo in repos:
        if snapshot := on_this_machine(repo, revision, model):
            return snapshot
    name = "HF_HUB_OFFLINE" if os.environ.get("HF_HUB_OFFLINE") else "TRANSFORMERS_OFFLINE"
    raise PriorError(
        f"{model} is not whole on this machine and {name} is set; "
        f"with a network: HF_HUB_OFFLINE=0 dreamfusion-ngp fetch {model}"
    )


def download_or_refuse(model: str, repo: str, revision: str | None, show) -> Snapshot:
    """Download from one repository, and again without the token if the hub refuses it. Raises PriorError."""
    refused = None
    try:
        with hub_errors(model, repo, revision):
            return download(model, repo, revision, show)
    except TokenRefusal as refusal:
        refused = refusal
    try:
        with hub_errors(model, repo, revision):
            return download(model, repo, revision, show, refused)
    except Refusal as refusal:
        raise Refusal(f"{refused}; without it: {refusal}") from None


def download(model: str, repo: str, revision: str | None, show, refused: TokenRefusal | None = None) -> Snapshot:
    """Fetch and check the files of one repository that a pipeline needs. refused: why the token is not sent."""
    token = False if refused else None
    info = client().HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=timeout(), token=token)
    if refused:
        log.warning("%s; going on without it", refused)
    listed = {entry.rfilename: entry for entry in info.siblings or ()}

    def get(path: str, force: bool = False) -> Path:
        return Path(
            client().hf_hub_download(
                repo, path, revision=info.sha or revision, etag_timeout=timeout(), force_download=force, token=token
            )
        )

    paths, folder = files_to_fetch(repo, listed, get)
    check_room(model, sum(listed[path].size or 0 for path in paths if not (folder / path).exists()), folder, show)
    show(f"{repo} at {folder.name[:12]}: {len(paths)} files")
    files = {}
    for path in paths:
        files[path], wrong = examine(get(path), listed[path])
        if wrong:
            files[path], wrong = examine(get(path, force=True), listed[path])
        if wrong:
            raise PriorError(f"{repo}: {path} arrives damaged: it {wrong}; try again: dreamfusion-ngp fetch {model}")
        show(f"{files[path]['size']:>12}  {files[path]['sha256']}  {path}")
    return record(Snapshot(repo, folder.name, folder, files), revision)


def files_to_fetch(repo: str, listed: dict, get) -> tuple[list[str], Path]:
    """The files to fetch from a repository, and the folder of its snapshot: of a model, or one file of weights, a LoRA
    or a textual inversion. Raises Refusal if it holds none of these."""
    root = "model_index.json" if "model_index.json" in listed else "config.json"
    if root not in listed:
        style = style_of(repo, [name for name in listed if "/" not in name])
        return [style], get(style).parent
    path = get(root)
    index = read_json(path) if root == "model_index.json" else None
    if index == {}:
        raise Refusal(f"{repo}: its model_index.json is damaged or empty")
    paths = needed_files(listed, index)
    for part in weighted_parts(index):
        inside = [name for name in listed if os.path.dirname(name) == part]
        weights = best_weights([name for name in inside if name.endswith(".safetensors")], HALF_FIRST)
        if weights is None:
            raise Refusal(f"{repo}{f': {part}' if part else ''} {unread_weights(inside)}")
        if weights.missing:
            raise Refusal(
                f"{repo}: {weights.paths[0]} is incomplete: shards are missing: {', '.join(map(str, weights.missing))}"
            )
    return paths, path.parent


def style_of(repo: str, names: list[str]) -> str:
    """The LoRA or textual inversion of a repository, by the names of the files at its top. Raises Refusal."""
    if not (files := style_files(names)):
        raise Refusal(
            f"{repo} holds no model in diffusers format, with a model_index.json or a config.json, and no LoRA or "
            f"textual inversion: it {unread_weights(names)}"
        )
    if len(files) > 1:
        raise Refusal(
            f"{repo} holds {len(files)} files *.safetensors and no model; download the one that is meant, as with "
            f"hf download {repo} {files[0]}, and give its path"
        )
    return files[0]


def check_room(model: str, missing: int, folder: Path, show) -> None:
    """Raise PriorError unless the disk has room for `missing` bytes more."""
    room = shutil.disk_usage(folder).free - RESERVE
    if missing > room:
        raise PriorError(
            f"{model} needs {missing / 1e9:.1f} GB more in {folder.parents[2]}, where "
            f"{max(room, 0) / 1e9:.1f} GB can be used: free some, or set HF_HOME to another disk, then: "
            f"dreamfusion-ngp fetch {model}"
        )
    show(f"{missing / 1e6:.1f} MB to fetch")
