"""The build: what is found, chosen, recorded and shipped. Real compilers run only in the slow tests."""

import importlib.util
import itertools
import json
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from setuptools import Distribution

from dreamfusion_ngp.base import native

ROOT = Path(__file__).resolve().parents[1]
# By its path: with the root on sys.path the tests would find the source tree, not the package that is installed.
spec = importlib.util.spec_from_file_location("build_support", ROOT / "build_support.py")
build = importlib.util.module_from_spec(spec)
sys.modules["build_support"] = build
spec.loader.exec_module(build)

SHIPPED = ["benches", "csrc", "docs", "dreamfusion_ngp", "examples", "tests"]  # tests read the benches and the docs
COMPILES = 'while [ $# -gt 0 ]; do [ "$1" = -o ] && : > "$2"; shift; done'
CANNOT = 'echo "host_config.h:143:2: error: #error -- unsupported GNU version!"; exit 1'


@pytest.fixture(autouse=True)
def no_toolkit_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "DEFAULT_TOOLKIT", str(tmp_path / "no-toolkit"))
    monkeypatch.setattr(build, "visible_gpus", lambda: [])


@pytest.fixture
def fake_nvcc(tmp_path):
    """make(release, archs, compile) -> environment in which nvcc is a script that answers so."""

    def make(release="12.8", archs="sm_75 sm_80 sm_90 sm_120", compile=COMPILES):
        script = tmp_path / "bin" / "nvcc"
        script.parent.mkdir(exist_ok=True)
        script.write_text(
            f'#!/bin/sh\ncase "$1" in\n--version) echo "Cuda compilation tools, release {release}, V{release}.1";;\n'
            f'--list-gpu-code) echo "{archs}";;\n*) {compile};;\nesac\n'
        )
        script.chmod(0o755)
        return {"PATH": str(script.parent)}

    return make


@pytest.mark.parametrize(
    "text, archs",
    [
        ("80", ["80-real"]),
        ("8.0", ["80-real"]),
        ("80;90", ["80-real", "90-real"]),
        ("8.0;9.0+PTX", ["80-real", "90"]),
        ("80, 90+ptx", ["80-real", "90"]),
        ("7.5 12.0+PTX", ["75-real", "120"]),
        ("100;10.3", ["100-real", "103-real"]),
        ("9.0a", ["90a-real"]),
        ("90;9.0+PTX;90", ["90"]),
        ("Ampere+PTX", ["80-real", "86"]),
        (" ;", []),
    ],
)
def test_arch_notations(text, archs):
    assert build.parse_archs(text, "X") == archs


@pytest.mark.parametrize("text", ["fast", "8.x", "90-real;70?", "+PTX", "9", "12345"])
def test_unreadable_archs_are_named(text):
    with pytest.raises(build.BuildError, match="DREAMFUSION_NGP_CUDA_ARCHS: cannot read the architecture"):
        build.parse_archs(text, "DREAMFUSION_NGP_CUDA_ARCHS")


def test_arch_sources_in_order(fake_nvcc, monkeypatch):
    env = fake_nvcc()
    nvcc = build.find_nvcc(env)
    assert build.choose_archs(nvcc, env) == (["75-real", "80-real", "90-real", "120"], "default list")
    monkeypatch.setattr(build, "visible_gpus", lambda: ["90"])
    assert build.choose_archs(nvcc, env) == (["90-real"], "nvidia-smi")
    monkeypatch.setattr(build, "visible_gpus", lambda: ["90", "130"])  # newer than this nvcc: PTX of the default list
    assert build.choose_archs(nvcc, env)[1] == "default list"
    env["TORCH_CUDA_ARCH_LIST"] = "8.0"
    assert build.choose_archs(nvcc, env) == (["80-real"], "TORCH_CUDA_ARCH_LIST")
    env["DREAMFUSION_NGP_CUDA_ARCHS"] = "60;75+PTX"  # 60 is unknown to this nvcc
    assert build.choose_archs(nvcc, env) == (["75"], "DREAMFUSION_NGP_CUDA_ARCHS")
    env["DREAMFUSION_NGP_CUDA_ARCHS"] = "52"
    with pytest.raises(build.BuildError, match="compiles none of these, only 75, 80, 90, 120"):
        build.choose_archs(nvcc, env)


def test_default_archs_without_the_newest(fake_nvcc):
    env = fake_nvcc("11.8", "sm_60 sm_75 sm_80 sm_86 sm_89 sm_90")
    assert build.make_plan(env).archs == ["75-real", "80-real", "86-real", "89-real", "90"]


