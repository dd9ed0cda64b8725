"""The doctor: right verdicts on this machine, and on machines that are broken in every way it knows."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dreamfusion_ngp
from dreamfusion_ngp import cli, doctor
from dreamfusion_ngp.doctor import facts, installation, places, self_test

PACKAGE = Path(dreamfusion_ngp.__file__).parent
GPU = {"name": "NVIDIA H200", "arch": "90", "driver": "580.65", "free_mib": "140000"}
NAMES = set(doctor.CHECKS)


def run_doctor(path: Path, *flags: str) -> tuple[int, dict]:
    """Exit status and verdicts by name of a doctor in a fresh interpreter with `path` first on sys.path."""
    code = "import sys; from dreamfusion_ngp.cli import main; sys.exit(main(['doctor', '--json']))"
    env = {**os.environ, "PYTHONPATH": str(path)}
    result = subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, cwd="/", env=env)
    assert result.stdout.startswith("{"), result.stderr
    return result.returncode, json.loads(result.stdout)["verdicts"]


@pytest.fixture
def built(monkeypatch):
    """built(info, record): the module and the record that the doctor shall see."""

    def see(record=(), **info):
        module = type("Module", (), {"build_info": staticmethod(lambda: {"cuda": True, **info})})
        monkeypatch.setattr(installation, "native", lambda: module)
        monkeypatch.setattr(installation, "build_record", lambda: dict(record))

    return see


def test_this_installation_is_well(capsys):
    status = cli.main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    verdicts = report["verdicts"]
    assert set(verdicts) == NAMES
    assert [v for v in verdicts.values() if v["status"] == "FAIL"] == [] and status == 0
    assert verdicts["CPU self-test"]["status"] == "OK"
    assert all(v["remedy"] for v in verdicts.values() if v["status"] == "WARN")
    assert report["facts"]["torch"] and report["facts"]["native module"].endswith(".so")


def test_text_report_says_the_same(capsys, monkeypatch):
    bad = doctor.Verdict(doctor.FAIL, "is broken", "mend it")
    monkeypatch.setattr(doctor, "CHECKS", {"thing": lambda gpus: bad, "disk": places.disk})
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "FAIL  thing: is broken\n      remedy: mend it\n" in out and out.endswith("1 of 2 checks failed\n")


@pytest.mark.parametrize(
    "torch, said",
    [
        ("raise RuntimeError('libcudart.so.12: symbol lookup error')", "libcudart.so.12: symbol lookup error"),
        ("raise ModuleNotFoundError('No module named torch')", "No module named torch"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "the process ended with -9"),
    ],
)
def test_broken_torch_is_a_verdict_and_the_rest_still_runs(tmp_path, torch, said):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(torch)
    status, verdicts = run_doctor(tmp_path)
    assert status == 1 and set(verdicts) == NAMES
    assert verdicts["torch"]["status"] == "FAIL" and said in verdicts["torch"]["detail"] and verdicts["torch"]["remedy"]
    assert verdicts["native module"]["status"] != "FAIL"
    assert verdicts["CPU self-test"]["status"] == verdicts["GPU self-test"]["status"] == "SKIP"


def test_source_tree_without_module_fails_with_the_remedy(tmp_path):
    built_files = shutil.ignore_patterns("*.so", "_build.json", "__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "dreamfusion_ngp", ignore=built_files)
    (tmp_path / "csrc").mkdir()
    status, verdicts = run_doctor(tmp_path, "-S")  # without site-packages: an editable install would be found there
    assert status == 1
    assert "source tree" in verdicts["native module"]["detail"] and "pip install" in verdicts["native module"]["remedy"]
    assert verdicts["torch"]["status"] == "OK"
    assert verdicts["CUDA code"]["status"] == verdicts["CPU self-test"]["status"] == "SKIP"


def test_a_check_that_crashes_is_a_failure_not_the_end(capsys, monkeypatch):
    def lost_in_space(gpus):
        raise OSError("no\nsuch thing")

    monkeypatch.setattr(doctor, "CHECKS", {"space": lost_in_space, "disk": places.disk})
    assert cli.main(["doctor", "--json"]) == 1
    verdicts = json.loads(capsys.readouterr().out)["verdicts"]
    assert verdicts["space"]["detail"] == "OSError: no such thing" and verdicts["disk"]["status"] in ("OK", "WARN")


def test_gpu_with_cpu_build_says_why_and_how(built, monkeypatch):
    built(cuda=False)
    monkeypatch.setattr(installation, "why_no_cuda", lambda: "no usable nvcc (nvcc: not found)")
    verdict = installation.cuda_code([GPU])
    assert verdict.status == "WARN" and "nvcc: not found" in verdict.detail
    assert "DREAMFUSION_NGP_CUDA=on" in verdict.remedy
    assert installation.cuda_code([]).status == "OK"


@pytest.mark.parametrize("driver, status", [(13000, "OK"), (13020, "OK"), (12080, "FAIL"), (0, "FAIL")])
def test_driver_must_not_be_older_than_the_runtime(built, driver, status):
    built(cuda_driver=driver, cuda_runtime=13000)
    verdict = installation.driver([GPU])
    assert verdict.status == status and "built with CUDA 13.0" in verdict.detail
    assert installation.driver([]).status == "SKIP"
    if driver == 12080:
        assert "not newer than 12.8" in verdict.remedy


@pytest.mark.parametrize(
    "archs, gpu, runs",
    [
        (["90-real"], "90", True),
        (["80-real"], "86", True),  # SASS runs on later minor versions
        (["86-real"], "80", False),
        (["80-real"], "90", False),
        (["75-real", "80"], "120", True),  # PTX runs on everything newer
        (["80-virtual"], "80", True),
        (["120"], "90", False),
        (["100-real"], "103", True),
        (["90a-real"], "90", True),
        (["90a"], "100", False),
        ([], "90", False),
    ],
)
def test_which_code_runs_on_which_gpu(archs, gpu, runs):
    assert installation.runs_on(archs, gpu) is runs


def test_missing_architecture_comes_with_the_command(built):
    built(record={"archs": ["80-real"]})
    verdict = installation.gpu_architectures([GPU, {**GPU, "arch": "86"}])
    assert verdict.status == "FAIL" and 'DREAMFUSION_NGP_CUDA_ARCHS="90"' in verdict.remedy
    built(record={"archs": ["80-real", "90"]})
    assert installation.gpu_architectures([GPU]).status == "OK"


def test_old_and_missing_requirements_are_named(monkeypatch):
    needed = ["torch>=2.6", "numpy", "rich", 'drjit; extra == "test"']
    monkeypatch.setattr(installation.importlib.metadata, "requires", lambda name: needed)
    versions = {"torch": "2.5.1+cu121", "numpy": "2.4.6"}
    monkeypatch.setattr(installation, "installed_version", lambda name: versions.get(name, ""))
    verdict = installation.requirements([])
    assert verdict.status == "FAIL" and verdict.detail == "torch 2.5.1+cu121 is older than 2.6; rich is missing"


def test_missing_prior_and_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(installation, "PRIORS", tmp_path)
    assert installation.embedded_prior([]).status == "FAIL"
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "model.safetensors").write_bytes(bytes(2_500_000))
    assert installation.embedded_prior([]).detail == "1 files, 2.5 MB"
    monkeypatch.setattr(places.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    assert places.disk([]).status == "WARN"


@pytest.mark.parametrize("wrong", [1e-2, float("nan"), float("inf")])
def test_self_test_notices_a_wrong_kernel(wrong):
    verdict = self_test.self_test_verdict("the torch reference", {"h": 1e-7, "dW1": wrong, "db1": 1e-6})
    assert verdict.status == "FAIL" and "(dW1)" in verdict.detail and verdict.remedy


def test_gpus_are_read_from_nvidia_smi(tmp_path, monkeypatch):
    script = tmp_path / "nvidia-smi"
    script.write_text('#!/bin/sh\necho "NVIDIA H200, 9.0, 580.65, 140000"\necho "No devices"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert facts.list_gpus() == [GPU]
    script.write_text("#!/bin/sh\nexit 9\n")
    assert facts.list_gpus() == []
