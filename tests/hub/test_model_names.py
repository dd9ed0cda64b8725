"""Which names of models are folders, which are the hub's, and what is never sent to it."""

import pytest
from support.fake_hub import FakeHub, Machine, line

from dreamfusion_ngp.base.errors import PriorError
from dreamfusion_ngp.hub.fetch import fetch, locate, model_path, pinned
from dreamfusion_ngp.hub.names import ALIASES, on_the_hub


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        "mine/my-sd15",
        "mine/my-sd15@v2",
        "mine/a.b",
        "models/my-sd15",
        "./models/my-sd15",
        "../my-sd15",
        "~/my-sd15",
        "/models/my-sd15",
        "a/b/c",
        "my-sd15",
        "weights/x.safetensors",
        "x/model.ckpt",
        "a--b/c",
        "a/b..c",
        "a/b.git",
        "a/-b",
        "models/my sd15",
        "a" * 300 + "/b",
    ],
)
def test_a_path_that_is_not_there_is_a_missing_folder(here, name):
    (here / "mine").mkdir()
    assert on_the_hub(name) is None
    with pytest.raises(PriorError, match="^no such folder: /") as caught:
        model_path(name)
    assert "\n" not in str(caught.value)


def test_an_id_is_one_wherever_no_folder_says_otherwise(here):
    assert on_the_hub("owner/name") == (("owner/name",), None)
    (here / "owner").mkdir()
    assert on_the_hub("owner/name") is None
    for name, page in (("owner/name", "owner/name;"), ("owner/name@v2", "owner/name/tree/v2;")):
        with pytest.raises(PriorError, match=f"give https://huggingface.co/{page}"):
            model_path(name)
    assert on_the_hub("https://huggingface.co/owner/name") == (("owner/name",), None)
    commit = "owner/name@" + "0123456789" * 4
    assert on_the_hub(commit) == (("owner/name",), "0123456789" * 4), "what a run has pinned"
    (here / "CompVis").mkdir()
    assert on_the_hub("sd14")[0] == ALIASES["sd14"].repos
    assert pinned("owner/name") == str(here / "owner" / "name")


@pytest.mark.parametrize(
    "address, wanted",
    [
        ("https://huggingface.co/owner/name", None),
        ("https://huggingface.co/owner/name/", None),
        ("http://huggingface.co/owner/name", None),
        ("huggingface.co/owner/name", None),
        ("hf.co/owner/name", None),
        ("https://hf-mirror.com/owner/name", None),
        ("https://HuggingFace.co/owner/name", None),
        ("https://huggingface.co/owner/name?library=diffusers", None),
        ("https://huggingface.co/owner/name#use", None),
        ("https://huggingface.co/owner/name/tree/main", "main"),
        ("https://huggingface.co/owner/name/tree/fp16/unet", "fp16"),
        ("https://huggingface.co/owner/name/tree/refs%2Fpr%2F1", "refs/pr/1"),
        ("https://huggingface.co/owner/name/tree/refs/pr/1", "refs/pr/1"),
        ("https://huggingface.co/owner/name/blob/main/model_index.json", "main"),
        ("https://huggingface.co/owner/name/discussions/3", None),
        ("https://huggingface.co/owner/name/commits/main", None),
        ("hf://owner/name", None),
        ("hf://owner/name@v1", "v1"),
        ("hf://models/owner/name", None),
    ],
)
def test_the_address_of_a_page_is_its_id(here, address, wanted):
    assert on_the_hub(address) == (("owner/name",), wanted)


def test_a_mirror_is_known_by_HF_ENDPOINT(here, monkeypatch):
    with pytest.raises(PriorError, match="HF_ENDPOINT=https://hub.example:8443 and give owner/name"):
        on_the_hub("https://hub.example:8443/owner/name")
    for endpoint in ("https://hub.example:8443", "https://hub.example:8443/", "https://hub.example:8443/api/hf"):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        page = endpoint.rstrip("/") + "/owner/name"
        assert on_the_hub(page) == (("owner/name",), None) and on_the_hub(page + "/tree/v1") == (("owner/name",), "v1")
    assert on_the_hub("https://huggingface.co/owner/name")


@pytest.mark.parametrize(
    "address, said",
    [
        ("https://huggingface.co/datasets/owner/name", "not the page of a model"),
        ("https://huggingface.co/spaces/owner/name", "not the page of a model"),
        ("https://huggingface.co/owner", "not the page of a model"),
        ("https://huggingface.co", "not the page of a model"),
        ("https://github.com/owner/name", "no page of a hub that is known"),
        ("https://civitai.com/models/4384", "no page of a hub that is known"),
        ("s3://bucket/key", "no page of a hub"),
        ("https://huggingface.co/owner/name/blob/main/v1-5.safetensors", "a single file of weights"),
        ("https://huggingface.co/owner/name/resolve/main/v1-5.ckpt", "a single file of weights"),
        ("https://[broken/owner/name", "no address"),
        ("https://huggingface.co/owner/../name", "not the page of a model"),
    ],
)
def test_other_addresses_are_refused_in_one_line(here, address, said):
    with pytest.raises(PriorError, match=said) as caught:
        on_the_hub(address)
    assert "\n" not in str(caught.value)


def test_the_name_of_a_missing_folder_is_not_sent_to_the_hub(tmp_path):
    (tmp_path / "mine").mkdir()
    machine = Machine(tmp_path)
    with FakeHub({}) as hub:
        error = line(machine.run("generate", "a red mug", "--guidance", "mine/my-sd15", HF_ENDPOINT=hub.endpoint))
        assert error.startswith(f"error: no such folder: {tmp_path}/mine/my-sd15"), error
        assert "but a path here" in line(machine.run("fetch", "mine/my-sd15", HF_ENDPOINT=hub.endpoint))
        assert hub.requests == []


def test_other_models_that_are_missing_folders_are_called_so(here):
    from dreamfusion_ngp.evaluation.clip import ClipRetrieval
    from dreamfusion_ngp.guidance.pipeline_folder import load_vae

    (here / "models").mkdir()
    for load in (load_vae, ClipRetrieval):
        with pytest.raises(PriorError, match="^no such folder: "):
            load("models/it")


@pytest.mark.parametrize("call", [fetch, locate])
def test_what_the_hub_cannot_have_is_not_looked_for_there(here, call):
    for name in ("./folder", "a/b/c", "toybox"):
        with pytest.raises(
            PriorError, match=f"^'{name}' is no model of the hub; give a short name of one, or owner/name$"
        ):
            call(name)


@pytest.mark.parametrize("name, message", [("", "is empty"), (" ", "is empty"), ("toybox-256", "./toybox-256 for one")])
def test_what_names_no_folder_is_not_taken_for_one(name, message, here):
    """An empty name would be the working directory."""
    (here / "toybox-256").mkdir()
    with pytest.raises(PriorError, match=message):
        model_path(name)
    assert model_path("./toybox-256") == here / "toybox-256"
