"""native.py: the module loads without torch, and every way it can be missing has its own message."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dreamfusion_ngp
from dreamfusion_ngp.base import native
from dreamfusion_ngp.base.errors import NativeError

PACKAGE = Path(dreamfusion_ngp.__file__).parent


def python(code: str, *paths: Path) -> str:
    """Output of `code` in a fresh interpreter; with `paths`, these are on sys.path and site-packages are not."""
    flags = ["-P", "-S"] if paths else ["-P"]
    code = f"import sys; sys.path[:0] = {[str(p) for p in paths]}\n{code}"
    return subprocess.run(
        [sys.executable, *flags, "-c", code], capture_output=True, text=True, check=True, cwd="/"
    ).stdout


@pytest.fixture
def bare_copy(tmp_path):
    """A folder holding the package's first modules without a native module, as in a source tree."""
    (tmp_path / "dreamfusion_ngp" / "base").mkdir(parents=True)
    for name in ("__init__", "base/__init__", "base/errors", "base/native"):
        shutil.copy(PACKAGE / f"{name}.py", tmp_path / "dreamfusion_ngp" / f"{name}.py")
    return tmp_path


SAY_WHY = """
from dreamfusion_ngp.base.errors import NativeError
from dreamfusion_ngp.base.native import native
try: native()
except NativeError as error: print(error)
"""


def test_module_and_package_load_without_torch():
    seen = python(
        "import dreamfusion_ngp, dreamfusion_ngp.base.native as n; info = n.build_info()\n"
        "print('cuda' in info, info['stale'], [m for m in ('torch', 'numpy') if m in sys.modules])"
    )
    assert seen.split(maxsplit=1)[0] == "True" and seen.strip().endswith("[]")


@pytest.mark.skipif(not shutil.which("readelf"), reason="needs readelf")
def test_module_stands_alone():
    """No library beyond the C++ runtime's to find, and no symbol of ours for another library to find."""
    module = native.native().__file__
    table = subprocess.run(
        ["readelf", "--dynamic", "--dyn-syms", "--wide", module], capture_output=True, text=True
    ).stdout
    needed = {line.split("[")[1].split(".so")[0] for line in table.splitlines() if "(NEEDED)" in line}
    assert needed <= {"libstdc++", "libm", "libgcc_s", "libc", "libpthread", "librt", "libdl", "ld-linux-x86-64"}
    assert "PyInit__C" in table and "3dfn" not in table


def test_import_is_quick():
    code = "import time; t = time.perf_counter(); import dreamfusion_ngp; print(time.perf_counter() - t)"
    assert min(float(python(code)) for _ in range(3)) < 0.05


def test_build_info_joins_the_record_and_the_module():
    info = native.build_info()
    record = json.loads((PACKAGE / "_build.json").read_text())
    assert info["archs"] == record["archs"] and info["cuda"] == record["cuda"]
    assert Path(info["module"]).parent == PACKAGE
    assert bool(record["why_no_cuda"]) != record["cuda"]


def test_source_tree_without_module_says_so(bare_copy):
    (bare_copy / "csrc").mkdir()
    said = python(SAY_WHY, bare_copy)
    assert f"imported from its source tree {bare_copy}" in said and "pip install" in said and said.count("\n") == 1


def test_missing_module_says_so(bare_copy):
    said = python(SAY_WHY, bare_copy)
    assert "is missing" in said and "pip install" in said and "doctor" in said


def test_module_that_does_not_load_gives_the_real_reason(bare_copy):
    (bare_copy / "dreamfusion_ngp" / Path(native.native().__file__).name).write_bytes(b"not a shared object")
    said = python(SAY_WHY, bare_copy)
    assert "does not load" in said and ("too short" in said or "invalid ELF" in said)


def test_native_cuda_says_why_there_is_no_cuda_code(monkeypatch):
    class CpuBuild:
        @staticmethod
        def build_info():
            return {"cuda": False}

    monkeypatch.setattr(native, "native", lambda: CpuBuild)
    monkeypatch.setattr(native, "build_record", lambda: {"why_no_cuda": "no usable nvcc (nvcc: not found)"})
    with pytest.raises(NativeError, match=r"no usable nvcc \(nvcc: not found\).*DREAMFUSION_NGP_CUDA=on"):
        native.native_cuda.__wrapped__()


def test_native_cuda_is_the_module_where_there_is_cuda_code():
    if native.native().build_info()["cuda"]:
        assert native.native_cuda() is native.native()
    else:
        with pytest.raises(NativeError):
            native.native_cuda()


def test_stale_when_sources_change(tmp_path, monkeypatch):
    (tmp_path / "csrc").mkdir()
    source = tmp_path / "csrc" / "a.h"
    source.write_text("int a;")
    monkeypatch.setattr(native, "SOURCE_TREE", tmp_path)
    record = {"csrc": native.csrc_digest(tmp_path / "csrc")}
    monkeypatch.setattr(native, "build_record", lambda: record)
    assert not native.is_stale()
    source.write_text("int b;")
    assert native.is_stale()
    monkeypatch.setattr(native, "SOURCE_TREE", tmp_path / "elsewhere")
    assert not native.is_stale()


def test_digest_sees_names_and_contents_of_sources_only(tmp_path):
    def digest(**files):
        folder = tmp_path / "-".join(files)
        folder.mkdir()
        for name, text in files.items():
            (folder / name.replace("_", ".")).write_text(text)
        return native.csrc_digest(folder)

    assert digest(a_h="x") != digest(b_h="x")
    assert digest(a_h="xy", b_h="") != digest(a_h="x", b_h="y", c_txt="")
    assert digest(a_cu="x") == digest(a_cu="x", notes_md="y")


def test_public_names_resolve_and_unknown_ones_do_not():
    for name in dreamfusion_ngp.__all__:
        assert getattr(dreamfusion_ngp, name) is not None
    assert set(dreamfusion_ngp.__all__) <= set(dir(dreamfusion_ngp))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        dreamfusion_ngp.nonsense
