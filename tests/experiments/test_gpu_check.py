"""benches/gpu_check.sh on a machine without a GPU: its dry run, and what is left when stages fail or it is stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benches" / "gpu_check.sh"
ENVIRONMENT = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}

pytestmark = pytest.mark.skipif(not shutil.which("bash") or not shutil.which("setsid"), reason="needs bash and setsid")


def report_of(folder: Path) -> dict:
    return json.loads((folder / "gpu_check.json").read_text(encoding="utf-8"))


def test_the_script_is_valid_bash():
    assert subprocess.run(["bash", "-n", str(SCRIPT)], capture_output=True).returncode == 0


def test_the_tests_it_names_are_there():
    script = SCRIPT.read_text(encoding="utf-8")
    named = [word for word in script.split() if word.startswith("tests/")]
    spread = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {' '.join(named)}"], capture_output=True, text=True, check=True
    )
    paths = spread.stdout.split()
    assert len(paths) > 10 and not [path for path in paths if not (ROOT / path).is_file()]


@pytest.mark.slow
def test_dry_run_with_one_stage_killed_keeps_the_others(tmp_path):
    done = subprocess.run(
        ["bash", str(SCRIPT), "--dry-run", "-o", str(tmp_path)],
        capture_output=True,
        text=True,
        env={**ENVIRONMENT, "GPU_CHECK_BREAK": "small"},
        timeout=500,
    )
    report = report_of(tmp_path)
    status = {s["name"]: s["status"] for s in report["stages"]}
    tails = {s["name"]: s["log_tail"][-8:] for s in report["stages"] if s["status"] not in ("passed", "skipped")}
    assert status.pop("small").endswith("or killed") and tails.pop("small") == ["broken on purpose"]
    assert not tails and {"build", "tests", "sanitizers", "bench", "toybox_step", "guided_step"} <= set(status)
    assert done.returncode == 1 and not report["passed"] and report["finished"]
    assert len(report["commit"]) == 40 or not (ROOT / ".git").exists()
    measured = {
        name: next(iter(s["measured"].values())) for s in report["stages"] for name in [s["name"]] if s["measured"]
    }
    assert measured["bench"]["rows"] and measured["guided_step"]["rows"][0]["guidance_ms"] > 0
    assert "broken on purpose" in (tmp_path / "gpu_check.log").read_text(encoding="utf-8")


def test_stopped_in_the_middle_it_still_reports(tmp_path):
    with subprocess.Popen(
        ["bash", str(SCRIPT), "--dry-run", "-o", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
    ) as process:
        until = time.monotonic() + 60
        while time.monotonic() < until and not list((tmp_path / "stages").glob("*_facts.stage")):
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    report = report_of(tmp_path)
    assert not report["finished"] and not report["passed"]
    assert [s["name"] for s in report["stages"]][:2] == ["build", "facts"]


def test_no_time_left_is_said(tmp_path):
    subprocess.run(
        ["bash", str(SCRIPT), "--dry-run", "--seconds", "3", "-o", str(tmp_path)],
        capture_output=True,
        env=ENVIRONMENT,
        timeout=100,
    )
    assert {s["status"] for s in report_of(tmp_path)["stages"]} == {"skipped", "no time left"}


def test_cuda_tests_are_skipped_without_a_device_unless_they_are_needed():
    without = {**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "cuda", "tests/ops/test_shade.py"]
    for more, status, words in (([], 0, " skipped"), (["--need-cuda"], 1, "no CUDA device")):
        done = subprocess.run([*command, *more], capture_output=True, text=True, env=without, cwd=ROOT, timeout=200)
        assert done.returncode == status and words in done.stdout, done.stdout[-2000:] + done.stderr
        assert " passed" not in done.stdout
    assert "pytest -q $many --need-cuda -k cuda" in SCRIPT.read_text(encoding="utf-8")


def test_small_cases_agree_on_the_cpu():
    done = subprocess.run(
        [sys.executable, str(ROOT / "benches" / "gpu" / "small.py"), "--device", "cpu"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0 and "0 cases differ" in done.stdout, done.stdout + done.stderr
