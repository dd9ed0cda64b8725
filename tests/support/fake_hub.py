"""A hub on the loopback interface: enough of the Hugging Face protocol for the real client to fetch from it; a machine
to ask it from."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class FakeHub:
    """repos: hub id -> folder of files, which may change while the hub runs; the revision is a hash of their contents.
    gated: hub ids that want `token`.  damaged: hub id -> paths that arrive with a byte changed.  requests: (method,
    path) of everything that was asked for.  status: with which everything is answered.  delay: seconds before every
    answer.  hidden: of "lfs", "blobId", "size", "sha" and "siblings" what the list of files does not say.  strict: a
    token other than `token` is answered with 401, as the real hub does."""

    def __init__(self, repos: dict[str, Path]):
        self.repos, self.gated, self.token, self.damaged, self.requests = dict(repos), set(), "hf_good", {}, []
        self.status, self.delay, self.hidden, self.strict = None, 0.0, set(), False

    def __enter__(self):
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                hub.requests.append((self.command, self.path))
                hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def files(self, repo: str) -> dict[str, bytes]:
        root = self.repos[repo]
        return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}

    def revision(self, repo: str) -> str:
        total = hashlib.sha1()
        for path, data in self.files(repo).items():
            total.update(path.encode() + data)
        return total.hexdigest()

    def answer(self, request) -> None:
        path = unquote(urlsplit(request.path).path)
        time.sleep(self.delay)
        if self.strict and request.headers.get("Authorization") not in (None, f"Bearer {self.token}"):
            return self.refuse(request, 401, "", "Invalid credentials in Authorization header")
        if self.status:
            return self.send(request, self.status, b"")
        if path.startswith("/api/models/"):
            repo = "/".join(path.split("/")[3:5])
            if repo not in self.repos:
                return self.refuse(request, 404, "RepoNotFound")
            return self.send_tree(request, repo) if "/tree/" in path else self.send_info(request, repo)
        repo, file = "/".join(path.split("/")[1:3]), path.split("/", 5)[-1]  # /owner/name/resolve/revision/file
        if repo not in self.repos:
            return self.refuse(request, 404, "RepoNotFound")
        if repo in self.gated and request.headers.get("Authorization") != f"Bearer {self.token}":
            return self.refuse(request, 403 if "Authorization" in request.headers else 401, "GatedRepo")
        files = self.files(repo)
        if file not in files:
            return self.refuse(request, 404, "EntryNotFound")
        self.send_file(request, repo, file, files[file])

    def send_info(self, request, repo: str) -> None:
        siblings = []
        for path, data in self.files(repo).items():
            entry = {"rfilename": path, "size": len(data), "blobId": git_hash(data)}
            if path.endswith(".safetensors"):
                entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            siblings.append({key: value for key, value in entry.items() if key not in self.hidden})
        body = {
            "id": repo,
            "modelId": repo,
            "sha": self.revision(repo),
            "siblings": siblings,
            "private": False,
            "gated": "auto" if repo in self.gated else False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
        }
        body = {key: value for key, value in body.items() if key not in self.hidden}
        self.send(request, 200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def send_tree(self, request, repo: str) -> None:
        entries = [
            {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for path, data in self.files(repo).items()
        ]
        self.send(request, 200, json.dumps(entries).encode(), {"Content-Type": "application/json"})

    def send_file(self, request, repo: str, file: str, data: bytes) -> None:
        weights = file.endswith(".safetensors")
        etag = hashlib.sha256(data).hexdigest() if weights else git_hash(data)
        headers = {"X-Repo-Commit": self.revision(repo), "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if weights:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
        if file in self.damaged.get(repo, ()):
            data = data[:-1] + bytes([data[-1] ^ 1])
        start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0] or 0)
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self.send(request, 206 if start else 200, data[start:], headers)

    def refuse(self, request, status: int, code: str, message: str = "") -> None:
        self.send(request, status, b"{}", {"X-Error-Code": code, "X-Error-Message": message or code})

    def send(self, request, status: int, body: bytes, headers: dict | None = None) -> None:
        request.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)


class BlackHole:
    """A port that takes connections and never answers."""

    def __enter__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        return self

    def __exit__(self, *_):
        self.socket.close()


class Machine:
    """A user's machine: its own home of the hub's cache and of this package's."""

    def __init__(self, folder):
        self.folder = folder
        self.env = {
            **os.environ,
            "HF_HOME": str(folder / "hf"),
            "DREAMFUSION_NGP_CACHE": str(folder / "cache"),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        for name in (
            "HF_HUB_OFFLINE",
            "HF_TOKEN",
            "HF_ENDPOINT",
            "HF_HUB_ETAG_TIMEOUT",
            "HF_HUB_DOWNLOAD_TIMEOUT",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
            "http_proxy",
            "https_proxy",
            "all_proxy",
        ):
            self.env.pop(name, None)

    def run(self, *args, **env):
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-P", "-m", "dreamfusion_ngp", *map(str, args)],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env={**self.env, **env},
            timeout=300,
        )
        done.seconds = time.perf_counter() - began
        return done

    def locate(self, model: str, **env):
        """hub.locate in a process: its folder, or the error's line."""
        code = (
            "import sys\nfrom dreamfusion_ngp.base.errors import PriorError\n"
            "from dreamfusion_ngp.hub.fetch import locate\n"
            "try: print(locate(sys.argv[1]).folder)\nexcept PriorError as error: print('error:', error)"
        )
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, model],
            capture_output=True,
            text=True,
            env={**self.env, **env},
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def file(self, repo: str, path: str):
        return next((self.folder / "hf" / "hub" / f"models--{repo.replace('/', '--')}" / "snapshots").glob(f"*/{path}"))


def line(done) -> str:
    """The one line of an error."""
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    return lines[0]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.fixture
def model(latent_folders, tmp_path):
    """A repository's files, to be changed."""
    return shutil.copytree(latent_folders["sd"], tmp_path / "repository")


REPO = "someone/something"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def hub(model):
    with FakeHub({REPO: model}) as running:
        yield running


def rename(folder, variant):
    for path in folder.rglob("*.safetensors"):
        path.rename(path.with_name(f"{path.stem}{variant}.safetensors"))


def entry(size=None, sha256=None, blob_id=None):
    lfs = sha256 and type("Lfs", (), {"sha256": sha256})
    return type("Entry", (), {"size": size, "lfs": lfs, "blob_id": blob_id})
