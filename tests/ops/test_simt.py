"""The CUDA kernels without a GPU: compiled as C++ for the SIMT machine in tests/simt and run against the CPU launchers,
under AddressSanitizer with UndefinedBehaviorSanitizer, which watch the CPU launchers, too. With --all-simd also under
ThreadSanitizer, and at all sizes."""

import os
import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SIMT, CSRC = ROOT / "tests" / "simt", ROOT / "csrc"
FAILURE = 70  # simt::kFailure

COMMON = ["-std=c++17", "-g1", "-Wall", "-Wextra", "-Werror", "-fno-math-errno", f"-I{SIMT}", f"-I{CSRC}"]
SANITIZERS = {
    "address": [
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        "-fsanitize-sections=simt_shared",
        "-fno-omit-frame-pointer",
    ],
    # Without __gnu_linux__ no function is compiled for several instruction sets: what picks one runs too early for it.
    "thread": ["-fsanitize=thread", "-U__gnu_linux__", "-DSIMT_TSAN"],
}
ENVIRONMENT = {
    **os.environ,
    "ASAN_OPTIONS": "detect_leaks=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1:exitcode=66",
}
OPTIMISED = {False: "-O0", True: "-O1"}  # a few sizes run sooner than an optimised program compiles
SIMD = "-march=x86-64-v3"
CUDA = sorted(CSRC.rglob("*.cu"))
# sm_90 adds pairs of floats atomically, older architectures do not: both branches run.
ARCHITECTURES = {"address": 900, "thread": 800}


def compiler(sanitizer: str) -> str:
    """g++ if it can build with this sanitizer; else the test is skipped, with the reason."""
    gcc = shutil.which("g++")
    if not gcc:
        pytest.skip("no g++")
    probe = subprocess.run(
        [gcc, *SANITIZERS[sanitizer], "-x", "c++", "-", "-o", os.devnull],
        input="int main() {}",
        capture_output=True,
        text=True,
    )
    if probe.returncode:
        pytest.skip(f"g++ has no -fsanitize={sanitizer} here: {probe.stderr.strip().splitlines()[-1]}")
    return gcc


def cpu_sources() -> list:
    """The CPU launchers, with one instruction set beside the generic one where CMakeLists.txt compiles several."""
    sources = [(p, []) for p in sorted(CSRC.rglob("*.cpp")) if not p.name.startswith("bind")]
    if platform.machine() in ("x86_64", "AMD64"):
        sources = [(p, ["-DDFN_X86_64_V3"] if p.name == "simd_dispatch.cpp" else []) for p, _ in sources]
        level = [SIMD, "-DDFN_SIMD_LEVEL=x86_64_v3", '-DDFN_SIMD_NAME="x86-64-v3"']
        sources.append((CSRC / "simd_kernels.cpp", level))
        sources.append((CSRC / "simd_raster.cpp", [*level, "-ffp-contract=off"]))
    return sources


def compile_objects(gcc: str, folder: Path, sanitizer: str, thorough: bool, sources) -> list[Path]:
    """Object files of (source, flags), compiled on two cores."""

    def one(job):
        source, extra = job
        level = "-O2" if source.name == "simt.cpp" else OPTIMISED[thorough]  # the scheduler runs most
        flags = [*SANITIZERS[sanitizer], level]
        if source.name == "simt.cpp" and sanitizer == "thread":
            flags.remove("-fsanitize=thread")  # the scheduler is no part of what is watched
        target = folder / f"{source.parent.name}_{source.stem}{'_simd' if SIMD in extra else ''}.o"
        command = [gcc, *COMMON, *flags, *extra, "-x", "c++", "-c", str(source), "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{source.name}: {done.stderr[:4000]}"
        return target

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, sources))


def link(gcc: str, sanitizer: str, objects, program: Path) -> Path:
    command = [gcc, *SANITIZERS[sanitizer], *map(str, objects), "-o", str(program), "-pthread"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:4000]
    return program


@pytest.fixture(scope="module", params=SANITIZERS)
def programs(request, tmp_path_factory):
    """-> (sanitizer, check, canaries): the two programs of tests/simt, built."""
    sanitizer, thorough = request.param, request.config.getoption("--all-simd")
    if sanitizer == "thread" and not thorough:
        pytest.skip("ThreadSanitizer watches with --all-simd")
    gcc, folder = compiler(sanitizer), tmp_path_factory.mktemp(sanitizer)
    host = [
        (SIMT / f"{name}.cpp", []) for name in ("check", "check_field", "check_raster", "check_render", "check_sizes")
    ]
    device = [
        (source, [f"-D__CUDA_ARCH__={ARCHITECTURES[sanitizer]}"])
        for source in (*CUDA, SIMT / "check_mma.cu", SIMT / "canaries.cu")
    ]
    *objects, canaries, simt = compile_objects(
        gcc, folder, sanitizer, thorough, [*cpu_sources(), *host, *device, (SIMT / "simt.cpp", [])]
    )
    return (
        sanitizer,
        link(gcc, sanitizer, [*objects, simt], folder / "check"),
        link(gcc, sanitizer, [canaries, simt], folder / "canaries"),
    )


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([str(program), *arguments], capture_output=True, text=True, env=ENVIRONMENT, timeout=600)


@pytest.mark.slow
def test_kernels_agree_with_the_cpu(programs, request):
    sanitizer, check, _ = programs
    thorough = sanitizer == "address" and request.config.getoption("--all-simd")
    done = run(check, "all" if thorough else "quick")
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert " 0 failures" in done.stdout


# What the SIMT machine itself catches, in any build, and the words it uses.
MISTAKES = {
    "divergent_barrier": "divergent barrier: 20 threads wait at __syncthreads",
    "two_barriers": "divergent barrier",
    "uninitialised_shared": "poison",
    "shuffle_from_outside": "reads lane 20, which mask 0000ffff leaves out",
    "mask_without_caller": "leaves out the caller",
    "lanes_that_left": "deadlock",
    "different_functions": "deadlock",
    "too_many_threads": "invalid configuration argument",
    "too_much_shared": "invalid configuration argument",
    "no_blocks": "invalid configuration argument",
}
# What needs a sanitizer, and the words it uses.
REPORTS = {
    "address": {
        "missing_barrier": "poison",
        "behind_the_buffer": "heap-buffer-overflow",
        "behind_shared": "heap-buffer-overflow",
        "behind_static_shared": "index 63 out of bounds",
        "misaligned": "misaligned",
        "overflow": "signed integer overflow",
    },
    "thread": dict.fromkeys(
        ("missing_barrier", "shared_race", "global_race", "race_of_blocks", "host_race"), "data race"
    ),
}


def test_every_canary_is_caught(programs):
    sanitizer, _, canaries = programs
    for name, words in {**MISTAKES, **REPORTS[sanitizer]}.items():
        done = run(canaries, name)
        output = done.stdout + done.stderr
        assert done.returncode != 0 and words in output, f"{name}: status {done.returncode}\n{output[-3000:]}"
        if name in MISTAKES:
            assert done.returncode == FAILURE, f"{name}: {output[-3000:]}"


def test_an_unknown_canary_is_not_caught(programs):
    done = run(programs[2], "none")
    assert (done.returncode, done.stdout) == (0, "not caught\n")
