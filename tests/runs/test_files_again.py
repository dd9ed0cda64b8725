"""The mesh files of a finished run, made again."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from support.tiny_runs import TINY

from dreamfusion_ngp.optimise.volume import VolumeStage
from dreamfusion_ngp.runs.checkpoint import save_checkpoint
from dreamfusion_ngp.runs.folder import remember_files
from dreamfusion_ngp.runs.outputs import check_options, export
from dreamfusion_ngp.scene.fields import HashField


@pytest.fixture
def folder(tmp_path):
    """A run of a ball that was asked for an STL of 30 mm that stands on the ground."""
    state = VolumeStage(replace(TINY, field=replace(TINY.field, blob=("cone", 12.0, 0.3))), "cpu")
    save_checkpoint(tmp_path / "checkpoint.safetensors", state)
    remember_files(tmp_path, {"formats": ("stl",), "size": 30.0, "origin": "base"})
    return tmp_path


def test_an_export_makes_the_files_that_the_run_was_asked_for(folder):
    made = export(folder, resolution=24, device="cpu")
    assert list(made) == ["stl"]
    bounds = trimesh.load(made["stl"]).bounds
    assert np.ptp(bounds, axis=0).max() == pytest.approx(30, rel=1e-5)
    assert bounds[0, 2] == pytest.approx(0, abs=1e-4)


def test_what_an_export_is_given_goes_before(folder):
    made = export(folder, ("ply",), origin="centre", resolution=24, device="cpu")
    assert list(made) == ["ply"]
    assert np.abs(trimesh.load(made["ply"]).bounds.sum(0)).max() < 1e-5


def test_loose_pieces_that_are_left_out_are_announced(folder, monkeypatch, caplog):
    """Two balls, the smaller with an eighth of the volume: a pair of anything would lose one unnoticed."""

    def two(field, x):
        near = [(x - torch.tensor([at, 0.0, 0.0])).norm(dim=-1) - radius for at, radius in ((-0.3, 0.3), (0.45, 0.15))]
        return torch.exp(-40 * torch.minimum(*near))

    for name, value in (("density", two), ("solid", two), ("level", 1.0)):
        monkeypatch.setattr(HashField, name, value)
    options = {"resolution": 32, "device": "cpu"}
    with caplog.at_level("INFO", "dreamfusion_ngp"):
        export(folder, **options, keep_all=True)
        assert "loose pieces" not in caplog.text
        export(folder, **options)
    assert "loose pieces, 11 % of the volume, are left out of the mesh; export --keep-all" in caplog.text


def test_a_size_is_pointed_out_where_no_file_has_it(caplog):
    with caplog.at_level("INFO", "dreamfusion_ngp"):
        check_options(TINY, {"size": 30.0, "formats": ("glb", "stl")})
        assert not caplog.messages
        check_options(TINY, {"size": 30.0})
    assert "--size is the size of an STL" in caplog.text
