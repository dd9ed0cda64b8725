"""benches/ablation.py: arms differ in what they claim, runs survive a kill, the report's arithmetic."""

import json
import re
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

from dreamfusion_ngp.base.errors import UsageError
from dreamfusion_ngp.config.schema import check_config, fast
from dreamfusion_ngp.experiments import ablation, run_task
from dreamfusion_ngp.experiments import report as written
from dreamfusion_ngp.experiments.groups import DEFAULT, GROUPS, SIX, TWENTY_FOUR, arguments, config_of
from dreamfusion_ngp.scene.lights import ALBEDO, LAMBERTIAN, TEXTURELESS
from dreamfusion_ngp.toybox.world.captions import parse_prompt, subject
from dreamfusion_ngp.toybox.world.shapes import CLASSES, COLORS, DIRECTIONAL

BENCHES = Path(__file__).resolve().parents[2] / "benches"
PAPER = {arm.name: arm for arm in GROUPS["paper"].arms}


def looked_at(arm, prompt="a red mug", parts=100):
    """(captions, shading modes, elevations in degrees, focal lengths) of the views of a run, evenly over its length."""
    from dreamfusion_ngp.guidance.texts import branches
    from dreamfusion_ngp.scene.views import sample_views

    config, random = config_of(arm, prompt, 0), np.random.default_rng(0)
    views = [sample_views(config.camera, config.light, config.views, k / parts, random) for k in range(parts)]
    captions = {text for v in views for text in branches(config.guidance, prompt, v).texts[1].ravel()}
    return (
        captions,
        {int(m) for v in views for m in v.modes},
        np.rad2deg(np.concatenate([v.cameras.elevation for v in views])),
        np.concatenate([v.cameras.focal for v in views]),
    )


def test_the_papers_arms_add_one_thing_each():
    base, views, words, lit, whole = (looked_at(arm) for arm in GROUPS["paper"].arms)
    assert base[0] == views[0] == {"a red mug"}, "one caption, from wherever it is seen"
    assert len(words[0]) > 8 and any("az180" in text for text in words[0])
    assert base[2].min() >= 0 and base[2].max() <= 30 and np.ptp(base[3]) == 0
    assert views[2].max() > 75 and views[2].min() < 0 and np.ptp(views[3]) > 0.2
    assert base[1] == views[1] == words[1] == {ALBEDO}
    assert lit[1] == {ALBEDO, LAMBERTIAN} and whole[1] == {ALBEDO, LAMBERTIAN, TEXTURELESS}
    assert not any("clay" in text for text in lit[0]) and any("clay" in text for text in whole[0])


def test_the_last_arm_of_the_paper_is_the_preset_and_shares_its_runs():
    last = config_of(GROUPS["paper"].arms[-1], "a red mug", 1)
    assert last == config_of(DEFAULT, "a red mug", 1) == replace(fast(), prompt="a red mug", seed=1)
    args = ablation.parsed([])
    keys = {
        ablation.task_of(GROUPS[name], arm, "a red mug", 0, args, "prior").key
        for name, arm in (("paper", GROUPS["paper"].arms[-1]), ("scale", DEFAULT), ("views", DEFAULT))
    }
    assert len(keys) == 1
    other = {
        ablation.task_of(GROUPS["paper"], DEFAULT, "a red mug", 0, args, "another prior").key,
        ablation.task_of(GROUPS["bars"], DEFAULT, "a red mug", 0, args, "prior").key,
    }
    assert len(keys | other) == 3, "another prior, and a run whose time counts, are runs of their own"


def test_a_new_setting_at_its_default_changes_no_key():
    defaults = {"a": 1, "b": {"c": [0, 1], "d": None}}
    assert ablation.differing({"a": 1, "b": {"c": [0, 2], "d": None}}, defaults) == {"b": {"c": [0, 2]}}
    assert ablation.differing(defaults, defaults) == {}
    assert ablation.differing({**defaults, "e": 0}, {**defaults, "e": 0}) == {}
    assert ablation.differing({"a": None, "b": {}}, defaults) == {"a": None}


