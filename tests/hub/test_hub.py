"""Models from the hub: the real client against a hub on the loopback interface, in processes of their own, since the
client reads its environment once."""

import hashlib
import json
import shutil
import subprocess
import sys

import pytest
from support.fake_hub import BlackHole, FakeHub, line

from dreamfusion_ngp.base.errors import PriorError
from dreamfusion_ngp.config.presets import PRESETS, preset
from dreamfusion_ngp.hub import fetch as hub_module
from dreamfusion_ngp.hub.fetch import choose_weights, needed_files
from dreamfusion_ngp.hub.names import ALIASES, on_the_hub, preset_name

FIRST, SECOND = ALIASES["sd21"].repos
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def hub(model):
    with FakeHub({FIRST: model}) as running:
        yield running


def test_fetched_once_recorded_and_offline_from_then_on(machine, hub):
    done = machine.run("fetch", "sd21", HF_ENDPOINT=hub.endpoint)
    assert done.returncode == 0, done.stderr
    name = f"{FIRST}@{hub.revision(FIRST)}"
    assert name in done.stdout and "SHA-256 checked" in done.stdout
    saved = json.loads((machine.folder / "cache" / "hub" / f"{FIRST.replace('/', '--')}.json").read_text())
    files = hub.files(FIRST)
    assert saved["revision"] == hub.revision(FIRST) and saved["files"].keys() == files.keys()

    assert all(
        entry["size"] == len(files[path])
        and entry["sha256"] == hashlib.sha256(files[path]).hexdigest()
        and entry["sha256"] in done.stdout
        for path, entry in saved["files"].items()
    )
    assert not any("harness" in path for _, path in hub.requests), "the hub is told nothing of this machine"
    before = len(hub.requests)
    for asked in ("sd21", FIRST, name):
        assert machine.locate(asked, HF_ENDPOINT=hub.endpoint).endswith(hub.revision(FIRST))
        assert machine.locate(asked, HF_HUB_OFFLINE="1").endswith(hub.revision(FIRST))
    assert len(hub.requests) == before, "a model that is here costs no request"


def test_a_pinned_name_stays_what_it_was_when_the_repository_goes_on(machine, hub, model):
    """`generate` writes down pinned(model), which `resume` then asks for."""
    code = "import sys; from dreamfusion_ngp.hub.fetch import pinned; print(pinned(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, "sd21"],
        capture_output=True,
        text=True,
        env={**machine.env, "HF_ENDPOINT": hub.endpoint},
    )
    name = done.stdout.strip()
    assert name == f"{FIRST}@{hub.revision(FIRST)}", done.stderr
    config = model / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text() + "\n")
    assert hub.revision(FIRST) not in name
    assert machine.run("fetch", "sd21", HF_ENDPOINT=hub.endpoint).returncode == 0
    assert machine.locate("sd21", HF_HUB_OFFLINE="1").endswith(hub.revision(FIRST))
    assert machine.locate(name, HF_HUB_OFFLINE="1").endswith(name.split("@")[1])


def test_the_next_mirror_is_tried(machine, hub, model):
    hub.repos = {SECOND: model}
    done = machine.run("fetch", "sd21", HF_ENDPOINT=hub.endpoint)
    assert done.returncode == 0 and f"{SECOND}@" in done.stdout, done.stderr
    hub.repos = {}
    error = line(machine.run("fetch", "sd15", HF_ENDPOINT=hub.endpoint))
    assert "does not exist" in error and "dreamfusion-ngp fetch sd15" in error


def test_a_gated_model_says_where_its_terms_are(machine, hub, model):
    repo = ALIASES["if"].repos[0]
    hub.repos, hub.gated = {repo: model}, {repo}
    for token in ({}, {"HF_TOKEN": "hf_bad"}):
        error = line(machine.run("fetch", "if", HF_ENDPOINT=hub.endpoint, **token))
        assert f"accept its terms at {hub.endpoint}/{repo}" in error
        assert "HF_TOKEN=hf_... dreamfusion-ngp fetch if" in error
    assert machine.run("fetch", "if", HF_ENDPOINT=hub.endpoint, HF_TOKEN="hf_good").returncode == 0


