"""Verdicts on what is installed: the native module and its CUDA code, torch, what the package requires, the embedded
prior, ffmpeg."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from functools import cache

from ..base.errors import NativeError
from ..base.native import PACKAGE, REBUILD, SOURCE_TREE, build_record, cuda_remedy, is_stale, native, why_no_cuda
from .facts import cuda_name, installed_version, release
from .verdict import FAIL, OK, SKIP, WARN, Verdict, describe

PRIORS = PACKAGE / "toybox" / "priors"


def native_module(gpus: list[dict]) -> Verdict:
    try:
        native()
    except NativeError as error:
        return Verdict(FAIL, str(error), REBUILD)
    if is_stale():
        return Verdict(WARN, "loads, but csrc changed after it was built", "pip install -e .")
    return Verdict(OK, "loads")


def cuda_code(gpus: list[dict]) -> Verdict:
    if native().build_info()["cuda"]:
        return Verdict(OK, f"built for {', '.join(build_record().get('archs', [])) or 'unrecorded architectures'}")
    if gpus:
        return Verdict(WARN, f"none, so the GPU is not used: {why_no_cuda()}", cuda_remedy())
    return Verdict(OK, f"none, and no GPU to run it: {why_no_cuda()}")


def driver(gpus: list[dict]) -> Verdict:
    built = native().build_info()
    if not built["cuda"] or not gpus:
        return Verdict(SKIP, "no GPU" if built["cuda"] else "no CUDA code")
    have, need = built["cuda_driver"], built["cuda_runtime"]
    detail = f"supports CUDA {cuda_name(have)}, the module was built with CUDA {cuda_name(need)}"
    if have // 1000 < need // 1000:
        remedy = f"update the NVIDIA driver, or rebuild with a CUDA toolkit not newer than {cuda_name(have)}"
        return Verdict(FAIL, detail, f"{remedy}: CUDA_HOME=... {REBUILD}")
    return Verdict(OK, detail)


def gpu_architectures(gpus: list[dict]) -> Verdict:
    archs = build_record().get("archs", [])
    if not archs or not gpus:
        return Verdict(SKIP, "no CUDA code" if gpus else "no GPU")
    missing = sorted({g["arch"] for g in gpus if not runs_on(archs, g["arch"])}, key=int)
    if missing:
        absent = ";".join(missing)
        remedy = f'DREAMFUSION_NGP_CUDA_ARCHS="{absent}" {REBUILD}'
        return Verdict(FAIL, f"no code for sm_{absent} among {', '.join(archs)}", remedy)
    return Verdict(OK, "code for every GPU here")


def runs_on(archs: list[str], gpu: str) -> bool:
    """Whether code for `archs` (CMake's notation) runs on `gpu` ("90"): SASS within its major version, PTX on newer."""
    for arch in archs:
        match = re.fullmatch(r"(\d+)([af]?)(-real|-virtual)?", arch)
        assert match is not None, arch  # as build_support.parse_archs has written it
        number, suffix, kind = match.groups()
        if suffix:  # architecture-specific code: exactly this one
            if number == gpu:
                return True
            continue
        same_major = kind != "-virtual" and number[:-1] == gpu[:-1]
        if int(number) <= int(gpu) and (same_major or kind != "-real"):
            return True
    return False


@cache
def probe_torch() -> dict:
    """version, cuda, sees_gpu of torch, or error. In its own process: a broken torch may end the importing one."""
    code = (
        "import json, torch; torch.zeros(1).sum().item(); cuda = torch.version.cuda; "
        "print(json.dumps(dict(version=torch.__version__, cuda=cuda, sees_gpu=torch.cuda.is_available())))"
    )
    probe = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    if probe.returncode:
        last = (probe.stderr.strip() or f"the process ended with {probe.returncode}").splitlines()[-1]
        return {"error": last[:400]}
    return json.loads(probe.stdout.splitlines()[-1])


def torch_works(gpus: list[dict]) -> Verdict:
    torch = probe_torch()
    if "error" in torch:
        version = installed_version("torch") or "not installed"
        return Verdict(FAIL, f"{version}: does not work: {torch['error']}", "pip install -c constraints.txt torch")
    if gpus and not torch["sees_gpu"]:
        why = f"built for CUDA {torch['cuda']}" if torch["cuda"] else "a CPU build"
        return Verdict(WARN, f"{torch['version']} does not see the GPU ({why})", "install torch built for CUDA")
    return Verdict(OK, f"{torch['version']}, CUDA {torch['cuda'] or 'none'}")


def requirements(gpus: list[dict]) -> Verdict:
    """Versions against this package's own metadata."""
    try:
        lines = importlib.metadata.requires("dreamfusion_ngp") or []
    except importlib.metadata.PackageNotFoundError:
        if (SOURCE_TREE / "csrc").is_dir():
            return Verdict(
                WARN,
                f"not installed, runs from its source tree {SOURCE_TREE}: what it requires is not checked",
                REBUILD,
            )
        return Verdict(FAIL, "dreamfusion_ngp itself is not installed", REBUILD)
    wrong = []
    for line in lines:
        match = re.match(r"([\w.-]+)(?:>=([\d.]+))?", line)
        assert match is not None, line
        name, least = match.groups()
        version = installed_version(name)
        if "extra ==" in line:
            continue
        if not version:
            wrong.append(f"{name} is missing")
        elif least and release(version) < release(least):
            wrong.append(f"{name} {version} is older than {least}")
    return Verdict(FAIL, "; ".join(wrong), REBUILD) if wrong else Verdict(OK, "all present")


def embedded_prior(gpus: list[dict]) -> Verdict:
    sizes = [path.stat().st_size for path in PRIORS.rglob("*") if path.is_file()]
    if not any(PRIORS.rglob("*.safetensors")):
        return Verdict(FAIL, f"no weights under {PRIORS}", f"install the package again: {REBUILD}")
    return Verdict(OK, f"{len(sizes)} files, {sum(sizes) / 1e6:.1f} MB")


def ffmpeg(gpus: list[dict]) -> Verdict:
    remedy = "pip install imageio-ffmpeg"
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        path = get_ffmpeg_exe()
        banner = subprocess.run([path, "-version"], capture_output=True, text=True, timeout=60, check=True).stdout
    except Exception as error:  # missing, unreadable or not executable: the remedy is the same
        return Verdict(WARN, f"no turntable videos: {describe(error)}", remedy)
    return Verdict(OK, f"{' '.join(banner.split()[:3])} at {path}")
