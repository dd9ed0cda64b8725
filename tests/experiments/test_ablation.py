"""benches/ablation.py: keys of runs, runs survive a kill, a measurement goes on where it was left."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.experiment_records import group_with, run_of

from dreamfusion_ngp.base.errors import UsageError
from dreamfusion_ngp.config.io import to_dict
from dreamfusion_ngp.config.presets import fast, preset
from dreamfusion_ngp.config.schema import RunConfig
from dreamfusion_ngp.evaluation.figures import DEFINITIONS
from dreamfusion_ngp.experiments import ablation, run_task
from dreamfusion_ngp.experiments.arms import Arm, config_of
from dreamfusion_ngp.experiments.groups import DEFAULT, GROUPS
from dreamfusion_ngp.experiments.pool import Runner
from dreamfusion_ngp.experiments.prompts import SIX
from dreamfusion_ngp.experiments.task import JUDGE, Task, differing, digest, settings_of, shortened, task_of, tasks_of

PAINTED = Arm("painted", "four sides in one picture", ("then.paint.views=4",), preset="textmesh")


def test_the_last_arm_of_the_paper_is_the_preset_and_shares_its_runs():
    last = config_of(GROUPS["paper"].arms[-1], "a red mug", 1)
    assert last == config_of(DEFAULT, "a red mug", 1) == replace(fast(), prompt="a red mug", seed=1)
    args = ablation.parsed([])
    keys = {
        task_of(GROUPS[name], arm, "a red mug", 0, args, ["prior"]).key
        for name, arm in (("paper", GROUPS["paper"].arms[-1]), ("scale", DEFAULT), ("views", DEFAULT))
    }
    assert len(keys) == 1
    other = {
        task_of(GROUPS["paper"], DEFAULT, "a red mug", 0, args, ["another prior"]).key,
        task_of(GROUPS["bars"], DEFAULT, "a red mug", 0, args, ["prior"]).key,
    }
    assert len(keys | other) == 3, "another prior, and a run whose time counts, are runs of their own"


def test_a_new_setting_at_its_default_changes_no_key():
    defaults = {"a": 1, "b": {"c": [0, 1], "d": None}}
    assert differing({"a": 1, "b": {"c": [0, 2], "d": None}}, defaults) == {"b": {"c": [0, 2]}}
    assert differing(defaults, defaults) == {}
    assert differing({**defaults, "e": 0}, {**defaults, "e": 0}) == {}
    assert differing({"a": None, "b": {}}, defaults) == {"a": None}


@pytest.mark.parametrize(
    ("weights", "group", "others"),
    [
        ("toybox-256", GROUPS["mesh"], {"magic3d, latent"}),
        ("toybox-depth", replace(GROUPS["textmesh"], arms=(DEFAULT, PAINTED)), {"painted"}),
    ],
    ids=["later", "painter"],
)
def test_the_weights_of_later_stages_and_of_painters_are_part_of_the_key(monkeypatch, weights, group, others):
    from dreamfusion_ngp.experiments import task as module

    args = ablation.parsed([])

    def keys():
        return {arm.name: task.key for arm, task in tasks_of(replace(group, prompts=SIX[:1]), args)}

    before, digest_of = keys(), module.weights_digest
    monkeypatch.setattr(module, "weights_digest", lambda path: "new" if path.name == weights else digest_of(path))
    after = keys()
    assert {name for name, key in before.items() if key != after[name]} == others


def test_defaults_of_a_later_stage_are_no_part_of_the_key():
    """A new setting at its default changes the key of no run, however many stages it has."""
    found = settings_of(to_dict(preset("magic3d")))
    assert found["then"]["kind"] == "mesh" and "then" not in found["then"] and "cuda_graphs" not in found["then"]
    assert settings_of(to_dict(preset("fast"))) == differing(to_dict(preset("fast")), to_dict(RunConfig()))


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
    tasks = {kind: task_of(GROUPS["limits"], arm, "a red torus", 0, args, [kind]) for kind, arm in arms.items()}
    assert set(tasks) == {"words", "camera"} and tasks["words"].key != tasks["camera"].key
    for kind, task in tasks.items():
        wanted = {
            "config": task.config,
            "whole": False,
            "oracle": kind,
            "device": "cpu",
            "threads": 1,
            "processes": 1,
            "began": time.time(),
        }
        made = run_task.make(wanted, tmp_path)
        assert load_checkpoint(tmp_path / made["checkpoint"], "cpu").step == 2 and not made["failed"]


@pytest.mark.parametrize("checkpoint", [None, "checkpoint.safetensors"], ids=["none", "before it diverged"])
def test_a_run_without_a_result_counts_as_zero(tmp_path, monkeypatch, checkpoint):
    monkeypatch.setattr(run_task, "load_checkpoint", lambda *_: pytest.fail("what is left of it was scored"))
    made = {"checkpoint": checkpoint, "failed": "the scene is empty"}
    task = {"judge": None, "device": "cpu", "config": {"prompt": "a red mug"}}
    record = run_task.score_run(made, task, tmp_path)
    assert record["failed"] and record["figures"]["volumetric_iou"] == 0 == record["figures"]["silhouette_iou"]
    assert record["figures"]["r_precision_geo"] is None and record["judge"] is None


def test_a_measurement_goes_on_where_its_file_was_left(tmp_path, monkeypatch):
    """Runs of the file that were made elsewhere are kept; by another judge or definition they are wanted again."""
    out, asked = tmp_path / "ablation.json", []
    words = ["--only", "paper", "--arms", "1", "--prompts", "1", "--runs", str(tmp_path / "runs"), "-o", str(out)]
    args, judge = ablation.parsed(words), digest(JUDGE)
    first, *others = (task for _, task in tasks_of(shortened(GROUPS["paper"], args), args))
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
    monkeypatch.setattr(Runner, "make_all", lambda self, todo, total: asked.append(todo) or True)

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


def test_a_call_for_fewer_runs_loses_none_of_the_file(tmp_path, monkeypatch):
    out, asked = tmp_path / "ablation.json", []
    words = ["--only", "paper", "--arms", "1", "--prompts", "1", "--runs", str(tmp_path / "runs"), "-o", str(out)]
    args = ablation.parsed(words)
    assert shortened(GROUPS["paper"], ablation.parsed([*words, "--seeds", "5"])).seeds == (0, 1, 2, 3, 4)
    tasks = [task for _, task in tasks_of(shortened(GROUPS["paper"], args), args)]
    more = {"definitions": DEFINITIONS, "machine": "elsewhere", "commit": "abc1234", "truth": None}
    runs = [run_of(task.prompt, task.seed, 0.5, key=task.key, **more) for task in tasks]
    monkeypatch.setattr(Runner, "make_all", lambda self, todo, total: asked.append(todo) or True)
    out.write_text(json.dumps({"groups": {"paper": group_with({"base": runs}, judge={"digest": digest(JUDGE)})}}))
    for some, left in ((["--seeds", "1"], 2), ([], 0)):
        assert ablation.main([*words, *some]) == 0
        group = json.loads(out.read_text())["groups"]["paper"]
        assert group["arms"][0]["runs"] == runs[: 3 - left] and group["others"] == runs[3 - left :]
    assert asked == [[], []], "nothing is made again"


class Ended:
    """A process that is no more."""

    def __init__(self, status: int):
        self.returncode = status

    def poll(self) -> int:
        return self.returncode


@pytest.mark.parametrize("status", [0, -signal.SIGABRT])
def test_a_run_whose_record_is_written_counts_however_its_process_ended(tmp_path, capsys, status):
    made, unmade = (Task("a red mug", seed, False, "", {}, "key", f"seed {seed}") for seed in (0, 1))
    figures = {"volumetric_iou": 0.5, "silhouette_iou": 0.6}
    for task in (made, unmade):
        task.folder(tmp_path).mkdir()
        (task.folder(tmp_path) / "log.txt").write_text("terminate called without an active exception\n")
    record = {"judge": None, "definitions": DEFINITIONS, "failed": "", "figures": figures}
    (made.folder(tmp_path) / "run.json").write_text(json.dumps(record))
    runner = Runner(SimpleNamespace(runs=tmp_path, hours=0), None, lambda: None)
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


@pytest.fixture
def run_here(tmp_path, monkeypatch, capfd):
    """Calls the command of `command` in this process; returns its exit code and what it has said."""
    monkeypatch.setitem(GROUPS, "paper", replace(GROUPS["paper"], prompts=("a red sphere",), seeds=(0,)))

    def run(*more: str) -> tuple[int, str]:
        capfd.readouterr()
        code = ablation.main([*TINY, "--runs", str(tmp_path / "runs"), "-o", str(tmp_path / "ablation.json"), *more])
        return code, capfd.readouterr().out

    handler = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, handler)


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
def test_killed_in_the_middle_it_goes_on_and_a_new_judge_scores_again(tmp_path, run_here):
    from dreamfusion_ngp.evaluation.judge import Judge, save_judge

    program = subprocess.Popen(command(tmp_path), stdout=subprocess.PIPE, text=True)
    wait_until(lambda: run_folders(tmp_path, "run.json") and len(run_folders(tmp_path, "task.json")) == 2)
    program.send_signal(signal.SIGTERM)
    assert program.wait(60) == 143 and "2 runs, 0 done" in program.stdout.read()
    (first,) = run_folders(tmp_path, "run.json")
    assert [len(arm["runs"]) for arm in group_of(tmp_path)["arms"]] == [1, 0] and group_of(tmp_path)["planned"] == 2
    gathered = (tmp_path / "ablation.json").read_text()
    (tmp_path / "ablation.json").unlink()
    assert run_here("--collect")[0] == 0
    assert (tmp_path / "ablation.json").read_text() == gathered
    assert len(run_folders(tmp_path, "run.json")) == 1, "the run that was stopped does not go on by itself"

    before = (first / "made.json").stat().st_mtime_ns
    code, said = run_here()
    assert code == 0 and "2 runs, 1 done" in said and "[2/2] + random views" in said, said
    group = group_of(tmp_path)
    assert all(run["picture"].startswith("data:image/jpeg;base64,") for arm in group["arms"] for run in arm["runs"])
    (base,), (wider,) = (arm["runs"] for arm in group["arms"])
    assert base["prompt"] == wider["prompt"] == "a red sphere" and base["seed"] == 0 and base["judge"] == "toybox judge"
    assert base["picture"] != wider["picture"] and 0 < base["volumetric_iou"] < 1
    assert group["shortened"] == {"steps": 3, "resolution": 16, "arms": 2}
    embedded = group["judge"]["digest"]
    assert embedded == digest(JUDGE) and group["judge"]["held_out"]["color"] > 0.9
    assert str(tmp_path) not in (tmp_path / "ablation.json").read_text(), "no path of this machine"

    save_judge(tmp_path / "judge.safetensors", Judge())
    code, said = run_here("--judge", str(tmp_path / "judge.safetensors"), "--processes", "2")
    assert code == 0 and "2 runs, 0 done" in said
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
