"""How setup.py builds dreamfusion_ngp._C: find nvcc, choose architectures, run CMake, leave a record.

Environment variables
    DREAMFUSION_NGP_CUDA        auto (default): CUDA code if an nvcc runs and can compile it, else a CPU build that
                                records why; on: CUDA code or an error; off: CPU only
    DREAMFUSION_NGP_CUDA_ARCHS  architectures such as "80;90" or "8.0;9.0+PTX"; wins over TORCH_CUDA_ARCH_LIST, which
                                wins over the GPUs that nvidia-smi shows, which win over the default list
    MAX_JOBS                    compilers at a time; default: cores, but 2 GB of memory for each
    CMAKE_ARGS                  further arguments for CMake, such as -DDFN_SANITIZE=address

CUDA is decided by running nvcc, never by asking torch: the module links no torch, so no version of it can disagree.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

from dreamfusion_ngp.base.native import csrc_digest

ROOT = Path(__file__).parent.resolve()
DEFAULT_TOOLKIT = "/usr/local/cuda"
OLDEST_CUDA = (11, 8)  # the first toolkit that knows sm_89 and sm_90
OLDEST_CMAKE = (3, 24)
DEFAULT_ARCHS = ["75", "80", "86", "89", "90", "100", "120"]  # SASS for each, and PTX of the last for newer GPUs
ARCH_NAMES = {"turing": "7.5", "ampere": "8.0;8.6", "ada": "8.9", "hopper": "9.0", "blackwell": "10.0;12.0"}


class BuildError(Exception):
    """Why there can be no CUDA code, in one line."""


class Nvcc(NamedTuple):
    path: str
    version: str  # such as "12.8"
    archs: frozenset  # architecture numbers that it compiles for, such as {"75", "80"}


class Plan(NamedTuple):
    """What will be built; `nvcc` is None for a CPU build, and then `why_no_cuda` says why."""

    nvcc: Nvcc | None
    archs: list[str]  # in CMake's notation: "80-real" is SASS, "90" is SASS and PTX
    archs_from: str
    why_no_cuda: str


def output_of(*command: str) -> str:
    """Standard output of a command, or "" if it cannot be run or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def first_error(log: list[str]) -> str:
    """The line of a compiler's output that says what went wrong."""
    lines = [line.strip() for line in log if line.strip()] or ["no output"]
    return next((line for line in lines if re.search(r"\b(error|fatal)\b ?:", line)), lines[-1])[:300]


def compile_trouble(nvcc: str, env: Mapping[str, str]) -> str:
    """Why this nvcc cannot compile a three-word kernel, such as a host compiler it does not know; "" if it can."""
    host = ["-ccbin", env["CUDAHOSTCXX"]] if env.get("CUDAHOSTCXX") else []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.cu"
        source.write_text("#include <cuda_runtime.h>\n__global__ void probe() {}\n")
        command = [nvcc, *host, "-std=c++17", "-c", str(source), "-o", f"{folder}/probe.o"]
        probe = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    return first_error(probe.stdout.splitlines()) if probe.returncode else ""


def find_nvcc(env: Mapping[str, str]) -> Nvcc:
    """The first nvcc that runs and is new enough; BuildError names what was tried."""
    homes = [env.get("CUDA_HOME"), env.get("CUDA_PATH")]
    candidates = [env.get("CUDACXX"), *(h and f"{h}/bin/nvcc" for h in homes), "nvcc", f"{DEFAULT_TOOLKIT}/bin/nvcc"]
    tried = []
    for candidate in dict.fromkeys(filter(None, candidates)):
        path = shutil.which(candidate, path=env.get("PATH"))
        release = re.search(r"release (\d+)\.(\d+)", output_of(path, "--version")) if path else None
        archs = frozenset(re.findall(r"sm_(\d+)", output_of(path, "--list-gpu-code"))) if release else frozenset()
        if not path:
            tried.append(f"{candidate}: not found")
        elif not archs:
            tried.append(f"{candidate}: does not run")
        elif tuple(map(int, release.groups())) < OLDEST_CUDA:
            tried.append(f"{candidate}: CUDA {release[1]}.{release[2]} is older than {OLDEST_CUDA[0]}.{OLDEST_CUDA[1]}")
        elif trouble := compile_trouble(path, env):
            tried.append(f"{candidate}: cannot compile: {trouble}")
        else:
            return Nvcc(path, f"{release[1]}.{release[2]}", archs)
    raise BuildError(f"no usable nvcc ({'; '.join(tried)})")