@pytest.mark.parametrize("name", GROUPS)
def test_every_arm_is_a_setting_of_its_own_that_is_accepted(name):
    configs = [config_of(arm, GROUPS[name].prompts[0], 0) for arm in GROUPS[name].arms]
    for config in configs:
        check_config(config)
    different = {(repr(config), arm.oracle) for config, arm in zip(configs, GROUPS[name].arms, strict=True)}
    assert len(different) == len(configs) == len({arm.name for arm in GROUPS[name].arms})
    pictures = {config.steps * config.views * config.accumulate for config in configs}
    assert len(pictures) == 1 or name in ("limits", "preset"), "arms see equally many pictures"
    assert all(arm.why for arm in GROUPS[name].arms)


def test_what_the_arms_say_of_the_preset_is_so():
    preset, prior = config_of(DEFAULT, "a red mug", 0), ablation.PRIOR / "dreamfusion_ngp.json"
    assert preset.views == 4 and preset.camera.stratified_azimuth and preset.guidance.scale is None
    assert json.loads(prior.read_text())["guidance_scale"] == 2.5 and preset.guidance.weighting == "clean"
    assert (preset.guidance.t_range[1], preset.guidance.t_max_end, preset.guidance.t_window) == (0.998, 0.998, 0.16)
    paper = config_of(GROUPS["preset"].arms[0], "a red mug", 0)
    assert paper.preset == "dreamfusion" and paper.field.levels == 16 and paper.steps == preset.steps


def test_two_views_are_antipodal_and_independent_ones_are_not():
    from dreamfusion_ngp.scene.cameras import sample_cameras

    arms = {arm.name: config_of(arm, "a red mug", 0) for arm in GROUPS["antipodal"].arms}
    for name, opposite in (("2 views", True), ("2 independent", False)):
        gaps = [
            float(np.ptp(sample_cameras(arms[name].camera, 2, np.random.default_rng(s)).azimuth.numpy()))
            for s in range(20)
        ]
        assert all(abs(gap - np.pi) < 1e-5 for gap in gaps) == opposite


def test_the_twenty_four_were_drawn_by_a_fixed_seed():
    random = Random(5)

    def drawn(items):
        return sorted(items, key=lambda _: random.random())

    classes, colors = drawn(CLASSES) + drawn(CLASSES), drawn(COLORS) * 3
    assert tuple(subject(name, color) for name, color in list(zip(classes, colors, strict=False))[:24]) == TWENTY_FOUR
    assert len(set(TWENTY_FOUR)) == 24 and {parse_prompt(p)[0] for p in TWENTY_FOUR} == set(CLASSES)
    assert sum(parse_prompt(p)[0] in DIRECTIONAL for p in SIX) >= 4


def test_the_command_of_a_run_is_what_was_run():
    words = arguments(PAPER["base"], "a red mug", 3, steps=100, resolution=32)
    assert words[:6] == ["generate", "a red mug", "--preset", "fast", "--seed", "3"]
    config = config_of(PAPER["base"], "a red mug", 3, steps=100, resolution=32)
    assert (config.steps, config.render.resolution, config.seed) == (100, 32, 3)
    assert arguments(DEFAULT, "a red mug", 0) == ["generate", "a red mug", "--preset", "fast", "--seed", "0"]
    assert config_of(GROUPS["views"].arms[0], "a red mug", 0, steps=100).steps == 400


def test_what_cannot_be_done_is_one_line(capsys, tmp_path):
    assert ablation.main(["--steps", "0"]) == UsageError.exit_code
    assert ablation.main(["--judge", str(tmp_path / "none")]) == UsageError.exit_code
    assert capsys.readouterr().err.count("\n") == 2
    with pytest.raises(SystemExit):
        ablation.main(["--only", "nothing"])


