"""A training in several processes that is asked to stop: what is trained is saved, and nobody stays behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import support.train_tiny

from dreamfusion_ngp.toybox.prior.loop import read_log
from dreamfusion_ngp.toybox.prior.model import load_prior

SUPPORT = Path(support.train_tiny.__file__).parent


@pytest.fixture
def training(tmp_path):
    """A training of two processes that would last for hours, in a session of its own, after its first step."""
    path = os.pathsep.join(filter(None, (str(SUPPORT.parent), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, SUPPORT / "train_tiny.py", "--processes", "2", "--images", "1000000000", "-o", "prior"]
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        program = subprocess.Popen(
            command,
            cwd=tmp_path,
            stdout=out,
            stderr=err,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 200
        while "loss" not in (tmp_path / "out").read_text():
            assert program.poll() is None and time.monotonic() < deadline, (tmp_path / "err").read_text()
            time.sleep(0.05)
        yield program
    finally:
        for process in members(program.pid):
            os.kill(process, signal.SIGKILL)
        program.kill()
        program.wait()


def members(session: int) -> list[int]:
    """The processes of a session that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, sid = stat.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(sid) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found


def ended_with(program, folder: Path) -> tuple[int, str]:
    """-> its exit status and what it said of it. What is saved is whole, and it left no process."""
    code = program.wait(100)
    assert members(program.pid) == []
    load_prior(folder / "prior")
    log = read_log(folder / "prior")
    assert log["images"] >= 16 and log["images"] - log["loss"][-1][0] <= 16
    assert sorted(path.name for path in folder.iterdir()) == ["err", "out", "prior"]
    assert (folder / "out").read_text().splitlines()[-1].startswith("saved prior after ")
    return code, (folder / "err").read_text()


def test_sigterm_saves_what_is_trained_and_leaves_no_process(training, tmp_path):
    assert len(members(training.pid)) >= 3, "the command, two members, and what multiprocessing starts"
    os.kill(training.pid, signal.SIGTERM)
    assert ended_with(training, tmp_path) == (143, "stopped\n")


def test_a_signal_to_all_of_them_is_one(training, tmp_path):
    """As of a terminal's Ctrl-C, or of what ends a container."""
    os.killpg(training.pid, signal.SIGINT)
    assert ended_with(training, tmp_path) == (130, "stopped\n")


def test_members_whose_command_is_killed_save_and_go(training, tmp_path):
    os.kill(training.pid, signal.SIGKILL)
    deadline = time.monotonic() + 100
    while members(training.pid) and time.monotonic() < deadline:
        training.poll()
        time.sleep(0.05)
    assert ended_with(training, tmp_path) == (-signal.SIGKILL, "")
