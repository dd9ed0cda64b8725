"""Which runs `evaluate` looks at, and which of them it leaves out."""

from dataclasses import replace

import pytest
from support.imported_meshes import gray_box
from support.tiny_runs import TINY

from dreamfusion_ngp.base.errors import MeshError
from dreamfusion_ngp.config.presets import preset
from dreamfusion_ngp.evaluation import scoring
from dreamfusion_ngp.evaluation.evaluate import evaluate
from dreamfusion_ngp.optimise.volume import VolumeStage
from dreamfusion_ngp.runs.checkpoint import save_checkpoint
from dreamfusion_ngp.runs.texture import TextureStage


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A folder with a run of a volume, and one of an imported mesh whose file is no longer there."""
    box, config = gray_box(tmp_path / "box.glb"), preset("refine")
    config = replace(config, prompt="a red cube", texture=replace(config.texture, source=str(box), size=16))
    for name, stage in (("volume", VolumeStage(TINY, "cpu")), ("moved", TextureStage.start(config, "cpu"))):
        (tmp_path / "runs" / name).mkdir(parents=True)
        save_checkpoint(tmp_path / "runs" / name / "checkpoint.safetensors", stage)
    box.unlink()
    monkeypatch.setattr(scoring, "load_retrieval", lambda *_: None)
    for name in ("score", "attempt"):
        monkeypatch.setattr(scoring, name, lambda state, *_: ({"prompt": state.config.prompt, "seed": 0}, None))
    return tmp_path / "runs"


def test_a_run_whose_mesh_has_moved_is_left_out_of_several(runs):
    result = evaluate([runs], device="cpu")
    assert [record["prompt"] for record in result["runs"]] == ["a red mug"]
    (line,) = result["unread"]
    assert line.startswith(str(runs / "moved")) and "box.glb, the mesh of this run, is not there" in line
    with pytest.raises(MeshError, match="is not there"):
        evaluate([runs / "moved"], device="cpu")


def test_one_path_need_not_be_in_a_list(runs):
    for path in (runs / "volume", str(runs / "volume")):
        assert len(evaluate(path, device="cpu")["runs"]) == 1
