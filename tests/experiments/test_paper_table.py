"""The paper's table: its rows, what a run is made of, what is scored again, and its pages."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from support.tiny_clip import tiny_clip_folder

from dreamfusion_ngp import cli
from dreamfusion_ngp.base.errors import OutputError, UsageError
from dreamfusion_ngp.config.io import from_dict
from dreamfusion_ngp.config.presets import PRESETS
from dreamfusion_ngp.config.schema import RunConfig
from dreamfusion_ngp.evaluation.figures import DEFINITIONS
from dreamfusion_ngp.evaluation.pictures import Pictures
from dreamfusion_ngp.evaluation.sheet import thumbnails
from dreamfusion_ngp.experiments import ablation, paper_table
from dreamfusion_ngp.experiments.groups import GROUPS
from dreamfusion_ngp.experiments.paper_report import (
    Entries,
    differences,
    html_page,
    markdown_page,
    table_of,
    write_table,
)
from dreamfusion_ngp.experiments.paper_rows import ROWS, Request
from dreamfusion_ngp.experiments.paper_sheet import HEAD, MARGIN
from dreamfusion_ngp.experiments.paper_table import check_request, in_turn, make_table, plan, shortened
from dreamfusion_ngp.experiments.pool import Runner
from dreamfusion_ngp.experiments.task import JUDGE, captions_digest, digest, finished, tasks_of

KNOWN = digest(JUDGE)
RED, GRAY = torch.tensor([1.0, 0.0, 0.0]).expand(2, 96, 96, 3), torch.full((2, 96, 96, 3), 0.5)
PICTURE = thumbnails(Pictures(albedo=RED, lit=RED, clay=GRAY, opacity=RED[..., 0]))


def request(folder, **more):
    return Request(out=folder / "table", runs=folder / "runs", prompts=2, seeds=1, shorten=0.01, **more)


def recorded(task, request, iou=0.5, color=0.75, **more):
    """Leave the record of a finished run."""
    figures = {"volumetric_iou": iou, "mesh_chamfer": 0.02, "r_precision_color": color, "r_precision_geo": 0.25}
    machine = {"gpu": "", "machine": "2 cores", "versions": {"torch": "2"}, "commit": "abc1234"}
    truth = {"r_precision_color": 1.0, "r_precision_geo": 0.875}
    record = {
        "judge": {"name": "toybox judge", "digest": KNOWN},
        "truth": truth,
        "definitions": DEFINITIONS,
        "machine": machine,
        "seconds": 60.0,
        "peak_memory": 2_000_000_000,
        "failed": "",
        "diverged": False,
        "figures": figures,
        "clips": {name: {"digest": d, "truth": None, **figures, "clip_score": 25.0} for name, d in task.clips},
        "picture": PICTURE,
        **more,
    }
    folder = task.folder(request.runs)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(record))


def test_the_rows_are_the_papers_and_their_presets_are_there():
    assert ROWS[0].name == "Dream Fields" and len(ROWS) == 9
    assert all(row.preset in PRESETS and row.why for row in ROWS)
    assert all(row.public in ("", "model") or row.public in PRESETS for row in ROWS)
    assert {row.needs for row in ROWS} == {"", "clip", "diffusion", "multiview"}


def test_a_run_is_the_preset_with_its_own_prompt_and_steps(tmp_path):
    (found,) = plan(request(tmp_path, rows=("magic3d",)))
    task = found.tasks[0]
    config, preset = from_dict(RunConfig, task.config), PRESETS["magic3d"]()
    assert (config.prompt, config.seed, config.preset) == (paper_table.TWENTY_FOUR[0], 0, "magic3d")
    assert (config.steps, config.then.steps) == (round(preset.steps * 0.01), round(preset.then.steps * 0.01))
    assert found.guides == ("toybox", "toybox") and not found.absent and len(found.tasks) == 2
    (again,) = plan(request(tmp_path, rows=("Magic3D",), device="cpu", threads=2))
    assert [t.key for t in again.tasks] == [t.key for t in found.tasks], "where it runs is no other run"
    assert shortened(preset, 1.0) == preset
    for seeds, n in ((0, 3), (4, 4)):
        (row,) = plan(replace(request(tmp_path, rows=("Magic3D",)), seeds=seeds))
        assert {task.seed for task in row.tasks} == set(range(n))


def test_a_row_that_cannot_be_made_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(paper_table, "ROWS", (replace(ROWS[3], preset="of-tomorrow"), ROWS[4]))
    absent, there = plan(request(tmp_path))
    assert "unknown preset 'of-tomorrow'" in absent.absent and not absent.tasks and len(there.tasks) == 2
    assert in_turn([absent, there]) == list(there.tasks)
    with pytest.raises(UsageError, match="no row is called nerf; there are DreamFusion; DreamFusion, fast"):
        plan(request(tmp_path, rows=("nerf",)))


def test_prompts_of_a_file_need_models(tmp_path):
    captions, clip = tmp_path / "list.json", tiny_clip_folder(tmp_path / "clip")
    captions.write_text(json.dumps([{"prompt": "a castle"}, {"prompt": "a corgi"}]))
    with pytest.raises(UsageError, match="--retrieval MODEL"):
        plan(request(tmp_path, captions=captions))
    asked = request(tmp_path, captions=captions, retrieval=(str(clip),), models=(("clip", str(clip)),))
    found = {one.row.name: one for one in plan(asked)}
    fields = found["Dream Fields"]
    assert [t.prompt for t in fields.tasks] == ["a castle", "a corgi"] == list(fields.tasks[0].captions)
    assert fields.tasks[0].config["steps"] == 100 and fields.guides == (str(clip),)
    assert fields.tasks[0].clips[0][0] == str(clip)
    assert found["Dream Fields, by the judge"].absent == found["DreamFusion, fast"].absent == "toys only"
    assert found["DreamFusion"].absent == "give --guidance MODEL" and "--multiview" in found["MVDream"].absent


def test_finished_runs_are_not_made_again_and_a_new_clip_scores_them(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(Runner, "make_all", lambda self, todo, total: made.append(todo) or True)
    asked = request(tmp_path, rows=("DreamFusion, fast",))
    (row,) = plan(asked)
    recorded(row.tasks[0], asked)
    table = make_table(asked, say=lambda line: None)
    assert made == [[row.tasks[1]]] and len(table["rows"][0]["runs"]) == 1
    clip = tiny_clip_folder(tmp_path / "clip")
    (with_clip,) = plan(replace(asked, retrieval=(str(clip),)))
    assert with_clip.tasks[0].key == row.tasks[0].key, "who scores a run does not change it"
    assert finished(row.tasks[0], asked.runs, KNOWN) and not finished(with_clip.tasks[0], asked.runs, KNOWN)
    recorded(with_clip.tasks[0], asked)
    assert finished(with_clip.tasks[0], asked.runs, KNOWN)
    tiny_clip_folder(clip, seed=1)
    (changed,) = plan(replace(asked, retrieval=(str(clip),)))
    assert not finished(changed.tasks[0], asked.runs, KNOWN), "other weights under the same name"


def test_rows_share_the_runs_of_groups_with_the_same_settings(tmp_path):
    names = {"DreamFusion, fast": "preset", "Magic3D": "magic3d"}
    rows = plan(replace(request(tmp_path, rows=tuple(names)), shorten=1.0))
    group = {
        (arm.name, task.prompt): task
        for arm, task in tasks_of(replace(GROUPS["mesh"], seeds=(0,)), ablation.parsed([]))
    }
    for row in rows:
        for task in row.tasks:
            assert task.key == group[names[row.row.name], task.prompt].key


def test_a_table_goes_on_where_its_file_was_left(tmp_path, monkeypatch):
    """Runs of table.json that were made elsewhere are kept, also those of rows that nobody asks for now."""
    made = []
    monkeypatch.setattr(Runner, "make_all", lambda self, todo, total: made.append(todo) or True)
    asked = request(tmp_path, rows=("DreamFusion, fast", "Dream Fields, by the judge"))
    judged, fast = plan(asked)
    recorded(fast.tasks[1], asked)
    recorded(judged.tasks[0], asked)
    first = make_table(asked, say=str)
    elsewhere = replace(asked, runs=tmp_path / "other runs", rows=("DreamFusion, fast",))
    again = make_table(elsewhere, say=str)
    assert made == [[fast.tasks[0], judged.tasks[1]], [fast.tasks[0]]]
    assert again["rows"] == first["rows"] and [len(row["runs"]) for row in again["rows"]] == [1, 1]
    (other,) = make_table(replace(elsewhere, shorten=0.02), say=str)["rows"]
    assert other["runs"] == [] and len(made[-1]) == 2, "other settings are another table"


def test_a_table_says_what_keeps_its_rows_from_being_compared(tmp_path):
    asked = request(tmp_path, rows=("DreamFusion, fast", "MVDream"))
    fast, multiview = (replace(row, absent="") for row in plan(asked))
    for task in (*fast.tasks, *multiview.tasks):
        recorded(task, asked)
    assert not differences(write_table([fast, multiview], asked, KNOWN))
    table = write_table([replace(fast, tasks=fast.tasks[:1])], asked, KNOWN)
    assert differences(table) == ["**The rows are means over different prompts or seeds.**"]
    assert differences(table)[0] in markdown_page(table)
    for run in table["rows"][0]["runs"]:
        run["retrieval"]["judge"]["digest"] = "another"
        run["definitions"] = 1
    _, weights, meaning = differences(table)
    assert weights.startswith("**judge had other weights") and meaning.startswith("**IoU and Chamfer")


def test_rows_found_among_other_captions_are_another_table(tmp_path):
    captions, clip = tmp_path / "list.txt", tiny_clip_folder(tmp_path / "clip")
    rows, models = ("Dream Fields", "CLIP-Mesh"), (("clip", str(clip)),)
    asked = request(tmp_path, rows=rows, captions=captions, retrieval=(str(clip),), models=models)
    captions.write_text("a castle\na corgi\n")
    fields, mesh = plan(asked)
    for task in (fields.tasks[0], mesh.tasks[0]):
        recorded(task, asked, judge=None, captions=captions_digest(task.captions))
    assert [len(row["runs"]) for row in write_table([fields, mesh], asked, None)["rows"]] == [1, 1]
    assert [len(row["runs"]) for row in write_table([fields], asked, None)["rows"]] == [1, 1]
    captions.write_text("a castle\na corgi\na boat\n")
    more, _ = plan(asked)
    assert more.tasks[0].key == fields.tasks[0].key and not Entries(asked, None).of(more.tasks[0])
    (row,) = write_table([more], asked, None)["rows"]
    assert row["runs"] == []


def test_a_trial_loses_no_run_of_the_file(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(Runner, "make_all", lambda self, todo, total: made.append(todo) or True)
    asked = request(tmp_path, rows=("DreamFusion, fast",))
    (row,) = plan(asked)
    for task in row.tasks:
        recorded(task, asked)
    first = make_table(asked, say=str)
    elsewhere = replace(asked, runs=tmp_path / "other runs")
    for trial in (replace(elsewhere, prompts=1), replace(elsewhere, shorten=0.02)):
        assert sum(len(row["runs"]) for row in make_table(trial, say=str)["rows"]) == (trial.prompts == 1)
    assert make_table(elsewhere, say=str) == first and made[-1] == []
    damaged = first | {"others": [{}]}
    (asked.out / "table.json").write_text(json.dumps(damaged))
    with pytest.raises(UsageError, match="damaged or no table"):
        make_table(elsewhere, say=str)


def test_a_run_of_the_file_is_wanted_again_by_another_judge_and_by_a_new_clip(tmp_path):
    asked = request(tmp_path, rows=("DreamFusion, fast",))
    (row,) = plan(asked)
    recorded(row.tasks[0], asked)
    write_table([row], asked, KNOWN)
    elsewhere = replace(asked, runs=tmp_path / "other runs")
    assert Entries(elsewhere, KNOWN).of(row.tasks[0]) and not Entries(elsewhere, KNOWN).of(row.tasks[1])
    assert not Entries(elsewhere, "another").of(row.tasks[0])
    clip = tiny_clip_folder(tmp_path / "clip")
    (scored,) = plan(replace(elsewhere, retrieval=(str(clip),)))
    assert not Entries(elsewhere, KNOWN).of(scored.tasks[0])
    for text in ("{", "[]", '{"rows": [{"runs": [{}]}]}'):
        (asked.out / "table.json").write_text(text)
        with pytest.raises(UsageError, match="damaged or no table"):
            make_table(elsewhere, say=str)


def test_the_pages_say_what_was_measured(tmp_path):
    clip = tiny_clip_folder(tmp_path / "clip")
    asked = request(tmp_path, rows=("DreamFusion, fast", "Dream Fields, by the judge"), retrieval=(str(clip),))
    judged, fast = plan(asked)
    if judged.absent:  # an installation without toybox-clip
        judged = replace(judged, absent="")
    for task, color in zip(fast.tasks, (1.0, 0.5), strict=True):
        recorded(task, asked, color=color)
    for task in judged.tasks[:1]:
        recorded(task, asked, color=0.875, failed="the scene is empty", diverged=True)
    table = write_table([judged, fast], asked, KNOWN)
    assert table == json.loads((asked.out / "table.json").read_text()) and table["shorten"] == 0.01
    head, body = table_of(table)
    assert head[2:6] == ["judge Colour", "judge Geo", "clip Colour", "clip Geo"] and "CLIP score, clip" in head
    rows = {row[0]: dict(zip(head, row, strict=True)) for row in body}
    assert rows["GT images"]["judge Colour"] == "100.0" and rows["GT images"]["judge Geo"] == "87.5"
    assert (
        rows["DreamFusion, fast"]["judge Colour"] == "75.0 ± 35.4" and rows["DreamFusion, fast"]["IoU"] == "0.50 ± 0.00"
    )
    assert rows["DreamFusion, fast"]["memory, GB"] == "2.00 ± 0.00" and rows["DreamFusion, fast"]["runs"] == "2 of 2"
    grey = rows["Dream Fields, by the judge"]
    assert grey["judge Colour"] == "(87.5)" and grey["clip Colour"] == "87.5" and grey["diverged"] == "100 %"
    page, sheet = markdown_page(table), html_page(table)
    assert "**Shortened: steps times 0.01.**" in page and "<strong>Shortened: steps times 0.01.</strong>" in sheet
    assert "220 captions (Colour)" in page and "Sharp photo. / Blurry photo." in page
    assert "the scene is empty" in page and "| DreamFusion | 75.1 | 42.5 |" in page
    with Image.open(asked.out / "table.jpg") as picture:
        lit, clay = (picture.getpixel((MARGIN + 32, HEAD + y)) for y in (32, 96))
        assert picture.size == (MARGIN + 2 * 64, HEAD + 2 * 128)
    assert lit[0] > 230 and max(lit[1:]) < 20 and max(abs(value - 128) for value in clay) < 6
    assert sheet.count(f'<img src="{PICTURE}"') == 3 and "<td>(87.5)</td>" in sheet


def test_what_cannot_be_is_one_line(tmp_path, capsys):
    for words in (
        ["--hours", "nan"],
        ["--hours", "-1"],
        ["--shorten", "0"],
        ["--prompts", "0"],
        ["--guidance", "sd21"],
        ["--judge", str(tmp_path / "none")],
    ):
        assert cli.main(["experiments", "table", "-o", str(tmp_path / "t"), *words]) == UsageError.exit_code
    assert capsys.readouterr().err.count("\n") == 6 and not (tmp_path / "t").exists()
    with pytest.raises(UsageError, match="--threads"):
        check_request(request(tmp_path, threads=0))


def test_a_folder_that_cannot_be_written_is_known_before_the_first_run(tmp_path, monkeypatch):
    monkeypatch.setattr(Runner, "make_all", lambda *_: pytest.fail("a run was made"))
    (tmp_path / "table").write_text("a file")
    with pytest.raises(OutputError, match=f"cannot write {tmp_path / 'table'}"):
        make_table(request(tmp_path, rows=("Dream Fields",)), say=str)


@pytest.mark.slow
def test_a_row_from_end_to_end(tmp_path, capsys):
    """A volume that the judge pulls, for a few steps, scored by the judge and by a random CLIP."""
    clip = tiny_clip_folder(tmp_path / "clip")
    words = ["--prompts", "1", "--seeds", "1", "--shorten", "0.002", "--retrieval", str(clip)]
    rows = ["--rows", "Dream Fields, by the judge"]
    where = ["-o", str(tmp_path / "t"), "--device", "cpu"]
    assert cli.main(["experiments", "table", *where, *words, *rows]) == 0
    said = capsys.readouterr().out
    assert "1 runs, 0 done" in said and "| Dream Fields, by the judge | 1 of 1 |" in said
    (row,) = json.loads((tmp_path / "t" / "table.json").read_text())["rows"]
    (run,) = row["runs"]
    assert run["peak_memory"] > 1e8 and set(run["retrieval"]) == {"judge", str(clip)} and run["picture"]
    assert 0 <= run["retrieval"][str(clip)]["iqa_real"] <= 1 and run["retrieval"]["judge"]["truth"]
    assert cli.main(["experiments", "table", *where, *words, *rows]) == 0
    assert "1 runs, 1 done" in capsys.readouterr().out
