"""The gallery script, on one prompt with two steps."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

SCRIPT = Path(__file__).resolve().parents[2] / "benches" / "gallery.py"


def test_a_run_with_other_options_is_made_again(tmp_path, monkeypatch):
    """Nor is a record taken that an interruption has cut."""
    gallery, made = runpy.run_path(str(SCRIPT)), []

    def run(words, **_):
        if "generate" in words:
            made.append(words[words.index("-o") + 2 :])
            folder = Path(words[words.index("-o") + 1]) / "a" / "b"
            folder.mkdir(parents=True)
            (folder / "checkpoint.safetensors").touch()

    monkeypatch.setattr(subprocess, "run", run)
    for options in (["--steps", "2"], ["--steps", "2"], []):
        done = gallery["make_run"]("a red mug", 0, tmp_path, options)
    assert made == [["--steps", "2"], []]
    done.write_text(done.read_text()[:-9])
    gallery["make_run"]("a red mug", 0, tmp_path, [])
    assert len(made) == 3


@pytest.mark.slow
def test_a_gallery_scores_every_prompt_and_goes_on_where_it_stopped(tmp_path):
    command = [
        sys.executable,
        str(SCRIPT),
        "a red mug",
        "--seeds",
        "3",
        "--runs",
        "runs",
        "-o",
        "gallery",
        "--options",
        "--steps 2 --set render.resolution=16",
    ]
    first = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert first.returncode == 0, first.stderr
    figures = json.loads((tmp_path / "gallery" / "figures.json").read_text())
    (run,) = figures["runs"]
    assert run["prompt"] == "a red mug" and run["seed"] == 3 and 0 <= run["volumetric_iou"] <= 1
    assert 0 <= run["silhouette_iou"] <= 1 and run["seconds"] > 0 and figures["cores"] > 0
    with Image.open(tmp_path / "gallery" / run["sheet"]) as sheet:
        assert sheet.format == "PNG" and sheet.size[0] > 64
    with Image.open(tmp_path / "gallery" / "gallery.jpg") as whole:
        assert whole.size == (576, 384) and whole.convert("L").getextrema()[0] < 250
    assert f"| a red mug | 3 | {run['volumetric_iou']:.2f} |" in first.stdout
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert json.loads((tmp_path / "gallery" / "figures.json").read_text())["runs"] == [run], "nothing was run again"
    assert again.returncode == 0 and "writing to" not in again.stdout