@pytest.mark.parametrize(
    "nvcc, reason",
    [
        (None, "nvcc: not found"),
        (dict(release="nonsense"), "nvcc: does not run"),
        (dict(archs=""), "nvcc: does not run"),
        (dict(release="11.2"), "nvcc: CUDA 11.2 is older than 11.8"),
        (dict(compile=CANNOT), "nvcc: cannot compile: host_config.h:143:2: error: #error -- unsupported GNU version!"),
    ],
)
def test_unusable_nvcc_is_recorded_and_refused(nvcc, reason, fake_nvcc, tmp_path):
    env = {"PATH": str(tmp_path)} if nvcc is None else fake_nvcc(**nvcc)
    plan = build.make_plan(env)
    assert plan.nvcc is None and plan.archs == [] and reason in plan.why_no_cuda
    with pytest.raises(build.BuildError) as error:
        build.make_plan({**env, "DREAMFUSION_NGP_CUDA": "on"})
    assert str(error.value).startswith("DREAMFUSION_NGP_CUDA=on, but no usable nvcc (") and reason in str(error.value)
    assert "\n" not in str(error.value)


def test_first_usable_nvcc_wins(fake_nvcc, tmp_path, monkeypatch):
    env = fake_nvcc("12.4")
    home = tmp_path / "home"
    shutil.copytree(tmp_path / "bin", home / "bin")
    found = build.find_nvcc({**env, "CUDACXX": "/does/not/exist", "CUDA_HOME": str(home)})
    assert found.path == str(home / "bin" / "nvcc")
    assert build.find_nvcc({**env, "CUDA_HOME": "/does/not/exist"}).path == str(tmp_path / "bin" / "nvcc")
    monkeypatch.setattr(build, "DEFAULT_TOOLKIT", str(home))
    assert build.find_nvcc({"PATH": str(tmp_path)}).path == str(home / "bin" / "nvcc")


def test_modes(fake_nvcc):
    env = fake_nvcc()
    assert build.make_plan({**env, "DREAMFUSION_NGP_CUDA": "on"}).nvcc.version == "12.8"
    assert build.make_plan({**env, "DREAMFUSION_NGP_CUDA": "AUTO"}).nvcc
    off = build.make_plan({**env, "DREAMFUSION_NGP_CUDA": "off"})
    assert off.nvcc is None and "DREAMFUSION_NGP_CUDA=off" in off.why_no_cuda
    with pytest.raises(build.BuildError, match="DREAMFUSION_NGP_CUDA=yes: must be auto, on or off"):
        build.make_plan({**env, "DREAMFUSION_NGP_CUDA": "yes"})


def test_on_without_nvcc_ends_the_build_with_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(build.os, "environ", {"PATH": str(tmp_path), "DREAMFUSION_NGP_CUDA": "on"})
    command = build.CMakeBuild(Distribution())
    with pytest.raises(SystemExit) as stop:
        command.build_extension(None)
    said = str(stop.value)
    assert "cannot build the native module: DREAMFUSION_NGP_CUDA=on, but no usable nvcc (nvcc: not found" in said


def test_auto_falls_back_when_the_cuda_code_does_not_compile(fake_nvcc, monkeypatch):
    def compile_module(plan, env):
        if plan.nvcc:
            raise build.BuildError("launch_field_cuda.cu(12): error: no such thing")
        return Path("_C.so")

    monkeypatch.setattr(build, "compile_module", compile_module)
    _, plan = build.build_with_fallback(fake_nvcc())
    assert plan.nvcc is None and plan.why_no_cuda.endswith("launch_field_cuda.cu(12): error: no such thing")
    with pytest.raises(build.BuildError, match="no such thing"):
        build.build_with_fallback({**fake_nvcc(), "DREAMFUSION_NGP_CUDA": "on"})


def test_jobs():
    assert build.max_jobs({"MAX_JOBS": "7"}) == 7
    assert 1 <= build.max_jobs({}) <= len(build.os.sched_getaffinity(0))
    for value in ("0", "-1", "many"):
        with pytest.raises(build.BuildError, match="MAX_JOBS"):
            build.max_jobs({"MAX_JOBS": value})