def test_an_oracle_takes_the_place_of_the_prior(tmp_path, monkeypatch):
    from dreamfusion_ngp.runs.checkpoint import load_checkpoint

    def refused(*_):
        raise AssertionError("the prior was loaded")

    monkeypatch.setattr(run_task, "load_guidance", refused)
    arms = {arm.oracle: arm for arm in GROUPS["limits"].arms if arm.oracle}
    args = ablation.parsed(["--steps", "2", "--resolution", "16"])
    tasks = {kind: ablation.task_of(GROUPS["limits"], arm, "a red torus", 0, args, "p") for kind, arm in arms.items()}
    assert set(tasks) == {"words", "camera"} and tasks["words"].key != tasks["camera"].key
    for kind, task in tasks.items():
        wanted = {"config": task.config, "whole": False, "oracle": kind, "device": "cpu", "threads": 1, "processes": 1}
        made = run_task.make(wanted, tmp_path)
        assert load_checkpoint(tmp_path / made["checkpoint"], "cpu").step == 2 and not made["failed"]


def test_a_run_without_a_result_counts_as_zero(tmp_path):
    made = {"checkpoint": None, "failed": "the scene is empty"}
    task = {"judge": None, "device": "cpu", "config": {"prompt": "a red mug"}}
    record = run_task.scored(made, task, tmp_path)
    assert record["failed"] and record["figures"]["volumetric_iou"] == 0 == record["figures"]["silhouette_iou"]
    assert record["figures"]["r_precision_geo"] is None and record["judge"] is None


def test_a_measurement_goes_on_where_its_file_was_left(tmp_path, monkeypatch):
    """Runs of the file that were made elsewhere are kept; by another judge or definition they are wanted again."""
    from dreamfusion_ngp.evaluation.report import DEFINITIONS

    out, asked = tmp_path / "ablation.json", []
    words = ["--only", "paper", "--arms", "1", "--prompts", "1", "--runs", str(tmp_path / "runs"), "-o", str(out)]
    args, judge = ablation.parsed(words), ablation.digest(ablation.JUDGE)
    prior = ablation.digest(*sorted(ablation.PRIOR.rglob("*.safetensors")))
    first, *others = (task for _, task in ablation.tasks_of(ablation.shortened(GROUPS["paper"], args), args, prior))
    run = run_of(
        first.prompt,
        0,
        0.5,
        key=first.key,
        definitions=DEFINITIONS,
        machine="elsewhere",
        commit="abc1234",
        truth={"r_precision_color": 1.0},
    )
    monkeypatch.setattr(ablation.Runner, "run", lambda self, todo, total: asked.append(todo) or True)

    def leave(judge, **more):
        arms = {"base": [run | more]}
        out.write_text(json.dumps({"groups": {"paper": group_with(arms, judge={"digest": judge})}}))
        assert ablation.main(words) == 0
        return json.loads(out.read_text())["groups"]["paper"]

    group = leave(judge)
    assert asked.pop() == others and group["arms"][0]["runs"] == [run] and group["planned"] == 3
    assert group["machines"] == ["elsewhere"] and group["judge"] == {"digest": judge}
    assert group["truth"] == {"r_precision_color": 1.0, "prompts": 1}
    leave("another")
    leave(judge, definitions=DEFINITIONS - 1)
    assert asked == [[first, *others]] * 2


class Ended:
    """A process that is no more."""

    def __init__(self, status: int):
        self.returncode = status

    def poll(self) -> int:
        return self.returncode


