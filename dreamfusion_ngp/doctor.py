"""`dreamfusion-ngp doctor`: facts about this installation, and verdicts with a remedy each.

It must work when everything else is broken: torch is tried in a process of its own first, and no check that fails
keeps the next from running.
"""

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from . import __version__
from .base import places
from .base.errors import NativeError
from .base.native import (
    PACKAGE,
    REBUILD,
    SOURCE_TREE,
    build_info,
    build_record,
    cores,
    cuda_remedy,
    is_stale,
    native,
    why_no_cuda,
)

OK, WARN, FAIL, SKIP = "OK", "WARN", "FAIL", "SKIP"
PRIORS = PACKAGE / "toybox" / "priors"
LITTLE_DISK = 1 << 30  # bytes; a default run leaves some 50 MB
TOLERANCE = 1e-4  # relative error that the self-tests allow float32 kernels against the torch reference


@dataclass(frozen=True)
class Verdict:
    """One check's outcome; `remedy` is empty unless something should be done."""

    status: str
    detail: str
    remedy: str = ""


def run(json_output: bool = False) -> int:
    """Print facts and verdicts, as text or as one JSON object. -> exit status: 1 if a verdict is FAIL, else 0."""
    gpus = list_gpus()
    facts = collect_facts(gpus)
    verdicts = {name: guarded(check, gpus) for name, check in CHECKS.items()}
    if json_output:
        print(json.dumps({"facts": facts, "verdicts": {name: asdict(v) for name, v in verdicts.items()}}, indent=1))
    else:
        print_report(facts, verdicts)
    return int(any(v.status == FAIL for v in verdicts.values()))


def print_report(facts: dict, verdicts: dict[str, Verdict]) -> None:
    for name, value in facts.items():
        print(f"{name:16} {value}")
    print()
    for name, v in verdicts.items():
        print(f"{v.status:5} {name}: {v.detail}")
        if v.remedy:
            print(f"      remedy: {v.remedy}")
    failed = sum(v.status == FAIL for v in verdicts.values())
    print(f"\n{failed} of {len(verdicts)} checks failed" if failed else "\nno check failed")


def guarded(check, gpus: list[dict]) -> Verdict:
    """The check's verdict; an exception that it did not foresee is a verdict too."""
    try:
        return check(gpus)
    except NativeError:
        return Verdict(SKIP, "needs the native module")
    except Exception as error:  # whatever it was, the other checks must still run
        return Verdict(FAIL, describe(error), f"install the package again: {REBUILD}")


def describe(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:400]


# Facts


def list_gpus() -> list[dict]:
    """What nvidia-smi says of each GPU: name, arch (such as "90"), driver, free_mib; [] where it does not run."""
    query = ["nvidia-smi", "--query-gpu=name,compute_cap,driver_version,memory.free", "--format=csv,noheader,nounits"]
    try:
        rows = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []
    cells = [[cell.strip() for cell in row.split(",")] for row in rows]
    return [dict(name=c[0], arch=c[1].replace(".", ""), driver=c[2], free_mib=c[3]) for c in cells if len(c) == 4]


def collect_facts(gpus: list[dict]) -> dict:
    """Name -> value, all printable; what cannot be found out says so."""
    try:
        built = build_info()
    except NativeError:
        built = {**build_record(), "module": "not loaded"}
    gpu_texts = [f"{g['name']} (sm_{g['arch']}, driver {g['driver']}, {g['free_mib']} MiB free)" for g in gpus]
    return {
        "dreamfusion_ngp": f"{__version__} in {PACKAGE}",
        "python": f"{platform.python_version()} at {sys.executable}",
        "platform": f"{platform.platform()}, {cores()} cores",
        "native module": str(built["module"]),
        "compiler": str(built.get("compiler", "unknown")),
        "simd": str(built.get("simd", "unknown")),
        "nvcc": built.get("nvcc_version") or "none at build time",
        "CUDA archs": f"{', '.join(built['archs'])} ({built['archs_from']})" if built.get("archs") else "none",
        "csrc": str(built.get("csrc", "unknown")),
        "GPUs": "; ".join(gpu_texts) or "none seen by nvidia-smi",
        **{name: installed_version(name) or "not installed" for name in ("torch", "diffusers", "transformers")},
    }


