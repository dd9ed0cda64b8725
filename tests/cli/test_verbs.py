"""A whole small run by the command line, and every verb on it."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import trimesh
from support.commands import command

from dreamfusion_ngp import cli
from dreamfusion_ngp.config.io import from_dict
from dreamfusion_ngp.config.schema import RunConfig

SMALL = ["--set", "render.resolution=16", "--set", "render.step=0.04", "--set", "views=2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One small run of `generate` by the command line."""
    cwd = tmp_path_factory.mktemp("work")
    done = command(
        "generate",
        "a red mug",
        "--steps",
        "12",
        "--formats",
        "glb,obj,ply,stl",
        "--threads",
        "1",
        *SMALL,
        cwd=cwd,
        DREAMFUSION_NGP_CACHE=str(cwd / "cache"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    folder = next((cwd / "outputs").glob("a-red-mug-*/*"))
    return folder, done


@pytest.fixture
def copied(finished, tmp_path):
    """That run in a folder that a test may change."""
    return shutil.copytree(finished[0], tmp_path / "run")


@pytest.mark.slow
def test_generate_leaves_what_it_promises(finished):
    folder, done = finished
    for name in (
        "mesh.glb",
        "mesh.obj",
        "mesh.ply",
        "mesh.stl",
        "config.json",
        "metrics.jsonl",
        "checkpoint.safetensors",
        "contact_sheet.png",
    ):
        assert (folder / name).stat().st_size > 100, name
        if name.startswith("mesh"):
            assert str((folder / name).resolve()) in done.stdout, "the final lines print absolute paths"
    assert list(folder.glob("turntable.*")) and list((folder / "previews").glob("*.png"))
    assert "prior" in done.stdout and "field" in done.stdout and "elsewhere" in done.stdout
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [0, 10, 11] and all(np.isfinite(r["sds"]) for r in records)
    loaded = from_dict(RunConfig, json.loads((folder / "config.json").read_text()))
    assert loaded == replace(loaded, prompt="a red mug", steps=12, views=2)
    assert not list(folder.rglob("*.part"))
    sides = np.ptp(trimesh.load(folder / "mesh.stl").vertices, axis=0)
    assert sides.max() == pytest.approx(100, rel=1e-5), "millimetres"
    assert "STL size    {:.1f} x {:.1f} x {:.1f} mm".format(*sides) in done.stdout


@pytest.mark.slow
def test_other_verbs_work_on_the_run(copied):
    folder = copied
    assert command("render", folder, "--frames", "4", "--resolution", "32", "--threads", "1").returncode == 0
    small = ("--resolution", "48", "--formats", "ply,stl", "--size", "25", "--origin", "base", "--threads", "1")
    assert command("export", folder, *small).returncode == 0
    sides, lowest = (np.asarray(f(trimesh.load(folder / "mesh.stl").vertices, axis=0)) for f in (np.ptp, np.min))
    assert sides.max() == pytest.approx(25, rel=1e-5) and lowest[2] == pytest.approx(0, abs=1e-4)
    assert trimesh.load(folder / "mesh.ply").bounds[0, 2] == pytest.approx(0, abs=1e-6)
    done = command("evaluate", folder, "--json", "--threads", "1")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert 0 <= result["volumetric_iou"] <= 1 and 0 <= result["silhouette_iou"] <= 1


@pytest.mark.parametrize(
    "args, word",
    [
        (["render", "--frames", "0"], "--frames"),
        (["render", "--resolution", "0"], "--resolution"),
        (["render", "--resolution", "-8"], "--resolution"),
        (["export", "--resolution", "0"], "resolution"),
        (["export", "--texture", "-1"], "texture"),
        (["export", "--faces", "-1"], "faces"),
        (["resume", "--steps", "3"], "12 steps already"),
        (["resume", "--steps", "0"], "--steps"),
        (["resume", "--steps", "9" * 20], "error: steps must be"),
    ],
)
def test_bad_numbers_for_a_run_change_nothing(finished, args, word, capsys):
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert cli.main([args[0], str(folder), *args[1:]]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error and word in error
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_evaluate_knows_first_that_it_cannot_write(finished, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert cli.main(["evaluate", str(finished[0]), "-o", str(tmp_path / "file"), "--threads", "1"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: cannot write") and "\n" not in error, "nothing was scored"


@pytest.mark.slow
def test_resume_goes_on_to_more_steps(finished, copied):
    folder, cache = copied, finished[0].parents[2] / "cache"
    done = command("resume", folder, "--steps", "15", "--threads", "1", DREAMFUSION_NGP_CACHE=str(cache))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resuming at step 12 of 15" in done.stdout
    assert json.loads((folder / "config.json").read_text())["steps"] == 15
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [0, 10, 11, 14]


def test_bench_runs_at_tiny_sizes(tmp_path):
    done = command("bench", "--quick", "--json", tmp_path / "b.json", "--threads", "1")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert {"march", "field step", "step without guidance"} <= {r["op"] for r in rows}
    assert all(r["median_ms"] > 0 for r in rows)