def test_damage_on_the_way_and_on_the_disk(machine, hub):
    hub.damaged = {FIRST: [WEIGHTS]}
    error = line(machine.run("fetch", "sd21", HF_ENDPOINT=hub.endpoint))
    assert WEIGHTS in error and "damaged" in error and "dreamfusion-ngp fetch sd21" in error
    hub.damaged = {}
    assert machine.run("fetch", "sd21", HF_ENDPOINT=hub.endpoint).returncode == 0, "the next fetch mends it"
    path = machine.file(FIRST, WEIGHTS)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    error = machine.locate("sd21", HF_HUB_OFFLINE="1")
    assert error.startswith("error:") and "damaged" in error and error.endswith("dreamfusion-ngp fetch sd21")
    assert machine.run("fetch", "sd21", HF_ENDPOINT=hub.endpoint).returncode == 0
    assert not machine.locate("sd21", HF_HUB_OFFLINE="1").startswith("error")
    path.write_bytes(path.read_bytes()[:-10])
    assert "damaged" in machine.locate("sd21", HF_HUB_OFFLINE="1")


def test_a_partial_cache_is_completed_or_named(machine, hub):
    assert machine.run("fetch", "sd21", HF_ENDPOINT=hub.endpoint).returncode == 0
    path = machine.file(FIRST, WEIGHTS)
    path.resolve().unlink()
    path.unlink()
    done = machine.run("generate", "a peacock", "--guidance", "sd21", HF_HUB_OFFLINE="1")
    assert "not whole" in line(done) and "HF_HUB_OFFLINE=0 dreamfusion-ngp fetch sd21" in line(done)
    assert done.seconds < 5
    shutil.rmtree(machine.folder / "cache" / "hub")
    assert "not whole" in machine.locate("sd21", HF_HUB_OFFLINE="1"), "without our record too"
    before = len(hub.requests)
    assert not machine.locate("sd21", HF_ENDPOINT=hub.endpoint).startswith("error")
    got = [path for method, path in hub.requests[before:] if method == "GET" and "/resolve/" in path]
    assert len(got) == 1 and got[0].endswith(WEIGHTS), "only what is missing is fetched"


def test_what_another_program_left_in_the_cache_is_used_and_checked(machine, hub):
    code = "import sys; from huggingface_hub import snapshot_download; snapshot_download(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", code, FIRST],
        env={**machine.env, "HF_ENDPOINT": hub.endpoint},
        check=True,
        capture_output=True,
    )
    found = machine.locate("sd21", HF_HUB_OFFLINE="1")
    assert found.endswith(hub.revision(FIRST))
    shutil.rmtree(machine.folder / "cache")
    blob = machine.file(FIRST, WEIGHTS).resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"\x07")
    assert "damaged" in machine.locate("sd21", HF_HUB_OFFLINE="1")


