"""What hubs, mirrors, proxies and caches of other programs answer: each message is true for what led to it."""

import hashlib
import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from support.fake_hub import REPO, WEIGHTS, entry, line, rename

from dreamfusion_ngp.base.errors import PriorError
from dreamfusion_ngp.guidance.load import family
from dreamfusion_ngp.guidance.pipeline_folder import load_model, read_index
from dreamfusion_ngp.hub import snapshots


@pytest.mark.parametrize("variant", [".bf16", ".non_ema"])
def test_a_repository_of_any_variant_is_fetched_and_read(machine, hub, model, variant):
    rename(model, variant)
    done = machine.run("fetch", REPO, HF_ENDPOINT=hub.endpoint)
    assert done.returncode == 0 and f"diffusion_pytorch_model{variant}.safetensors" in done.stdout, done.stderr
    assert "SHA-256 checked" in done.stdout
    folder = Path(machine.locate(REPO, HF_HUB_OFFLINE="1"))
    family(folder).check(folder)
    load_model(folder, read_index(folder), "unet")


def test_a_part_in_another_format_is_named_before_anything_large_is_fetched(machine, hub, model):
    path = model / "text_encoder" / "model.safetensors"
    path.rename(path.with_name("pytorch_model.bin"))
    error = machine.locate(REPO, HF_ENDPOINT=hub.endpoint)
    assert "text_encoder has no weights in safetensors format, only pytorch_model.bin" in error
    assert not any(WEIGHTS in asked for _, asked in hub.requests)


@pytest.mark.parametrize("hidden", [{"lfs", "blobId"}, {"lfs", "blobId", "size"}, {"lfs", "blobId", "sha"}])
def test_what_no_hash_was_given_for_is_not_called_checked(machine, hub, hidden):
    hub.hidden, hub.damaged = hidden, {REPO: [WEIGHTS]}
    done = machine.run("fetch", REPO, HF_ENDPOINT=hub.endpoint)
    assert done.returncode == 0, done.stderr
    assert "not checked: the hub gives no hashes" in done.stdout and "SHA-256 checked" not in done.stdout


def test_sizes_and_headers_are_checked_where_there_are_no_hashes(machine, hub, model):
    hub.hidden = {"lfs", "blobId"}
    (model / WEIGHTS).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    assert "git-lfs pointer" in machine.locate(REPO, HF_ENDPOINT=hub.endpoint)
    (model / WEIGHTS).write_bytes(b"\x00" * 64)
    error = machine.locate(REPO, HF_ENDPOINT=hub.endpoint)
    assert WEIGHTS in error and "arrives damaged" in error and "header" in error.lower()


def test_each_hash_is_named_as_what_it_is(tmp_path):
    path = tmp_path / "merges.txt"
    path.write_bytes(b"a b")
    sha256 = hashlib.sha256(b"a b").hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize 3\n".encode()
    git = [hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() for data in (b"a b", pointer)]
    for listed, by in (
        (entry(3, sha256), "SHA-256"),
        (entry(3, None, git[0]), "git's SHA-1"),
        (entry(3, None, git[1]), "SHA-256"),
        (entry(3), ""),
        (entry(), ""),
    ):
        saved, wrong = snapshots.examine(path, listed)
        assert saved["by"] == by and wrong == "", by
    for listed, reason in ((entry(3, "0" * 64), "SHA-256"), (entry(3, None, "0" * 40), "hash"), (entry(4), "3 bytes")):
        assert reason in snapshots.examine(path, listed)[1]

    def checks(*by):
        return snapshots.Snapshot("a/b", "c", tmp_path, {str(i): {"by": b} for i, b in enumerate(by)}).checks()

    assert checks("SHA-256") == "SHA-256 checked" and "1 small" in checks("SHA-256", "git's SHA-1")
    assert "SHA-256 checked" not in checks("SHA-256", "") and "the first is 1" in checks("SHA-256", "")
    foreign = snapshots.foreign_record(path)
    assert "by" not in foreign and foreign["sha256"] == sha256
    assert "another program" in snapshots.Snapshot("a/b", "c", tmp_path, {"merges.txt": foreign}).checks()


def test_a_refused_token_is_named_and_left_out(machine, hub):
    hub.strict = True
    done = machine.run("fetch", REPO, HF_ENDPOINT=hub.endpoint, HF_TOKEN="hf_stale")
    assert done.returncode == 0, done.stderr
    assert "the token of HF_TOKEN is refused" in done.stderr and "401" in done.stderr
    (machine.folder / "hf" / "token").write_text("hf_stale")
    hub.gated, hub.repos = {"an/other"}, {"an/other": hub.repos[REPO]}
    error = machine.locate("an/other", HF_ENDPOINT=hub.endpoint)
    token = machine.folder / "hf" / "token"
    assert f"the token of {token} is refused" in error and "is gated: accept its terms" in error
    error = machine.locate("no/where", HF_ENDPOINT=hub.endpoint)
    assert "is refused" in error and "does not exist or is private" in error


