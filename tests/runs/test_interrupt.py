"""Nothing that ends a run costs its work: signals, lost streams, errors in what is only seen of it. Each run is a fork
of this process with a field of a few hundred numbers."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg  # noqa: F401
import numpy as np
import pytest
import rich.progress  # noqa: F401
import safetensors.torch  # noqa: F401
from PIL import Image  # noqa: F401
from support.tiny_runs import TINY, Target

from dreamfusion_ngp import cli
from dreamfusion_ngp.cli.progress import TerminalProgress, exit_code
from dreamfusion_ngp.optimise.volume import VolumeStage
from dreamfusion_ngp.runs import generate, interrupt, outputs, recorder
from dreamfusion_ngp.runs.checkpoint import load_checkpoint
from dreamfusion_ngp.runs.folder import lock_run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


class Slow(Target):
    """A guidance that says at which step it is, in a file, and takes its time."""

    def __init__(self, folder: Path):
        super().__init__()
        self.at = folder / "at"

    def __call__(self, image, views, part, progress):
        self.at.write_text(str(part))
        time.sleep(0.02)
        return super().__call__(image, views, part, progress)


def victim(folder: Path, steps: int = 100_000) -> int:
    """What `generate` does from the first step on, with pictures of a few pixels. -> the exit status."""

    def run(args):
        with lock_run(folder):
            state, slow = VolumeStage(replace(TINY, steps=steps), "cpu"), Slow(folder)
            with TerminalProgress() as progress:
                return exit_code(
                    generate.optimise(state, slow, folder, ("ply",), observer=progress, catch_signals=True)
                )

    recorder.write_preview = lambda folder, state: "previews/one.png"
    outputs.turntable_frames = lambda state, frames, resolution: [np.zeros((16, 16, 3), np.uint8)] * frames
    generate.export_run = lambda state, folder, formats: (folder / "mesh.ply").write_text("a mesh") and {}
    cli.run_verb = run
    try:
        return cli.main(["generate", "a red mug"])
    except SystemExit as stop:
        return stop.code


def start(folder: Path, out=None, steps: int = 100_000, before=lambda: None) -> int:
    """Fork a `victim`. out: path of its standard output, None to close it. -> its process number."""
    folder.mkdir(exist_ok=True)
    process = os.fork()
    if process:
        return process
    code = 99
    try:
        os.dup2(os.open(folder / "err", os.O_CREAT | os.O_WRONLY), 2)
        sys.stderr = open(2, "w", closefd=False)
        if out is None:
            os.close(1)
            sys.stdout = None
        else:
            os.dup2(out if isinstance(out, int) else os.open(out, os.O_CREAT | os.O_WRONLY), 1)
            sys.stdout = open(1, "w", closefd=False)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
        before()
        code = victim(folder, steps)
    finally:
        os._exit(code)


def wait_for_step(folder: Path, step: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (folder / "at").exists() and int((folder / "at").read_text() or -1) >= step:
            return
        time.sleep(0.005)
    raise AssertionError((folder / "err").read_text())


def end(process: int) -> int:
    """The exit status of a process that is to end within half a minute."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    raise AssertionError("it does not end")


def saved_step(folder: Path) -> int:
    return load_checkpoint(folder / "checkpoint.safetensors", "cpu").step


def last_step(folder: Path) -> int:
    return int((folder / "at").read_text())


@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT", "SIGTERM", "SIGXCPU", "SIGUSR1"])
def test_a_signal_saves_and_exports(tmp_path, name):
    number = getattr(signal, name)
    process = start(tmp_path, tmp_path / "out")
    wait_for_step(tmp_path, 7)
    os.kill(process, number)
    assert end(process) == 128 + number, (tmp_path / "err").read_text()
    assert saved_step(tmp_path) == last_step(tmp_path) + 1, "the step that was going on is whole"
    assert (tmp_path / "mesh.ply").exists() and list(tmp_path.glob("turntable.*"))
    assert (tmp_path / "err").read_text().strip().count("\n") == 0


def test_a_terminal_that_hangs_up_twice_costs_nothing(tmp_path):
    process = start(tmp_path, tmp_path / "out")
    wait_for_step(tmp_path, 3)
    for _ in range(2):
        os.kill(process, signal.SIGHUP)
        time.sleep(0.01)
    assert end(process) == 129 and saved_step(tmp_path) > 3 and (tmp_path / "mesh.ply").exists()


def test_nohup_is_left_alone(tmp_path):
    process = start(tmp_path, tmp_path / "out", steps=60, before=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    wait_for_step(tmp_path, 3)
    os.kill(process, signal.SIGHUP)
    assert end(process) == 0 and saved_step(tmp_path) == 60


def test_signals_are_left_alone_unless_asked_for():
    numbers = [getattr(signal, name) for name in (*interrupt.STOPS, *interrupt.LOSSES)]
    before = [signal.getsignal(number) for number in numbers]
    with interrupt.Interrupt(lambda: True, catch=False) as asked:
        assert [signal.getsignal(number) for number in numbers] == before and asked.signal == 0
    with interrupt.Interrupt(lambda: True, catch=True):
        assert signal.getsignal(signal.SIGINT) not in before
    assert [signal.getsignal(number) for number in numbers] == before


def test_ctrl_c_twice_without_streams_saves_and_stops(tmp_path):
    process = start(tmp_path, None)
    wait_for_step(tmp_path, 5)
    for _ in range(2):
        os.kill(process, signal.SIGINT)
        time.sleep(0.005)
    assert end(process) == 130
    assert saved_step(tmp_path) >= last_step(tmp_path) >= 5
    assert "Traceback" not in (tmp_path / "err").read_text()


@pytest.mark.parametrize("out", ["/dev/full", "closed", "head"])
def test_lines_that_nobody_reads_cost_nothing(tmp_path, out):
    target = {"closed": None, "/dev/full": out}.get(out, 0)
    if out == "head":
        reader, target = os.pipe()
        os.close(reader)
    process = start(tmp_path, target, steps=30)
    if out == "head":
        os.close(target)
    assert end(process) == 0, (tmp_path / "err").read_text()
    assert saved_step(tmp_path) == 30 and (tmp_path / "mesh.ply").exists()
    lines = (tmp_path / "err").read_text().splitlines()
    assert len(lines) == (out == "/dev/full") and "Traceback" not in "".join(lines)


def test_a_kill_in_the_first_seconds_loses_seconds(tmp_path):
    process = start(tmp_path, tmp_path / "out")
    wait_for_step(tmp_path, 3)
    os.kill(process, signal.SIGKILL)
    assert end(process) == -signal.SIGKILL and saved_step(tmp_path) >= 1


def test_what_cannot_be_told_keeps_its_exit_status(tmp_path):
    """In processes of their own: what a stream still holds fails at the interpreter's end."""
    code = (
        "import sys; from dreamfusion_ngp import cli\ncli.run_verb = lambda args: print('{}') or 0\n"
        "sys.exit(cli.main(['doctor', *sys.argv[1:]]))"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-P", "-c", code, "--no-such-flag"], stderr=full)
        assert done.returncode == 2
        done = subprocess.run([sys.executable, "-P", "-c", code], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip() == "error: standard output: No space left on device"
