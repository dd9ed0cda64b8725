"""What is on the machine already: caches without refs, checked files that were replaced, records."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.fake_hub import REPO, WEIGHTS, rename

from dreamfusion_ngp.base import cache
from dreamfusion_ngp.hub import snapshots


def cached(machine, hub):
    """What another program leaves in the hub's cache."""
    code = "import sys; from huggingface_hub import snapshot_download; print(snapshot_download(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, REPO],
        env={**machine.env, "HF_ENDPOINT": hub.endpoint},
        check=True,
        capture_output=True,
        text=True,
    )
    return Path(done.stdout.strip())


def test_a_cache_is_used_without_refs_and_with_shared_files(machine, hub):
    folder = cached(machine, hub)
    shutil.rmtree(folder.parents[1] / "refs")
    blob = Path(os.path.realpath(folder / WEIGHTS))
    shared = folder.parents[2] / "blobs" / "00" / ("0" * 64)  # where repositories share files, by a hash of its own
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(shared)
    assert machine.locate(REPO, HF_HUB_OFFLINE="1") == str(folder)
    shutil.rmtree(machine.folder / "cache")
    shutil.rmtree(folder / "tokenizer")
    assert "not whole" in machine.locate(REPO, HF_HUB_OFFLINE="1"), "a part that is missing"


def test_a_fetch_without_network_of_what_is_here(machine, hub):
    folder = cached(machine, hub)
    done = machine.run("fetch", REPO, HF_HUB_OFFLINE="1")
    assert done.returncode == 0 and str(folder) in done.stdout, done.stderr
    assert "SHA-256 checked (git's SHA-1 for" in done.stdout
    error = machine.locate("an/other", TRANSFORMERS_OFFLINE="1")
    assert "TRANSFORMERS_OFFLINE is set" in error


def test_what_takes_the_place_of_a_checked_file_is_checked(machine, hub, model):
    rename(model, ".fp16")
    assert machine.run("fetch", REPO, HF_ENDPOINT=hub.endpoint).returncode == 0
    folder = Path(machine.locate(REPO, HF_HUB_OFFLINE="1"))
    path = folder / WEIGHTS
    blob = path.parents[3] / "blobs" / ("0" * 64)
    blob.write_bytes((folder / WEIGHTS.replace(".", ".fp16.")).read_bytes())
    path.symlink_to(blob)
    error = machine.locate(REPO, HF_HUB_OFFLINE="1")
    assert f"{path} is damaged or was changed: its SHA-256" in error, "full precision would be loaded"


@pytest.mark.parametrize(
    "change",
    [
        lambda record: [],
        lambda record: record | {"revision": 5},
        lambda record: record | {"revision": "../.."},
        lambda record: record | {"files": [1]},
        lambda record: record | {"files": {"a": None}},
        lambda record: record | {"files": {"../../x": next(iter(record["files"].values()))}},
        *(
            lambda record, key=key, value=value: (
                record | {"files": {name: entry | {key: value} for name, entry in record["files"].items()}}
            )
            for key in ("size", "sha256", "checked")
            for value in (None, "5", [], 1.5, {})
        ),
    ],
)
def test_a_damaged_record_is_as_none(tmp_path, monkeypatch, change):
    monkeypatch.setenv("DREAMFUSION_NGP_CACHE", str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    record = {"size": 2, "sha256": hashlib.sha256(b"{}").hexdigest(), "checked": 0, "by": ""}
    snapshots.record(snapshots.Snapshot(REPO, "c" * 40, tmp_path, {"config.json": record}), None)
    path = snapshots.record_path(REPO, None)
    whole = snapshots.read_record(path)
    assert whole["revision"] == "c" * 40
    path.write_text(json.dumps(change(whole)))
    assert snapshots.read_record(path) == {}
    path.write_text("[" * 100_000)
    assert snapshots.read_record(path) == {}


def test_a_record_that_cannot_be_written_is_said_once(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DREAMFUSION_NGP_CACHE", str(tmp_path / "file"))
    cache.warn_unwritable.cache_clear()
    for _ in range(3):
        snapshots.record(snapshots.Snapshot(REPO, "c" * 40, tmp_path, {}), None)
    assert len(caplog.messages) == 1 and str(tmp_path / "file") in caplog.text