@pytest.mark.parametrize("status", [0, -signal.SIGABRT])
def test_a_run_whose_record_is_written_counts_however_its_process_ended(tmp_path, capsys, status):
    made, unmade = (ablation.Task("a red mug", seed, False, "", {}, "key", f"seed {seed}") for seed in (0, 1))
    figures = {"volumetric_iou": 0.5, "silhouette_iou": 0.6}
    for task in (made, unmade):
        task.folder(tmp_path).mkdir()
        (task.folder(tmp_path) / "log.txt").write_text("terminate called without an active exception\n")
    record = {"judge": None, "definitions": ablation.DEFINITIONS, "failed": "", "figures": figures}
    (made.folder(tmp_path) / "run.json").write_text(json.dumps(record))
    runner = ablation.Runner(SimpleNamespace(runs=tmp_path, hours=0), None, lambda: None)
    for task in (made, unmade):
        runner.running[Ended(status)] = task, time.monotonic()
    assert runner.settle(0, 2) == 2 and runner.failures == [unmade]
    assert "IoU 0.50" in capsys.readouterr().out


PROGRAM = """
import sys
from dataclasses import replace
from dreamfusion_ngp.experiments import ablation
ablation.GROUPS["paper"] = replace(ablation.GROUPS["paper"], prompts=("a red sphere",), seeds=(0,))
sys.exit(ablation.main(sys.argv[1:]))
"""
TINY = ["--only", "paper", "--steps", "3", "--resolution", "16", "--arms", "2"]


def command(place: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        "-c",
        PROGRAM,
        *TINY,
        "--runs",
        str(place / "runs"),
        "-o",
        str(place / "ablation.json"),
        *more,
    ]


def wait_until(true, seconds=600):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.05)


def run_folders(place: Path, holds: str) -> list[Path]:
    return sorted(path.parent for path in (place / "runs").glob(f"*/{holds}"))