def test_the_clients_timeouts_hold_and_a_slow_hub_is_waited_for(machine, hub):
    hub.delay = 4.0
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        error = machine.locate(REPO, HF_ENDPOINT=hub.endpoint, **{name: "1"})
        assert "Timeout" in error and name in error, error
        assert f"{name} is 'soon': give a whole number" in machine.locate(REPO, **{name: "soon"})
        assert f"{name} is ''" in line(machine.run("generate", "a red mug", **{name: ""})), "for the embedded prior too"
    code = (
        "from dreamfusion_ngp.hub.client import client, timeout; print(timeout(), "
        "client().HfApi().model_info('someone/something', timeout=timeout()).id)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        env={**machine.env, "HF_ENDPOINT": hub.endpoint},
    )
    assert done.stdout.split() == ["10", REPO], done.stderr


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A certificate that nobody trusts, with its key."""
    folder = tmp_path_factory.mktemp("tls")
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not here")
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-keyout",
            folder / "key.pem",
            "-out",
            folder / "cert.pem",
        ],
        check=True,
        capture_output=True,
    )
    return folder / "cert.pem", folder / "key.pem"


def test_a_certificate_that_is_not_trusted_is_named(machine, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            with suppress(OSError):  # the client hangs up
                context.wrap_socket(server.accept()[0], server_side=True)

        threading.Thread(target=serve, daemon=True).start()
        error = machine.locate(REPO, HF_ENDPOINT=f"https://127.0.0.1:{server.getsockname()[1]}")
    assert "the certificate is not trusted" in error and "SSL_CERT_FILE" in error


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"HF_ENDPOINT": "hub.example.com"}, "HF_ENDPOINT is 'hub.example.com'.*a scheme and a host"),
        ({"HF_ENDPOINT": ""}, "HF_ENDPOINT is ''"),
        ({"HF_ENDPOINT": "https://hub.example.com:port"}, "HF_ENDPOINT is "),
        ({"HF_ENDPOINT": "https://no-such-host.invalid"}, "name no-such-host.invalid is not known to DNS"),
        ({"HTTPS_PROXY": "http://user:secret@127.0.0.1:9"}, "through the proxy http://127.0.0.1:9 .*HTTPS_PROXY"),
        ({"HTTPS_PROXY": "proxy:port"}, "the proxy of the environment .*http://proxy:port"),
        ({"HTTPS_PROXY": "foo://proxy:1"}, "the proxy of the environment .*foo://proxy:1"),
        ({"SSL_CERT_FILE": "/nowhere.pem"}, "SSL_CERT_FILE is '/nowhere.pem', which does not exist"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached .*refused"),
    ],
)
def test_what_is_wrong_with_the_way_to_the_hub_is_named(machine, settings, said):
    error = machine.locate(REPO, **settings)
    assert error.startswith("error: ") and "\n" not in error and "secret" not in error
    assert re.search(said, error), error


@pytest.mark.parametrize(
    "status, said",
    [
        (404, "does not exist or is private"),
        (403, "answers 403"),
        (407, "proxy"),
        (418, "answers 418"),
        (429, "too many requests"),
        (451, "legal"),
        (500, "answers 500: try again later"),
    ],
)
def test_each_status_is_what_it_means(status, said):
    from huggingface_hub.errors import HfHubHTTPError

    from dreamfusion_ngp.hub.client import hub_errors

    response = type("Response", (), {"status_code": status, "headers": {}, "request": None})
    with pytest.raises(PriorError, match=said), hub_errors(REPO, REPO):
        raise HfHubHTTPError("x", response=response)


def test_a_file_that_fails_half_way_is_explained_by_its_cause():
    from huggingface_hub.errors import FileMetadataError, HfHubHTTPError, LocalEntryNotFoundError, RevisionNotFoundError

    from dreamfusion_ngp.hub.client import hub_errors

    response = type("Response", (), {"status_code": 503, "headers": {}, "request": None, "url": "u"})
    for outer in (LocalEntryNotFoundError("no entry"), ValueError("Force download failed due to the above error.")):
        for cause, said in (
            (HfHubHTTPError("x", response=response), "answers 503"),
            (FileMetadataError("no header"), "does not answer as a hub does"),
        ):
            outer.__cause__ = cause
            with pytest.raises(PriorError, match=said), hub_errors(REPO, REPO):
                raise outer
    with pytest.raises(PriorError, match="has no revision v9"), hub_errors(REPO, REPO, "v9"):
        raise RevisionNotFoundError("x", response=response)
    for error in (KeyError("siblings"), TypeError("list"), json.JSONDecodeError("Expecting value", "<html>", 0)):
        with pytest.raises(PriorError, match="does not answer as a hub does"), hub_errors(REPO, REPO):
            raise error
