"""The paper's table on prompts that are no toys, by models that the user gives."""

import json

import pytest
from support.tiny_clip import tiny_clip_folder
from support.tiny_latent import tiny_latent_folder
from support.tiny_multiview import tiny_mvdream_folder

from dreamfusion_ngp import cli
from dreamfusion_ngp.config.presets import preset
from dreamfusion_ngp.experiments.paper_rows import Request
from dreamfusion_ngp.experiments.paper_sheet import heading
from dreamfusion_ngp.experiments.paper_table import plan

CAPTIONS = ("a castle of sand", "a corgi in a hat")


@pytest.fixture
def captions(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("\n".join(CAPTIONS))
    return path


def planned(name: str, models: dict, captions, tmp_path):
    """The plan of the row with this name."""
    asked = Request(
        out=tmp_path / "table",
        runs=tmp_path / "runs",
        rows=(name,),
        captions=captions,
        models=tuple((kind, str(model)) for kind, model in models.items()),
        retrieval=(str(tiny_clip_folder(tmp_path / "clip")),),
    )
    (row,) = plan(asked)
    return row


@pytest.mark.parametrize("kind, name", [("sd", "sd21"), ("sdxl", "sdxl")])
def test_dreamfusion_has_the_preset_of_the_model_that_guides(kind, name, captions, tmp_path):
    """What a folder holds decides, as in `generate`."""
    row = planned("DreamFusion", {"diffusion": tiny_latent_folder(tmp_path / "model", kind)}, captions, tmp_path)
    assert row.tasks[0].config["preset"] == name and row.tasks[0].config["steps"] == preset(name, toys=False).steps


def test_a_model_of_another_kind_makes_no_row(captions, tmp_path):
    """Else a figure of one method would stand in the row of another."""
    (tmp_path / "views").mkdir()
    views, one = tiny_mvdream_folder(tmp_path / "views", "apart"), tiny_latent_folder(tmp_path / "one", "sd")
    clip = tiny_clip_folder(tmp_path / "clip")
    for name, kind, model, said in (
        ("DreamFusion", "diffusion", views, "--guidance {}: it is a model of several views at once; wanted is a diff"),
        ("Magic3D", "diffusion", clip, "--guidance {}: it is a CLIP; wanted is a diffusion model of one view"),
        ("MVDream", "multiview", one, "--multiview {}: it is a diffusion model of one view at a time; wanted is a mod"),
    ):
        row = planned(name, {kind: model}, captions, tmp_path)
        assert row.absent.startswith(said.format(model)) and not row.tasks
    assert planned("MVDream", {"multiview": views}, captions, tmp_path).tasks[0].config["preset"] == "mvdream"


def test_headings_of_long_prompts_differ():
    assert heading("a brown mushroom") == "brown\nmushroom" and heading("a castle") == "castle"
    assert heading("a corgi in a hat") == "corgi in\na hat" and heading("mug") == "mug"
    assert heading("a DSLR photo of a peacock on a surfboard") == "..on a\nsurfboard"


@pytest.mark.slow
def test_a_baseline_by_tiny_random_clips(captions, tmp_path, capsys):
    """A step of Dream Fields with its published numbers, guided by one random CLIP and scored by two."""
    guide, other = (tiny_clip_folder(tmp_path / name, seed) for seed, name in enumerate(("guide", "other")))
    words = ["experiments", "table", "-o", str(tmp_path / "t"), "--device", "cpu", "--captions", str(captions)]
    words += ["--clip", str(guide), "--retrieval", str(guide), str(other), "--prompts", "1", "--seeds", "1"]
    words += ["--shorten", "0.0001", "--rows", "Dream Fields", "MVDream"]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "1 runs, 0 done" in said and "MVDream: not measured: give --multiview MODEL" in said
    fields, absent = json.loads((tmp_path / "t" / "table.json").read_text())["rows"]
    (run,) = fields["runs"]
    assert run["prompt"] == CAPTIONS[0] and set(run["retrieval"]) == {str(guide), str(other)} and not absent["runs"]
    page = (tmp_path / "t" / "table.md").read_text()
    assert "among the captions of captions.txt" in page and "GT images: none" in page and "IQA real, other" in page
    row = next(line for line in page.splitlines() if line.startswith("| Dream Fields |"))
    assert row.count("(") == 2, "in brackets by the CLIP that guided"