def group_of(place: Path) -> dict:
    return json.loads((place / "ablation.json").read_text())["groups"]["paper"]


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_and_a_new_judge_scores_again(tmp_path):
    from dreamfusion_ngp.evaluation.judge import Judge, save_judge

    program = subprocess.Popen(command(tmp_path), stdout=subprocess.PIPE, text=True)
    wait_until(lambda: run_folders(tmp_path, "run.json") and len(run_folders(tmp_path, "task.json")) == 2)
    program.send_signal(signal.SIGTERM)
    assert program.wait(60) == 143 and "2 runs, 0 done" in program.stdout.read()
    (first,) = run_folders(tmp_path, "run.json")
    assert [len(arm["runs"]) for arm in group_of(tmp_path)["arms"]] == [1, 0] and group_of(tmp_path)["planned"] == 2
    gathered = (tmp_path / "ablation.json").read_text()
    (tmp_path / "ablation.json").unlink()
    assert subprocess.run(command(tmp_path, "--collect"), timeout=120).returncode == 0
    assert (tmp_path / "ablation.json").read_text() == gathered
    assert len(run_folders(tmp_path, "run.json")) == 1, "the run that was stopped does not go on by itself"

    before = (first / "made.json").stat().st_mtime_ns
    again = subprocess.run(command(tmp_path), capture_output=True, text=True, timeout=1200)
    assert again.returncode == 0 and "2 runs, 1 done" in again.stdout and "[2/2] + random views" in again.stdout
    group = group_of(tmp_path)
    assert all(run["picture"].startswith("data:image/jpeg;base64,") for arm in group["arms"] for run in arm["runs"])
    (base,), (wider,) = (arm["runs"] for arm in group["arms"])
    assert base["prompt"] == wider["prompt"] == "a red sphere" and base["seed"] == 0 and base["judge"] == "toybox judge"
    assert base["picture"] != wider["picture"] and 0 < base["volumetric_iou"] < 1
    assert group["shortened"] == {"steps": 3, "resolution": 16, "arms": 2}
    embedded = group["judge"]["digest"]
    assert embedded == ablation.digest(ablation.JUDGE) and group["judge"]["held_out"]["color"] > 0.9
    assert str(tmp_path) not in (tmp_path / "ablation.json").read_text(), "no path of this machine"

    save_judge(tmp_path / "judge.safetensors", Judge())
    judged = subprocess.run(
        command(tmp_path, "--judge", str(tmp_path / "judge.safetensors"), "--processes", "2"),
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert judged.returncode == 0 and "2 runs, 0 done" in judged.stdout
    assert (first / "made.json").stat().st_mtime_ns == before, "nothing was made again"
    group = group_of(tmp_path)
    assert 0 <= group["arms"][0]["runs"][0]["r_precision_geo"] <= 1 and group["judge"]["digest"] != embedded
    assert group["truth"]["prompts"] == 1 and group["arms"][0]["runs"][0]["volumetric_iou"] == base["volumetric_iou"]


@pytest.mark.slow
def test_when_the_time_is_over_nothing_is_left_running(tmp_path):
    began = time.monotonic()
    done = subprocess.run(command(tmp_path, "--hours", "0.0002"), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "the time is over" in done.stdout and time.monotonic() - began < 60
    assert run_folders(tmp_path, "task.json") and not run_folders(tmp_path, "run.json")


def run_of(prompt, seed, iou, **more):
    return {
        "prompt": prompt,
        "seed": seed,
        "seconds": 100.0,
        "failed": "",
        "volumetric_iou": iou,
        "silhouette_iou": 0.9,
        "chamfer": 0.02,
        "color_error": 0.1,
        "extra_faces": None,
        "r_precision_color": None,
        "r_precision_geo": None,
        "r_precision_albedo": None,
        **more,
    }


def group_with(arms: dict, **more) -> dict:
    return {
        "command": "python benches/ablation.py",
        "date": "2026-11-22",
        "shortened": {},
        "commits": ["abc1234"],
        "machines": ["2 cores, kernels plain, torch 2.13.0"],
        "threads": 2,
        "processes": 1,
        "planned": sum(map(len, arms.values())),
        "judge": None,
        "truth": None,
        "prior": "a" * 12,
        "arms": [{"name": name, "why": "because", "runs": runs} for name, runs in arms.items()],
        **more,
    }


def report_of(place: Path, groups: dict) -> str:
    (place / "ablation.json").write_text(json.dumps({"groups": groups}))
    written.main(["--results", str(place / "ablation.json"), "-o", str(place)])
    return (place / "evaluation.md").read_text()


def test_arms_are_compared_on_the_same_prompts_and_seeds(tmp_path):
    base = [
        run_of("a red mug", 0, 0.5, picture="data:image/jpeg;base64,x"),
        run_of("a red mug", 1, 0.7),
        run_of("a blue boat", 0, 0.1, picture=""),
    ]
    more = [run_of("a red mug", 1, 0.9), run_of("a red mug", 0, 0.6)]
    text = report_of(tmp_path, {"paper": group_with({"base": base, "+ random views": more})})
    rows = [line for line in text.splitlines() if line.startswith(("| base", "| + random"))]
    assert rows[0].split(" | ")[5] == f"0.60 ± {statistics.stdev([0.5, 0.7]):.2f}", "the boat has no partner"
    assert rows[1].split(" | ")[7] == f"+0.150 ± {statistics.stdev([0.1, 0.2]) / 2**0.5:.3f}"
    assert "R-Precision was not measured" in text and rows[0].split(" | ")[2] == ""
    picture = ElementTree.parse(tmp_path / "evaluation" / "ablation.svg")
    words = [element.text for element in picture.iter() if element.tag.endswith("text")]
    sheet = (tmp_path / "evaluation" / "paper.svg").read_text()
    assert sheet.count("<image ") == 1 and ">a blue boat<" in sheet and ElementTree.fromstring(sheet) is not None
    assert "volumetric IoU" in words and "+ random views" in words and "R-Precision Geo" not in words


def test_the_bars_are_judged_by_hand(tmp_path):
    good = dict(r_precision_color=1.0, r_precision_geo=0.875, r_precision_albedo=1.0)
    runs = [run_of("a red mug", 0, 0.9, extra_faces=1, **good), run_of("a blue boat", 0, 0.41, extra_faces=0, **good)]
    judge = {"name": "toybox judge", "digest": "0" * 12, "images": 1000, "held_out": {"color": 0.99, "geo": 0.97}}
    truth = {"r_precision_color": 1.0, "r_precision_geo": 0.95, "r_precision_albedo": 1.0}
    group = group_with({"preset": runs}, judge=judge, truth=truth)

    def verdicts(**more):
        text = report_of(tmp_path, {"bars": {**group, **more}})
        return {
            m[1]: (float(m[2]), m[3])
            for m in re.finditer(
                r"^\| ([^|]+) \| at (?:most|least) [\d.]+ \| ([\d.]+) \| (.+?) \|$", text, re.MULTILINE
            )
        }

    found = verdicts()
    assert found["mean volumetric IoU"] == (0.655, "met") and found["lowest volumetric IoU"] == (0.41, "met")
    assert found["extra faces, of classes with a front"] == (1, "**missed**") and found["R-Precision Geo"][1] == "met"
    assert found["longest wall time, seconds"] == (100, "met") and len(found) == 8
    assert {v for _, v in verdicts(shortened={"steps": 600}).values()} == {"not judged: shortened"}
    assert {v for _, v in verdicts(planned=24).values()} == {"not judged: 2 of 24 runs"}
    assert "two cores" in verdicts(threads=3)["longest wall time, seconds"][1]
    assert verdicts(threads=1, processes=2)["longest wall time, seconds"] == (100, "met")


def test_a_group_of_earlier_weights_is_marked(tmp_path):
    runs = {"preset": [run_of("a red mug", 0, 0.9)]}
    groups = {"bars": group_with(runs), "scale": group_with(runs), "views": group_with(runs, prior="b" * 12)}
    text = report_of(tmp_path, groups)
    assert text.count("prior aaaaaaaaaaaa. ") == 2
    assert text.count("prior bbbbbbbbbbbb, **not the weights of the twenty-four toys**. ") == 1


def test_without_figures_the_report_says_so(tmp_path):
    text = report_of(tmp_path, {})
    assert text.count("Not measured yet.") == len(GROUPS) and "R-Precision" in text
    assert not (tmp_path / "evaluation").exists()


def test_committed_report_is_that_of_the_committed_json(tmp_path):
    docs = BENCHES.parent / "docs"
    if not (docs / "evaluation.md").is_file():
        pytest.skip("docs/ is not here")
    subprocess.run([sys.executable, str(BENCHES / "evaluation_report.py"), "-o", str(tmp_path)], check=True)
    assert (tmp_path / "evaluation.md").read_text() == (docs / "evaluation.md").read_text()
    for picture in (tmp_path / "evaluation").glob("*.svg"):
        assert picture.read_text() == (docs / "evaluation" / picture.name).read_text()


def test_the_text_on_the_metrics_has_their_numbers():
    from dreamfusion_ngp.evaluation import faces, pictures, silhouettes, surface, volume

    text = {name: definition for name, definition, _, _ in written.METRICS}
    assert "by {} to {}".format(*volume.SCALES) in text["Volumetric IoU"]
    low, middle, high = (f"{e:.0f}" for e in silhouettes.ELEVATIONS)
    assert f"{low}, {middle} and {high} degrees" in text["Silhouette IoU"]
    assert f"of {surface.POINTS} points" in text["Chamfer distance"] and f"{faces.DOUBT:.0%}" == "4%"
    assert f"at {pictures.ELEVATION:.0f} degrees" in text["R-Precision"] and len(pictures.AZIMUTHS) == 8
    assert f"among {len(CLASSES) * len(COLORS)} ({len(CLASSES)} toys in {len(COLORS)} colours)" in text["R-Precision"]
