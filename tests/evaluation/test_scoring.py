"""Several runs together: means and spreads by hand, the table, the HTML sheet, the files of `evaluate`."""

import base64
import io
import json
import math
from dataclasses import replace

import pytest
import torch
from PIL import Image
from support.tiny_runs import TINY

from dreamfusion_ngp.base.errors import CheckpointError, ExportError, PromptError
from dreamfusion_ngp.evaluation import scoring
from dreamfusion_ngp.evaluation.evaluate import evaluate, evaluation_text
from dreamfusion_ngp.evaluation.figures import FIGURES
from dreamfusion_ngp.evaluation.judge import Judge, save_judge
from dreamfusion_ngp.evaluation.pictures import toy_pictures
from dreamfusion_ngp.evaluation.sheet import THUMBNAIL, html_sheet, thumbnails
from dreamfusion_ngp.optimise.volume import VolumeStage
from dreamfusion_ngp.runs.checkpoint import load_checkpoint, save_checkpoint
from dreamfusion_ngp.runs.folder import find_runs
from dreamfusion_ngp.toybox.world.shapes import COLORS


def test_means_worst_and_spreads_by_hand():
    records = [
        {"seed": s, "volumetric_iou": v, "extra_faces": e, "watertight": True, "psnr_256": 20 * v}
        for s, v, e in ((0, 0.5, 0), (0, 0.7, None), (1, 0.9, 2), (1, 0.9, None))
    ]
    found = scoring.summary(records)
    assert found["volumetric_iou"] == {
        "n": 4,
        "mean": pytest.approx(0.75),
        "worst": 0.5,
        "spread_runs": pytest.approx(math.sqrt((0.0625 + 0.0025 + 2 * 0.0225) / 3)),
        "spread_seeds": pytest.approx(0.3 / math.sqrt(2)),
    }
    assert found["extra_faces"] == {
        "n": 2,
        "mean": 1.0,
        "worst": 2.0,
        "spread_runs": pytest.approx(math.sqrt(2)),
        "spread_seeds": pytest.approx(math.sqrt(2)),
    }
    assert found["watertight"]["mean"] == 1 and "chamfer" not in found
    assert found["psnr_256"]["worst"] == 10
    assert scoring.summary(records[:1])["volumetric_iou"]["spread_seeds"] is None


def test_the_table_has_a_row_a_run_and_the_means():
    records = [{"prompt": "a mug", "seed": 3, "volumetric_iou": 0.5, "watertight": False, "chamfer": None}]
    lines = scoring.table(records, scoring.summary(records)).splitlines()
    assert lines[0].startswith("| prompt | seed | IoU |") and len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| a mug | 3 | 0.50 | - | - |") and " no |" in lines[2]
    assert [line.split("|")[1].strip() for line in lines[3:]] == ["mean", "± over seeds", "± over runs", "worst"]


class Oracle:
    """Says "a red mug" and "a mug" whatever it sees."""

    name = "oracle"

    def images(self, pictures):
        return torch.ones(len(pictures), 1)

    def texts(self, captions):
        return torch.tensor([[1.0 if c in ("a red mug", "a mug") else 0.0] for c in captions])


def test_the_judge_is_tried_on_the_true_toys_of_the_prompts():
    found = scoring.truth(Oracle(), ["a red mug", "a red mug", "a blue chair", "a mug"])
    assert found == {"prompts": 2, "r_precision_color": 0.5, "r_precision_geo": 0.5, "r_precision_albedo": 0.5}
    assert scoring.truth(Oracle(), ["a castle"], ["a castle", "a red mug"]) is None