def parse_archs(text: str, source: str) -> list[str]:
    """ "8.0;9.0+PTX", "80 90+PTX" or "Ampere" -> CMake's ["80-real", "90"]; BuildError names what cannot be read."""
    archs = {}
    for word in filter(None, re.split(r"[;,\s]+", text)):
        name, ptx = re.subn(r"\+PTX$", "", word, flags=re.IGNORECASE)
        numbers = ARCH_NAMES.get(name.lower(), name).split(";")
        for number in numbers:
            match = re.fullmatch(r"(\d{1,2})\.?(\d)([af]?)", number)
            if not match:
                raise BuildError(f'{source}: cannot read the architecture "{word}" (write it as 90, 9.0 or 9.0+PTX)')
            key = "".join(match.groups())
            archs[key] = archs.get(key, False) or bool(ptx and number == numbers[-1])
    return [key if ptx else f"{key}-real" for key, ptx in archs.items()]


def visible_gpus() -> list[str]:
    """Architecture numbers of the GPUs that nvidia-smi lists, such as ["90"]."""
    caps = output_of("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
    return sorted({major + minor for major, minor in re.findall(r"^(\d+)\.(\d)\s*$", caps, re.MULTILINE)}, key=int)


def choose_archs(nvcc: Nvcc, env: Mapping[str, str]) -> tuple[list[str], str]:
    """-> (architectures in CMake's notation, where the choice came from). Only what this nvcc can compile is kept."""
    for source in ("DREAMFUSION_NGP_CUDA_ARCHS", "TORCH_CUDA_ARCH_LIST"):
        if env.get(source, "").strip():
            asked = parse_archs(env[source], source)
            known = [arch for arch in asked if re.match(r"\d+", arch)[0] in nvcc.archs]
            if not known:
                have = ", ".join(sorted(nvcc.archs, key=int))
                raise BuildError(f"{source}={env[source]}: CUDA {nvcc.version} compiles none of these, only {have}")
            return known, source
    gpus = visible_gpus()
    if gpus and nvcc.archs.issuperset(gpus):
        return [f"{arch}-real" for arch in gpus], "nvidia-smi"
    known = [arch for arch in DEFAULT_ARCHS if arch in nvcc.archs]
    return [f"{arch}-real" for arch in known[:-1]] + known[-1:], "default list"


def make_plan(env: Mapping[str, str]) -> Plan:
    """What the environment asks for and the machine can do; BuildError if CUDA=on cannot be had."""
    mode = env.get("DREAMFUSION_NGP_CUDA", "auto").lower()
    if mode not in ("auto", "on", "off"):
        raise BuildError(f"DREAMFUSION_NGP_CUDA={mode}: must be auto, on or off")
    if mode == "off":
        return Plan(None, [], "", "DREAMFUSION_NGP_CUDA=off was set for the build")
    try:
        nvcc = find_nvcc(env)
        return Plan(nvcc, *choose_archs(nvcc, env), "")
    except BuildError as error:
        if mode == "on":
            raise BuildError(f"DREAMFUSION_NGP_CUDA=on, but {error}") from None
        return Plan(None, [], "", str(error))


def max_jobs(env: Mapping[str, str]) -> int:
    """Compilers to run at a time: MAX_JOBS, or as many as cores and memory allow."""
    if env.get("MAX_JOBS"):
        if not re.fullmatch(r"[1-9]\d*", env["MAX_JOBS"]):
            raise BuildError(f"MAX_JOBS={env['MAX_JOBS']}: must be a positive number")
        return int(env["MAX_JOBS"])
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(len(os.sched_getaffinity(0)), memory // (2 * 1024**3)))


def cmake_requirement() -> list[str]:
    """What `setup_requires` must add: a cmake wheel where the machine's own is missing or too old."""
    version = re.search(r"version (\d+)\.(\d+)", output_of("cmake", "--version"))
    new_enough = version and tuple(map(int, version.groups())) >= OLDEST_CMAKE
    return [] if new_enough else [f"cmake>={OLDEST_CMAKE[0]}.{OLDEST_CMAKE[1]}"]


def run_logged(command: list[str]) -> None:
    """Run a command, passing its output on; BuildError with the telling line if it fails."""
    log = []
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    with subprocess.Popen(command, **both) as process:
        for line in process.stdout:
            log.append(line)
            print(line, end="", flush=True)
    if process.returncode:
        raise BuildError(first_error(log))


def compile_module(plan: Plan, env: Mapping[str, str]) -> Path:
    """Configure and build with CMake in build/, and try to load the module. -> its path."""
    import pybind11

    flavour = f"cuda{plan.nvcc.version}" if plan.nvcc else "cpu"
    folder = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}-{flavour}"
    arguments = {
        "CMAKE_MAKE_PROGRAM": shutil.which("ninja"),  # pip's build environment, another one each time
        "Python_EXECUTABLE": sys.executable,
        "PYBIND11_FINDPYTHON": "ON",
        "pybind11_DIR": pybind11.get_cmake_dir(),
        "CMAKE_CUDA_COMPILER": plan.nvcc.path if plan.nvcc else "",
        "CMAKE_CUDA_ARCHITECTURES": ";".join(plan.archs),
    }
    defines = [f"-D{key}={value}" for key, value in arguments.items()] + shlex.split(env.get("CMAKE_ARGS", ""))
    run_logged(["cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", *defines])
    run_logged(["cmake", "--build", str(folder), "--target", "_C", "--parallel", str(max_jobs(env))])
    if "DFN_SANITIZE" not in env.get("CMAKE_ARGS", ""):  # a module with sanitizers loads only where they are preloaded
        load = f"import sys; sys.path.insert(0, {str(folder)!r}); import _C; _C.build_info()"
        run_logged([sys.executable, "-I", "-c", load])  # a symbol may be missing although the linker was content
    return next(folder.glob("_C*.so"))


def build_with_fallback(env: Mapping[str, str]) -> tuple[Path, Plan]:
    """Build what was planned; in auto mode a failing CUDA build is replaced by a CPU build that records the failure."""
    plan = make_plan(env)
    try:
        return compile_module(plan, env), plan
    except BuildError as error:
        if plan.nvcc is None or env.get("DREAMFUSION_NGP_CUDA", "auto").lower() == "on":
            raise
        plan = Plan(None, [], "", f"{plan.nvcc.path} (CUDA {plan.nvcc.version}) could not compile the module: {error}")
        return compile_module(plan, env), plan


class CMakeBuild(build_ext):
    """setuptools' build_ext, with CMake in place of its compiler."""

    def build_extension(self, ext):
        try:
            module, plan = build_with_fallback(os.environ)
        except BuildError as error:
            raise SystemExit(f"dreamfusion_ngp: cannot build the native module: {error}") from None
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(module, target)
        record = {
            "cuda": plan.nvcc is not None,
            "why_no_cuda": plan.why_no_cuda,
            "nvcc": plan.nvcc.path if plan.nvcc else "",
            "nvcc_version": plan.nvcc.version if plan.nvcc else "",
            "archs": plan.archs,
            "archs_from": plan.archs_from,
            "csrc": csrc_digest(ROOT / "csrc"),
        }
        (target.parent / "_build.json").write_text(json.dumps(record, indent=1) + "\n")
        what = f"CUDA {plan.nvcc.version} for {', '.join(plan.archs)} ({plan.archs_from})" if plan.nvcc else ""
        print("dreamfusion_ngp:", what or f"CPU only: {plan.why_no_cuda}", flush=True)

    def copy_extensions_to_source(self):
        """Editable installs: the record goes where the module goes."""
        super().copy_extensions_to_source()
        package = Path(self.get_ext_fullpath(self.extensions[0].name)).parent
        shutil.copy2(Path(self.build_lib) / package.name / "_build.json", package)


class FreshBuild(build):
    """Starts from an empty build/lib: what an earlier version left there would be installed again."""

    def run(self):
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
