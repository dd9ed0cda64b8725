"""The origin of a figure: commit, kind of machine, versions. No host name, no path."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from datetime import date
from pathlib import Path

import torch

from .. import __version__
from ..base.native import SOURCE_TREE, build_info

PACKAGES = ("torch", "numpy", "drjit", "taichi", "jax", "tinycudann", "nerfacc")


def version_of(package: str) -> str | None:
    """The installed version of a package, None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """Short hash of the source tree from which this package runs, with "+" if files differ from it."""
    git = ["git", "-C", str(SOURCE_TREE)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def machine_class() -> str:
    """Such as "2 cores of AMD EPYC, AVX-512"."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    vectors = next(
        (name for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2"), ("sse4_2", "SSE4.2")) if flag in text), ""
    )
    name = model[1].strip() if model else platform.machine()
    return f"{len(os.sched_getaffinity(0))} cores of {name}" + (f", {vectors}" if vectors else "")


def facts(device: torch.device) -> dict:
    """What a reader needs to judge the figures of a run."""
    built = build_info()
    return {
        "date": date.today().isoformat(),
        "commit": commit(),
        "machine": machine_class(),
        "device": device.type,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "simd": built["simd"],
        "csrc": built.get("csrc"),
        "versions": {
            "dreamfusion_ngp": __version__,
            "python": platform.python_version(),
            **{name: version_of(name) for name in PACKAGES},
        },
    }
