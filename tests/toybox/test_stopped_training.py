"""A training in several processes that is asked to stop: what is trained is saved, and nobody stays behind."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import support.train_tiny

from dreamfusion_ngp.toybox.prior.loop import read_log
from dreamfusion_ngp.toybox.prior.model import load_prior

SUPPORT = Path(support.train_tiny.__file__).parent
GROUP = """
import signal
from pathlib import Path
from support.members import save_when_interrupted
from dreamfusion_ngp.toybox.prior.processes import run_group

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which processes of pytest-xdist ignore, and hand on
    run_group(save_when_interrupted, 2, Path())
"""
IGNORED = "    signal.signal(signal.SIGHUP, signal.SIG_IGN)\n    signal.signal("


@contextmanager
def started(folder: Path, command: list, until: str):
    """A program in a session of its own, in `folder`, once it has written the words `until`; ended after the block."""
    path = os.pathsep.join(filter(None, (str(SUPPORT.parent), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path}
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        program = subprocess.Popen(
            [sys.executable, *command], cwd=folder, stdout=out, stderr=err, env=environment, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 300
        while until not in (folder / "out").read_text():
            assert program.poll() is None and time.monotonic() < deadline, (folder / "err").read_text()
            time.sleep(0.05)
        yield program
    finally:
        for process in running(program.pid):
            os.kill(process, signal.SIGKILL)
        program.wait()


def running(session: int) -> list[int]:
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


def running_after(program, seconds: float) -> list[int]:
    """The processes of its session that are still there `seconds` later; none as soon as there is none."""
    deadline = time.monotonic() + seconds
    while running(program.pid) and time.monotonic() < deadline:
        program.poll()
        time.sleep(0.05)
    return running(program.pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_what_is_trained_and_leaves_no_process(number, tmp_path):
    """SIGTERM for the command; SIGHUP for all of its processes, as where a terminal is closed."""
    command = [SUPPORT / "train_tiny.py", "--processes", "2", "--images", "1000000000", "-o", "prior"]
    with started(tmp_path, command, until="loss") as program:
        assert len(running(program.pid)) >= 3, "the command, two members, and what multiprocessing starts"
        (os.killpg if number == signal.SIGHUP else os.kill)(program.pid, number)
        assert program.wait(200) == 128 + number
        assert not running_after(program, 10), "what multiprocessing starts ends by itself"
    assert (tmp_path / "err").read_text() == "stopped\n"
    assert (tmp_path / "out").read_text().splitlines()[-1].startswith("saved prior after ")
    load_prior(tmp_path / "prior")
    log = read_log(tmp_path / "prior")
    assert log["images"] >= 16 and log["images"] - log["loss"][-1][0] <= 16
    assert sorted(path.name for path in tmp_path.iterdir()) == ["err", "out", "prior"]


def test_what_nohup_ignores_is_ignored_by_all_members(tmp_path):
    (tmp_path / "program.py").write_text(GROUP.replace("    signal.signal(", IGNORED))
    with started(tmp_path, ["program.py"], until="begun\nbegun") as program:
        os.killpg(program.pid, signal.SIGHUP)
        time.sleep(1)
        assert program.poll() is None and len(running(program.pid)) >= 3
        os.kill(program.pid, signal.SIGINT)
        assert not running_after(program, 100)
    assert (tmp_path / "0").exists() and not (tmp_path / "1").exists()


@pytest.mark.parametrize("ended", ["all of them, as by a terminal's Ctrl-C", "the caller, by SIGKILL"])
def test_one_member_hears_of_the_end_and_the_others_wait_for_it(ended, tmp_path):
    (tmp_path / "program.py").write_text(GROUP)
    with started(tmp_path, ["program.py"], until="begun\nbegun") as program:
        if ended.startswith("all"):
            os.killpg(program.pid, signal.SIGINT)
        else:
            program.kill()
        assert not running_after(program, 100)
    assert (tmp_path / "0").exists() and not (tmp_path / "1").exists()
