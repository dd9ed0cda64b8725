"""Facts about this installation: versions, paths, how it was built."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
import sys

from .. import __version__
from ..base.errors import NativeError
from ..base.native import PACKAGE, build_info, build_record, cores


def list_gpus() -> list[dict]:
    """What nvidia-smi reports of each GPU: name, arch (such as "90"), driver, free_mib; [] where it does not run."""
    query = ["nvidia-smi", "--query-gpu=name,compute_cap,driver_version,memory.free", "--format=csv,noheader,nounits"]
    try:
        rows = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []
    cells = [[cell.strip() for cell in row.split(",")] for row in rows]
    return [dict(name=c[0], arch=c[1].replace(".", ""), driver=c[2], free_mib=c[3]) for c in cells if len(c) == 4]


def collect_facts(gpus: list[dict]) -> dict:
    """Name -> value, all printable; unknown values say so."""
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
    number = re.match(r"\d+(?:\.\d+)*", version)
    assert number is not None, version
    return tuple(int(n) for n in number[0].split("."))


def cuda_name(number: int) -> str:
    """13000 -> "13.0"."""
    return f"{number // 1000}.{number % 1000 // 10}"