def save_run(folder, prompt, seed):
    """A run that has not begun: a grey ball."""
    config = replace(TINY, prompt=prompt, seed=seed, field=replace(TINY.field, blob=("cone", 12.0, 0.3)))
    state = VolumeStage(config, "cpu")
    state.occupancy.update(state.field.density, 0, 0, full=True)
    folder.mkdir(parents=True)
    save_checkpoint(folder / "checkpoint.safetensors", state)
    return folder


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Two runs of a ball, scored with an untrained judge."""
    root = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        save_run(root / "all" / f"seed{seed}", "a red sphere", seed)
    save_judge(root / "judge.safetensors", Judge())
    result = evaluate([root / "all"], judge=root / "judge.safetensors", out=root / "out", device="cpu")
    return root, result


def test_evaluate_writes_what_it_returns(evaluated):
    root, result = evaluated
    assert json.loads((root / "out/evaluation.json").read_text()) == json.loads(json.dumps(result))
    assert next(iter(result)) == "judge" and result["judge"]["truth"]["prompts"] == 1, "its own score comes first"
    for record in result["runs"]:
        assert json.loads((root / "all" / f"seed{record['seed']}" / "evaluation.json").read_text()) == record
        assert set(record) == set(FIGURES) - {"failed"}, "every figure is explained"
        assert record["volumetric_iou"] > 0.6 and record["pieces"] == 1 and record["watertight"] is True
        assert record["extra_faces"] is None and record["judge"] == "toybox judge"
    assert result["figures"]["volumetric_iou"]["n"] == 2 and result["figures"]["chamfer"]["spread_seeds"] is not None
    assert (root / "out/table.md").read_text().count("a red sphere") == 2


def test_the_sheet_shows_every_run_and_explains_every_figure(evaluated):
    root, result = evaluated
    page = (root / "out/index.html").read_text()
    assert page.count("<img ") == 2 and all(f"<dt>{key}" in page for key in FIGURES)
    assert "http" not in page and "true toys of 1 prompts" in page
    data = page.split("base64,")[1].split('"')[0]
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (8 * THUMBNAIL, 2 * THUMBNAIL)


def test_a_run_without_a_result_counts_as_zero_and_a_damaged_one_is_left_out_both_are_errors_alone(tmp_path, evaluated):
    empty = save_run(tmp_path / "empty", "a blue cube", 0)
    state = load_checkpoint(empty / "checkpoint.safetensors", "cpu")
    state.field.b2.data.fill_(-100.0)  # of the density: exp of it
    save_checkpoint(empty / "checkpoint.safetensors", state)
    options = dict(judge=evaluated[0] / "judge.safetensors", device="cpu")
    with pytest.raises(ExportError):
        evaluate([empty], **options)
    damaged = save_run(tmp_path / "damaged", "a blue cube", 1)
    (damaged / "checkpoint.safetensors").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError):
        evaluate([damaged], **options)
    castle, sphere = save_run(tmp_path / "castle", "a castle", 0), evaluated[0] / "all" / "seed0"
    result = evaluate([damaged, empty, castle, sphere], out=tmp_path / "out", **options)
    record, other = result["runs"]
    unread, no_toy = result["unread"]
    assert str(damaged) in unread and str(castle) in no_toy and "--captions" in no_toy
    assert record["failed"] and record["volumetric_iou"] == 0 == record["r_precision_geo"] and "failed" not in other
    assert result["figures"]["volumetric_iou"]["mean"] == pytest.approx(other["volumetric_iou"] / 2)
    assert result["figures"]["chamfer"]["n"] == 1 and set(record) < set(FIGURES)
    assert (tmp_path / "out/index.html").read_text().count("<img ") == 1


def test_text_for_one_run_and_for_several(evaluated):
    _, result = evaluated
    assert evaluation_text(result).count("| a red sphere |") == 2
    one = evaluation_text({**result, "runs": result["runs"][:1]})
    assert "volumetric_iou " in one and "| a red sphere |" not in one and "toybox judge" in one


def test_prompts_of_any_other_model_need_captions(tmp_path):
    folder = save_run(tmp_path / "run", "a castle", 0)
    save_judge(tmp_path / "judge.safetensors", Judge())
    (tmp_path / "captions.txt").write_text("a castle\na boat\n")
    options = dict(device="cpu", judge=tmp_path / "judge.safetensors")
    with pytest.raises(PromptError, match="--captions"):
        evaluate([folder], **options)
    result = evaluate([folder], captions=tmp_path / "captions.txt", out=tmp_path / "out", **options)
    record = result["runs"][0]
    assert record["retrieved_geo"] in ("a castle", "a boat")
    assert record["pieces"] == 1 and "volumetric_iou" not in record
    assert result["judge"]["truth"] is None and "a castle" in (tmp_path / "out/index.html").read_text()


def test_prompts_are_text_in_the_sheet():
    record = {"prompt": "<script>", "seed": 0, "retrieved_color": "a <b>"}
    page = html_sheet(
        {"judge": None, "figures": {}, "runs": [record]},
        [thumbnails(toy_pictures("cube", COLORS["red"], resolution=16))],
    )
    assert "<script>" not in page and "a <b>" not in page and "&lt;script&gt;" in page


def test_runs_are_found_in_folders(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/checkpoint.safetensors").write_bytes(b"")
    expected = [(tmp_path / "a/b").resolve()]
    assert find_runs([tmp_path, tmp_path / "a/b", tmp_path / "a/b/checkpoint.safetensors"]) == expected
    with pytest.raises(CheckpointError, match="holds no"):
        find_runs([tmp_path / "a/none"])
