"""The repair of shapes: what is spoilt, and that the figures notice it."""

import numpy as np
import pytest

from dreamfusion_ngp.evaluation.metrics.closed_mesh import surface_error
from dreamfusion_ngp.experiments import reshape
from dreamfusion_ngp.experiments.repair import true_toy
from dreamfusion_ngp.importer.read import read_mesh


@pytest.fixture(scope="module")
def meshes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    true = true_toy("a red mug", folder / "true.glb", 64)
    return true, reshape.spoil(true, folder / "spoilt.glb")


def test_the_back_alone_is_spoilt(meshes):
    true, spoilt = (mesh.to_file(mesh.vertices) for mesh in map(read_mesh, meshes))
    front = true[:, 2] >= 0
    assert front.any() and np.allclose(spoilt[front], true[front], atol=1e-6)
    assert spoilt[:, 2].min() == pytest.approx(reshape.FLAT * true[:, 2].min(), abs=0.02)


def test_the_figures_notice(meshes):
    true, spoilt = (surface_error(reshape.solid_of(path), "mug", 0.0, 1.0) for path in meshes)
    assert true[0] < 0.002 and true[1] < 4  # world units, degrees: the exported toy itself
    assert spoilt[0] > 3 * true[0] and spoilt[1] > 3 * true[1]


def test_every_toy_and_seed_is_measured_and_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reshape, "reshape", lambda prompt, root, seed, steps, device: {"prompt": prompt, "seed": seed})
    out = tmp_path / "found.json"
    assert reshape.main(["a red mug", "a blue cube", "--seeds", "0", "3", "-o", str(out), "--threads", "1"]) == 0
    assert '"seed": 3' in out.read_text() and capsys.readouterr().out.count("\n") == 4
