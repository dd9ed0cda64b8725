"""Shared by all tests: they run against the installed package, wherever pytest is started."""

import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# An ordinary install has its native module in site-packages; the source tree has none, so the package must not come
# from there: not here (python -m pytest puts the working directory first), and not in the processes that tests start.
os.environ["PYTHONSAFEPATH"] = "1"
elsewhere = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
if PathFinder.find_spec("dreamfusion_ngp", elsewhere):
    sys.path[:] = elsewhere

# No test needs the network, and one thread each: what is measured or compared does not depend on the number of cores.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(autouse=True)
def one_thread():
    """torch uses one thread, also after a test that took more."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption("--need-cuda", action="store_true", help="fail, not skip, where a test finds no CUDA device")
    parser.addoption(
        "--all-simd", action="store_true", help="CPU kernels of all instruction sets, not of two; all sanitizers"
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """pytest -n: the tests of a module run in one process, so that what they share is made once; modules in the order
    in which they are collected."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


def pytest_collection_modifyitems(config, items):
    """In several processes the modules with slow tests begin, so that none is left with one while the others wait."""
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(params=["cpu", "cuda"])
def device(request) -> str:
    """A test that takes `device` runs on the CPU and, where there is one, on a CUDA device."""
    if request.param == "cuda":
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            missing = pytest.fail if request.config.getoption("--need-cuda") else pytest.skip
            missing("no CUDA device: torch.cuda.is_available() is False")
    return request.param


@pytest.fixture
def cuda(device) -> str:
    """For a test that only a CUDA device can pass."""
    if device == "cpu":
        pytest.skip("needs a CUDA device")
    return device


def pytest_generate_tests(metafunc):
    """A test that uses the fixture `simd` runs for the best and the plain instruction set that the native module can
    use here, with --all-simd for those between, too."""
    if "simd" in metafunc.fixturenames:
        from dreamfusion_ngp.base.native import native

        levels = native().build_info()["simd_levels"]
        every = metafunc.config.getoption("--all-simd")
        metafunc.parametrize("simd", levels if every else list(dict.fromkeys((levels[0], levels[-1]))), indirect=True)


@pytest.fixture
def simd(request) -> str:
    """The CPU kernels of one instruction set, for the length of a test."""
    from dreamfusion_ngp.base.native import native

    native().set_simd(request.param)
    yield request.param
    native().set_simd("")


@pytest.fixture
def restore_threads():
    """Gives torch its number of threads back after a test that changes it."""
    import torch

    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
