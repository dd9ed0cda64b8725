"""The repair of toys' backs: what is damaged, what is measured, one short run."""

import argparse
import json

import numpy as np
import pytest

from dreamfusion_ngp.experiments import repair
from dreamfusion_ngp.experiments.repair import damage, error, main, true_toy
from dreamfusion_ngp.importer.read import read_mesh


@pytest.fixture(scope="module")
def mug(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mug")
    return damage(true_toy("a red mug", folder / "true.glb", 128), folder / "damaged.glb")


def test_the_back_alone_is_damaged(mug):
    assert mug.back.sum() > 500 and mug.front.sum() > 500 and not (mug.back & mug.front).any()
    assert error(mug.damaged, mug.true, mug.front) == 0
    assert 0.1 < error(mug.damaged, mug.true, mug.back) < 0.6
    true, poor = (read_mesh(p) for p in (mug.true, mug.damaged))
    assert np.array_equal(true.vertices, poor.vertices) and np.array_equal(true.uv, poor.uv)


def test_the_machine_is_the_one_that_was_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(repair, "choose_device", lambda name: f"the device {name}")
    monkeypatch.setattr(repair, "facts", str)
    args = argparse.Namespace(
        out=tmp_path / "o.json", runs=tmp_path, seeds=[0], prompts=["a mug"], threads=1, device="cuda"
    )
    assert repair.measure_all(args, lambda prompt, root, seed: {"prompt": prompt}) == 0
    assert json.loads(args.out.read_text())["machine"] == "the device cuda"


def test_a_short_run(tmp_path):
    out = tmp_path / "repair.json"
    flags = ["--steps", "2", "--texture-size", "64", "--runs", str(tmp_path / "runs"), "--threads", "1"]
    assert main(["a red mug", "-o", str(out), *flags]) == 0
    (run,) = json.loads(out.read_text())["runs"]
    assert run["prompt"] == "a red mug" and run["steps"] == 2
    assert run["back_before"] > 0.1 and run["front_after"] < 0.1 and run["front_unchanged"] > 0.3
    assert (tmp_path / "runs" / "0" / run["run"] / "damaged.glb").is_file()