def installed_version(name: str) -> str:
    """The version of an installed distribution, or "". Imports nothing."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def release(version: str) -> tuple[int, ...]:
    """ "2.13.0+cpu" -> (2, 13, 0)."""
    return tuple(int(n) for n in re.match(r"\d+(?:\.\d+)*", version)[0].split("."))


def cuda_name(number: int) -> str:
    """13000 -> "13.0"."""
    return f"{number // 1000}.{number % 1000 // 10}"


# Verdicts


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
        wanted = ";".join(missing)
        remedy = f'DREAMFUSION_NGP_CUDA_ARCHS="{wanted}" {REBUILD}'
        return Verdict(FAIL, f"no code for sm_{wanted} among {', '.join(archs)}", remedy)
    return Verdict(OK, "code for every GPU here")


def runs_on(archs: list[str], gpu: str) -> bool:
    """Whether code for `archs` (CMake's notation) runs on `gpu` ("90"): SASS within its major version, PTX on newer."""
    for arch in archs:
        number, suffix, kind = re.fullmatch(r"(\d+)([af]?)(-real|-virtual)?", arch).groups()
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
        name, least = re.match(r"([\w.-]+)(?:>=([\d.]+))?", line).groups()
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


def disk(gpus: list[dict]) -> Verdict:
    try:
        here = os.getcwd()
    except OSError:
        return Verdict(FAIL, "the working directory is no longer there", "change to a folder that is there")
    free = shutil.disk_usage(here).free
    detail = f"{free / 1e9:.1f} GB free in {here}"
    if free < LITTLE_DISK:
        return Verdict(WARN, detail, "free some space, or use -o")
    why = places.hindrance(Path(here))
    return Verdict(WARN, why, "start elsewhere, or use -o") if why else Verdict(OK, detail)


def cache_folder(gpus: list[dict]) -> Verdict:
    return Verdict(*places.cache())


def fetched_models(gpus: list[dict]) -> Verdict:
    return Verdict(*places.models())


def temporary_folder(gpus: list[dict]) -> Verdict:
    return Verdict(*places.temporary())


def cpu_self_test(gpus: list[dict]) -> Verdict:
    if "error" in probe_torch():
        return Verdict(SKIP, "needs a working torch")
    native()
    from .ops import field, reference

    errors = compare(kernel_results(field.field, "cpu"), kernel_results(reference.field, "cpu"))
    return self_test_verdict("the torch reference", errors)


def gpu_self_test(gpus: list[dict]) -> Verdict:
    if "error" in probe_torch():
        return Verdict(SKIP, "needs a working torch")
    if not native().build_info()["cuda"]:
        return Verdict(SKIP, "no CUDA code")
    if not probe_torch()["sees_gpu"]:
        return Verdict(SKIP, "torch sees no GPU")
    from .ops import field

    errors = {}
    for levels in (6, 8):  # the second has kernels of its own
        found = compare(*(kernel_results(field.field, device, levels) for device in ("cuda", "cpu")))
        errors |= {f"{name}, {levels} levels": error for name, error in found.items()}
    return self_test_verdict("the CPU", errors)


def kernel_results(field, device: str, levels: int = 6) -> dict:
    """The field (hash grid, network, normals) forward and backward on fixed inputs -> name -> CPU tensor."""
    import torch

    from .ops.hashgrid import GridLayout

    layout = GridLayout(levels=levels, features=2, log2_table=10, base_resolution=4, finest_resolution=64)
    draw = torch.Generator().manual_seed(0)
    shapes = {"table": (layout.entries, 2), "W1": (16, 2 * levels), "b1": (16,), "W2": (4, 16), "b2": (4,)}
    weights = {name: (0.5 * torch.randn(shape, generator=draw)).to(device) for name, shape in shapes.items()}
    x = (2 * torch.rand(509, 3, generator=draw) - 1).to(device)
    outputs = [torch.randn(shape, generator=draw).to(device) for shape in ((509,), (509, 3), (509, 3))]
    for weight in weights.values():
        weight.requires_grad_()
    h, rgb, grad_h = field(
        x, *weights.values(), layout, bound=1.0, level_weight=[1.0] * layout.levels, blob=("gaussian", 5.0, 0.2)
    )
    torch.autograd.backward([h, rgb, grad_h], outputs)
    gradients = {f"d{name}": weight.grad for name, weight in weights.items()}
    return {name: t.detach().cpu() for name, t in {"h": h, "rgb": rgb, "grad_h": grad_h, **gradients}.items()}


def compare(ours: dict, theirs: dict) -> dict:
    """Name -> relative L2 error."""
    return {name: float((ours[name] - theirs[name]).norm() / theirs[name].norm()) for name in ours}


def self_test_verdict(peer: str, errors: dict) -> Verdict:
    worst = max(errors, key=lambda key: errors[key] if errors[key] == errors[key] else float("inf"))
    detail = f"field, forward and backward, against {peer}: largest relative error {errors[worst]:.1e} ({worst})"
    if errors[worst] <= TOLERANCE:
        return Verdict(OK, detail)
    return Verdict(FAIL, detail, f"rebuild: {REBUILD}; if it stays, report it with the output of doctor --json")


CHECKS = {
    "native module": native_module,
    "CUDA code": cuda_code,
    "driver": driver,
    "GPU architectures": gpu_architectures,
    "torch": torch_works,
    "requirements": requirements,
    "embedded prior": embedded_prior,
    "ffmpeg": ffmpeg,
    "disk": disk,
    "cache": cache_folder,
    "fetched models": fetched_models,
    "temporary folder": temporary_folder,
    "CPU self-test": cpu_self_test,
    "GPU self-test": gpu_self_test,
}