@pytest.mark.parametrize(
    "args",
    [
        ("fetch", "sdxl"),
        ("generate", "a peacock", "--guidance", "sdxl"),
        ("generate", "a peacock", "--guidance", "someone/something"),
    ],
)
def test_no_network_is_one_line_within_five_seconds(machine, args):
    with BlackHole() as hole:
        for endpoint, reason in ((hole.endpoint, "Timeout"), ("http://127.0.0.1:9", "ConnectError")):
            done = machine.run(*args, HF_ENDPOINT=endpoint, HF_HUB_ETAG_TIMEOUT="1")
            error = line(done)
            assert f"{endpoint} cannot be reached" in error and reason in error and "dreamfusion-ngp fetch" in error
            assert done.seconds < 5, done.seconds
    done = machine.run(*args, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE=0 dreamfusion-ngp fetch" in line(done) and done.seconds < 5
    assert not (machine.folder / "outputs").exists()


def test_a_hub_that_is_down_and_repositories_of_other_kinds(machine, hub, model):
    hub.status = 503
    assert "answers 503" in line(machine.run("fetch", "sd15", HF_ENDPOINT=hub.endpoint))
    hub.status, hub.repos = None, {"someone/something": model}
    for path in model.rglob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    error = line(machine.run("fetch", "someone/something", HF_ENDPOINT=hub.endpoint))
    assert "no weights in safetensors format" in error
    (model / "model_index.json").unlink()
    assert "holds no model" in line(machine.run("fetch", "someone/something", HF_ENDPOINT=hub.endpoint))
    assert "is no model of the hub" in line(machine.run("fetch", "./repository"))
    for bad in ("toybox", "sd99", "a/b/c", "../x"):
        assert "is no model of the hub" in line(machine.run("fetch", bad))


def test_a_full_disk_is_known_before_and_named_after(monkeypatch):
    usage = type("Usage", (), {"free": hub_module.RESERVE + 10**9})
    monkeypatch.setattr(hub_module.shutil, "disk_usage", lambda _: usage)
    entry = type("Entry", (), {"size": 5 * 10**9, "lfs": None, "blob_id": None})
    files = {"config.json": entry(), "model.safetensors": entry()}

    class Client:
        class HfApi:
            def model_info(self, *_, **__):
                siblings = [type("File", (), {"rfilename": name, **vars(entry)})() for name in files]
                return type("Info", (), {"sha": "0" * 40, "siblings": siblings})()

        @staticmethod
        def hf_hub_download(*_, **__):
            return "/nowhere/a/b/c/config.json"

    monkeypatch.setattr(hub_module, "client", lambda: Client)
    with pytest.raises(PriorError, match=r"needs 10.0 GB more .* 1.0 GB can be used.*fetch someone/something"):
        hub_module.download("someone/something", "someone/something", None, lambda text: None)
    monkeypatch.undo()
    with pytest.raises(PriorError, match="disk is full.*HF_HOME.*dreamfusion-ngp fetch sd21"):
        with hub_module.hub_errors("sd21", FIRST):
            raise OSError(28, "No space left on device")


def test_names():
    assert on_the_hub("sd21") == (ALIASES["sd21"].repos, None) and on_the_hub("toybox") is None
    assert on_the_hub("owner/name") == (("owner/name",), None)
    assert on_the_hub("owner/na-me.1@fp16") == (("owner/na-me.1",), "fp16")
    for folder in ("./sd21", "/abs/folder", "~/x", "no/such/folder", "folder", "../a/b", "", "a/..", "tests/"):
        assert on_the_hub(folder) is None, folder
    assert all(alias.preset in PRESETS for alias in ALIASES.values())
    pipelines = [f"StableDiffusion{end}Pipeline" for end in ("3", "XL", "")] + ["IFPipeline", ""]
    assert [preset_name("x/y", pipeline) for pipeline in pipelines] == ["sd3", "sdxl", "sd21", "if", "sd21"]
    assert preset_name("toybox", "") == "fast" and preset("fast") == PRESETS["fast"]()


def test_a_folder_that_is_there_wins_over_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert on_the_hub("mine/model")
    (tmp_path / "mine" / "model").mkdir(parents=True)
    assert on_the_hub("mine/model") is None


def test_one_set_of_weights_for_each_part():
    base = "diffusion_pytorch_model"
    assert choose_weights(
        [f"unet/{base}.fp16.safetensors", f"unet/{base}.non_ema.safetensors", f"unet/{base}.safetensors"]
    ) == [f"unet/{base}.fp16.safetensors"]
    assert choose_weights([f"unet/{base}.non_ema.safetensors", f"unet/{base}.safetensors"]) == [
        f"unet/{base}.safetensors"
    ]
    shards = [f"text_encoder/model.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert choose_weights([*shards, "text_encoder/model-00001-of-00002.safetensors"]) == shards
    listed = [
        "README.md",
        "model_index.json",
        "unet/config.json",
        f"unet/{base}.safetensors",
        f"unet/{base}.bin",
        "unet/deep/config.json",
        "vae/config.json",
        "tokenizer/merges.txt",
        "safety_checker/config.json",
        "v1-5-pruned.safetensors",
    ]
    index = {
        "_class_name": "P",
        "unet": ["diffusers", "U"],
        "tokenizer": ["transformers", "T"],
        "vae": [None, None],
        "safety_checker": ["s", "S"],
        "flag": True,
    }
    assert needed_files(listed, index) == [
        "model_index.json",
        "unet/config.json",
        f"unet/{base}.safetensors",
        "tokenizer/merges.txt",
    ]
    single = ["config.json", f"{base}.safetensors"]
    assert needed_files([*single, "README.md"], None) == single
