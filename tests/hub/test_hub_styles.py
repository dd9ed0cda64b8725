"""LoRAs and textual inversions by hub id: fetched once, pinned to a revision, refused with one line."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.fake_hub import FakeHub

CODE = """
import sys
from dreamfusion_ngp.base.errors import DreamfusionError
from dreamfusion_ngp.guidance.inversions import read_inversion
from dreamfusion_ngp.guidance.styles import read_entry
for text in sys.argv[1:]:
    try:
        read = read_inversion if "learned" in text or "<cup>" in text else read_entry
        print(read(text), read(text).path.name)
    except DreamfusionError as error:
        print(type(error).__name__, str(error).replace("\\n", "|"))
"""


@pytest.fixture
def repositories(tmp_path):
    """By id: a LoRA beside another file, two that may be meant, a pickle, an inversion."""
    files = {
        "someone/pixelart": ("pytorch_lora_weights.safetensors", "other.safetensors", "README.md"),
        "someone/many": ("a.safetensors", "b.safetensors"),
        "someone/old": ("learned_embeds.bin",),
        "someone/learned": ("cup.safetensors",),
    }
    for repo, names in files.items():
        (folder := tmp_path / "hub" / repo).mkdir(parents=True)
        for name in names:
            if name.endswith(".safetensors"):
                save_file({"<cup>": np.full((1, 4), len(name), np.float32)}, folder / name)
            else:
                (folder / name).write_text(name)
    return {repo: tmp_path / "hub" / repo for repo in files}


def read(machine, *texts, **env):
    """What becomes of entries, in a process."""
    command = [sys.executable, "-P", "-c", CODE, *texts]
    done = subprocess.run(command, capture_output=True, text=True, env={**machine.env, **env}, cwd=machine.folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_style_of_the_hub_is_fetched_once_and_pinned(machine, repositories):
    with FakeHub(repositories) as hub:
        lora, word = read(machine, "someone/pixelart:0.7", "someone/learned", HF_ENDPOINT=hub.endpoint)
        asked = [path for _, path in hub.requests if "/resolve/" in path]
        pins = {repo: f"{repo}@{hub.revision(repo)}" for repo in repositories}
    assert not any("other" in path or "README" in path for path in asked), "one file of a repository"
    for line, repo, name, value in (
        (lora, "someone/pixelart", "pytorch_lora_weights.safetensors", "0.7"),
        (word, "someone/learned", "cup.safetensors", "<cup>"),
    ):
        digest = hashlib.sha256((repositories[repo] / name).read_bytes()).hexdigest()
        assert line == f"{pins[repo]}:{value}:{digest} {name}"
        assert read(machine, line.split()[0], HF_HUB_OFFLINE="1") == [line], "as config.json has it, offline"


def test_what_is_not_one_style_is_one_line(machine, repositories):
    page = "https://huggingface.co/someone/pixelart/blob/main/pytorch_lora_weights.safetensors"
    texts = ("someone/many", "someone/old", "someone/none:2", page)
    with FakeHub(repositories) as hub:
        many, old, none, single = read(machine, *texts, HF_ENDPOINT=hub.endpoint)
    start = "PriorError --lora: {} is no file or folder here, and on the hub: "
    assert many.startswith(start.format("someone/many")) and "holds 2 files *.safetensors and no model" in many
    assert "hf download someone/many a.safetensors" in many
    assert old.startswith(start.format("someone/old")) and "only learned_embeds.bin" in old
    assert none.startswith(start.format("someone/none")) and "does not exist or is private" in none
    assert (
        single == f"UsageError --lora: {page} is no page of a repository; give owner/name, or download the file and "
        "give its path"
    )
    (offline,) = read(machine, "loras/typo", HF_HUB_OFFLINE="1")
    assert offline.startswith(start.format("loras/typo")) and "HF_HUB_OFFLINE" in offline
    assert not any("|" in line for line in (many, old, none, single, offline))


def test_fetch_takes_a_style(machine, repositories):
    with FakeHub(repositories) as hub:
        done = machine.run("fetch", "someone/pixelart", HF_ENDPOINT=hub.endpoint)
    assert done.returncode == 0 and "1 files" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1].endswith(
        "--lora someone/pixelart (a textual inversion: --embedding someone/pixelart)"
    )
