"""The native module: loads `dreamfusion_ngp._C`, and says why it, or its CUDA code, is missing. Needs no torch."""

import hashlib
import importlib
import json
import os
from functools import cache
from pathlib import Path
from types import ModuleType

from .errors import NativeError

PACKAGE = Path(__file__).parents[1]
SOURCE_TREE = PACKAGE.parent  # of an editable install; an ordinary install has site-packages here
REBUILD = "pip install -c constraints.txt ."
DOCTOR = 'for more, run "dreamfusion-ngp doctor"'


@cache
def native() -> ModuleType:
    """The module `_C`. Raises NativeError with a remedy if it is missing or cannot be loaded.

    The CPU kernels are compiled for several instruction sets; the best that the processor runs is used, unless the
    environment variable DREAMFUSION_NGP_SIMD names another of build_info()["simd_levels"], such as x86-64-v3 or plain.
    """
    try:
        module = importlib.import_module("dreamfusion_ngp._C")
        module.build_info()  # a level of DREAMFUSION_NGP_SIMD that is not there is an error from the start
        return module
    except ValueError as error:
        raise NativeError(str(error)) from error
    except ImportError as error:
        if any(PACKAGE.glob("_C*.so")):
            why = f"the native module in {PACKAGE} does not load ({error}); build it for this Python: {REBUILD}"
        elif (SOURCE_TREE / "csrc").is_dir():
            why = (
                f"dreamfusion_ngp was imported from its source tree {SOURCE_TREE}, which holds no built native module; "
                f"install it ({REBUILD}) and start Python elsewhere or with -P, or build here: pip install -e ."
            )
        else:
            why = f"the native module is missing from {PACKAGE}; install the package again: {REBUILD}"
        raise NativeError(f"{why}; {DOCTOR}") from error


@cache
def native_cuda() -> ModuleType:
    """The module `_C` if it holds CUDA code. Raises NativeError that says why there is none and how to get it."""
    module = native()
    if not module.build_info()["cuda"]:
        raise NativeError(f"this installation has no CUDA code: {why_no_cuda()}; {cuda_remedy()}; {DOCTOR}")
    return module


def why_no_cuda() -> str:
    """The reason that the build recorded, without a final stop; "" for a build with CUDA code."""
    return build_record().get("why_no_cuda", f"the record {PACKAGE / '_build.json'} is missing")


def cuda_remedy() -> str:
    """The command that builds the CUDA code, or fails with the reason."""
    return f"with a CUDA toolkit (nvcc) installed, rebuild it: DREAMFUSION_NGP_CUDA=on {REBUILD}"


def build_record() -> dict:
    """`_build.json`, written by the build (see build_support.py); {} if missing."""
    try:
        return json.loads((PACKAGE / "_build.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def build_info() -> dict:
    """What the build recorded, what the module says of itself (which wins), and `stale`. Raises as `native()`."""
    return {**build_record(), **native().build_info(), "module": native().__file__, "stale": is_stale()}


def is_stale() -> bool:
    """True if this is an editable install whose C++ or CUDA sources changed after the module was built."""
    sources = SOURCE_TREE / "csrc"
    return sources.is_dir() and build_record().get("csrc") != csrc_digest(sources)


def cores() -> int:
    """CPU cores that this process may use, which on a shared machine are not all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def csrc_digest(folder: Path) -> str:
    """Twelve hex digits that change with the name or content of any source file in `folder`."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".h", ".cuh", ".cpp", ".cu")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:12]