def test_the_telling_line_of_a_log():
    log = ["[1/2] Building", "FAILED: a.o", "a.cu(3): error: identifier is undefined", "1 error detected"]
    assert build.first_error(log) == "a.cu(3): error: identifier is undefined"
    assert build.first_error(["something", "went wrong", ""]) == "went wrong"
    assert build.first_error([]) == "no output"


def test_constraints_pin_every_requirement():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [
        *pyproject["project"]["dependencies"],
        *pyproject["build-system"]["requires"],
        *itertools.chain(*pyproject["project"]["optional-dependencies"].values()),
    ]
    pins = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    named = {build.re.match(r"[\w-]+", requirement)[0] for requirement in asked}
    assert len(named) > 15 and named <= pins


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the repository as a checkout has it, without anything built."""
    copy = tmp_path_factory.mktemp("tree") / "dreamfusion_ngp"
    unbuilt = shutil.ignore_patterns("__pycache__", "*.so", "_build.json")
    for path in ROOT.iterdir():
        if path.is_file():
            copy.mkdir(exist_ok=True)
            shutil.copy(path, copy)
        elif path.name in SHIPPED:
            shutil.copytree(path, copy / path.name, ignore=unbuilt)
    return copy


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def call_backend(hook: str, tree: Path, module: Path | None = None, **variables) -> Path:
    """Run a PEP 517 hook in `tree`. module: a native module instead of one that is compiled. -> what it built."""
    env = {**build.os.environ, "DREAMFUSION_NGP_CUDA": "off", **variables}
    (tree / "dist").mkdir(exist_ok=True)
    code = f"from setuptools import build_meta; print('BUILT', build_meta.{hook}('dist'))"
    if module:
        given = f"build_support.compile_module = lambda plan, env: build_support.Path({str(module)!r})"
        code = f"import sys; sys.path.insert(0, {str(tree)!r}); import build_support; {given}; {code}"
    run = subprocess.run([sys.executable, "-c", code], cwd=tree, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return tree / "dist" / run.stdout.rsplit("BUILT ", 1)[1].strip()


def test_sdist_holds_all_that_a_build_needs(tree):
    before = {name for folder in SHIPPED for name in files(tree / folder)}
    assert any(name.endswith(".cu") for name in before) and any(name.endswith(".h") for name in before)
    with tarfile.open(call_backend("build_sdist", tree)) as archive:
        held = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    for folder in SHIPPED:
        assert {f"{folder}/{name}" for name in files(tree / folder)} <= held
    assert {"CMakeLists.txt", "build_support.py", "pyproject.toml", "constraints.txt", "LICENSE", "pytest.ini"} <= held
    assert not any(name.endswith((".so", "_build.json", ".pyc")) for name in held)


@pytest.mark.slow
@pytest.mark.parametrize("compiled", [False, True], ids=["installed", "compiled"])
def test_cpu_wheel_is_complete_and_works_without_torch(compiled, tree, tmp_path, request):
    """With the native module that is installed here, since installing it compiled it. With --all-simd also with one
    that is compiled from the files of the tree."""
    if compiled and not request.config.getoption("--all-simd"):
        pytest.skip("compiled with --all-simd")
    command = build.build(Distribution())
    command.ensure_finalized()
    left_over = tree / command.build_platlib / "dreamfusion_ngp"
    left_over.mkdir(parents=True)
    (left_over / "removed_long_ago.py").touch()
    module = None if compiled else Path(native.native().__file__)
    wheel = call_backend("build_wheel", tree, module, CMAKE_BUILD_TYPE="None")  # not optimised: half of the time
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
        held = set(archive.namelist())
        weights = sum(each.compress_size for each in archive.infolist() if each.filename.endswith(".safetensors"))
    package = {f"dreamfusion_ngp/{name}" for name in files(tree / "dreamfusion_ngp") if "__pycache__" not in name}
    modules = {name for name in held if name.endswith(".so")}
    assert package <= held and len(modules) == 1
    assert not any("removed_long_ago" in name or name.startswith("tests/") for name in held)
    record = json.loads((tmp_path / "dreamfusion_ngp" / "_build.json").read_text())
    assert record["cuda"] is False and "DREAMFUSION_NGP_CUDA=off" in record["why_no_cuda"]
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from dreamfusion_ngp.base import native
print(native.build_info()["cuda"], native.is_stale(), "torch" in sys.modules)
"""
    said = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True).stdout
    assert said == f"{not compiled and native.build_info()['cuda']} False False\n"
    assert weights < 40e6 and wheel.stat().st_size - weights < 20e6
