"""Runs of a comparison as processes: their folders and records, and what a full disk or a second command costs."""

import json
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from dreamfusion_ngp.base.errors import OutputError, UsageError
from dreamfusion_ngp.evaluation.figures import DEFINITIONS
from dreamfusion_ngp.experiments import run_task
from dreamfusion_ngp.experiments.pool import Runner
from dreamfusion_ngp.experiments.task import Task, captions_digest, finished
from dreamfusion_ngp.runs.folder import lock_run

TASK = Task("a red mug", 0, False, "", {}, "key", clips=(("clip", "digest"),))


class Ended:
    """A process that is no more."""

    def poll(self) -> int:
        return 1


def test_a_page_that_cannot_be_written_stops_no_run(tmp_path):
    said = []

    def full():
        raise OutputError("cannot write page: No space left on device")

    runner = Runner(SimpleNamespace(runs=tmp_path, hours=0), None, full, said.append)
    runner.running[Ended()] = TASK, time.monotonic()
    assert runner.settle(0, 1) == 1 and runner.unwritten
    assert "was not made (no message)" in said[0] and said[1].endswith("No space left on device; going on without it")


def test_prompts_of_a_list_have_folders_inside_that_of_the_runs(tmp_path):
    for prompt in ("a 1/2 scale model", "/etc/a mug", "../a mug", "a\\b", "a very long prompt " * 20):
        folder = Task(prompt, 0, False, "", {}, "key").folder(tmp_path)
        folder.mkdir()
        assert folder.resolve().parent == tmp_path
    assert TASK.folder(tmp_path).name == "a-red-mug-0-key"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"judge": 1}', '{"judge": null, "clips": 1}'])
def test_a_damaged_record_is_no_finished_run(tmp_path, text):
    TASK.folder(tmp_path).mkdir()
    (TASK.folder(tmp_path) / "run.json").write_text(text)
    assert finished(TASK, tmp_path, None) is None


def test_a_run_that_was_scored_among_other_captions_is_not_finished(tmp_path):
    asked = replace(TASK, clips=(), captions=("a castle", "a corgi"))
    record = {"judge": None, "definitions": DEFINITIONS, "captions": captions_digest(asked.captions)}
    asked.folder(tmp_path).mkdir()
    (asked.folder(tmp_path) / "run.json").write_text(json.dumps(record))
    assert finished(asked, tmp_path, None)
    assert finished(replace(asked, captions=(*asked.captions, "a boat")), tmp_path, None) is None
    assert finished(replace(asked, captions=()), tmp_path, None) is None


def test_one_process_at_a_time_makes_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(run_task, "end_with_the_caller", lambda: None)
    monkeypatch.setattr(run_task, "make", lambda *_: pytest.fail("it was made twice"))
    (tmp_path / "task.json").write_text('{"threads": 1}')
    with lock_run(tmp_path), pytest.raises(UsageError, match="in use by another process"):
        run_task.main(tmp_path)
