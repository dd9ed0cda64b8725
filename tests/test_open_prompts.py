"""`generate` with models of every family from local folders, end to end, without a network."""

import json
import os
import subprocess
import sys

import pytest
from tiny_latent import latent_folders  # noqa: F401 (fixture)
from tiny_models import folders  # noqa: F401 (fixture)

SMALL = ["--set", "render.resolution=12", "--set", "render.step=0.05", "--set", "render.occupancy_resolution=16",
         "--set", "field.levels=6", "--set", "field.log2_table=12", "--set", "field.finest_resolution=64"]

# Every attempt to open a connection, or to ask for an address, ends the process with 77.
GUARDED = """
import os, socket, sys
def refuse(*_, **__):
    print("the network was asked for", file=sys.stderr, flush=True)
    os._exit(77)
for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, refuse)
for name in ("getaddrinfo", "create_connection", "gethostbyname"):
    setattr(socket, name, refuse)
from dreamfusion_ngp.cli import main
sys.exit(main(sys.argv[1:]))
"""


def guarded(*args, cwd, **env):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DREAMFUSION_NGP_CACHE": str(cwd / "cache"), **env}
    environment.pop("HF_HUB_OFFLINE", None)
    return subprocess.run([sys.executable, "-P", "-c", GUARDED, *map(str, args)], capture_output=True, text=True,
                          cwd=cwd, env=environment, timeout=600)


def test_the_guard_sees_a_connection(tmp_path):
    done = guarded("fetch", "nobody/nothing", cwd=tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 77, done.stdout + done.stderr


@pytest.mark.parametrize("kind, preset, options", [
    ("sd", "sd21", []), ("sdv", "sd21", ["--negative", "clay"]), ("sdxl", "sdxl", []),
    ("if", "if", ["--set", "guidance.view_blend=perp-neg"])])
def test_a_folder_of_every_family_makes_a_mesh_offline(kind, preset, options, latent_folders, folders, tmp_path):
    folder = {**latent_folders, **folders}[kind]
    steps = 20 if kind == "sd" else 6
    done = guarded("generate", "a blue mug high", "--guidance", folder, "--steps", steps, "--threads", "1", *SMALL, *options,
                   cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    run = next((tmp_path / "outputs").glob("a-blue-mug-high-*/*"))
    assert (run / "mesh.glb").stat().st_size > 100 and (run / "checkpoint.safetensors").exists()
    saved = json.loads((run / "config.json").read_text())
    assert saved["preset"] == preset and saved["guidance"]["model"] == str(folder)
    if kind == "sd":
        again = guarded("resume", run, "--steps", steps + 2, "--threads", "1", cwd=tmp_path)
        assert again.returncode == 0 and f"resuming at step {steps}" in again.stdout, again.stderr
