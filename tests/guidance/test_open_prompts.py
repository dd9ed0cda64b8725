"""`generate` with models of every family from local folders, end to end, without a network."""

import json
import socket

import pytest

from dreamfusion_ngp import cli
from dreamfusion_ngp.guidance.load import load_guidance
from dreamfusion_ngp.optimise.loop import train
from dreamfusion_ngp.runs.checkpoint import load_checkpoint

SMALL = [
    "--set",
    "render.resolution=12",
    "--set",
    "render.step=0.1",
    "--set",
    "render.occupancy_resolution=16",
    "--set",
    "field.levels=3",
    "--set",
    "field.log2_table=10",
    "--set",
    "field.finest_resolution=32",
]


@pytest.fixture
def no_network(monkeypatch):
    """Every attempt to open a connection, or to ask for an address, is refused and written down."""
    asked = []

    def refuse(*args, **_):
        asked.append(args)
        raise OSError("the network was asked for")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "create_connection", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    return asked


def test_the_guard_sees_a_connection(no_network):
    import urllib.request

    with pytest.raises(OSError, match="network was asked for"):
        urllib.request.urlopen("http://127.0.0.1:9")
    assert no_network


@pytest.mark.parametrize(
    "kind, preset, options",
    [
        ("sd", "sd21", []),
        ("sd3", "sd3", ["--low-memory"]),
        ("sdv", "sd21", ["--negative", "clay"]),
        ("sdxl", "sdxl", []),
        ("if", "if", ["--set", "guidance.view_blend=perp-neg"]),
    ],
)
def test_a_folder_of_every_family_makes_a_mesh_offline(
    kind, preset, options, latent_folders, folders, tmp_path, monkeypatch, no_network, capsys
):
    folder = {**latent_folders, **folders}[kind]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(folder)
    steps, form = (20, "glb") if kind == "sd" else (3, "ply")
    run = ["generate", "a blue mug high", "--guidance", "./tiny", "--steps", str(steps), "--formats", form]
    assert cli.main([*run, "--threads", "1", *SMALL, *options]) == 0, capsys.readouterr().err
    run = next((tmp_path / "outputs").glob("a-blue-mug-high-*/*"))
    assert (run / f"mesh.{form}").stat().st_size > 100 and (run / "checkpoint.safetensors").exists()
    saved = json.loads((run / "config.json").read_text())
    assert saved["preset"] == preset and saved["guidance"]["model"] == str(tmp_path / "tiny")
    assert "memory plan" in capsys.readouterr().out
    monkeypatch.chdir("/")  # the run knows its model from anywhere
    state = load_checkpoint(run / "checkpoint.safetensors", "cpu", steps=steps + 1)
    observed = []
    train(state, load_guidance(state.config, "cpu"), observed.append)
    assert [record.step for record in observed] == [steps]
    assert not no_network
