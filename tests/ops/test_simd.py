"""The CPU kernels of each instruction set: how one is chosen, and that all compute the same, at sizes where a table
does not stay in the cache and samples do not fit into one span."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dreamfusion_ngp.base.native import native
from dreamfusion_ngp.ops import field, reference  # noqa: F401 (registers the ops)
from dreamfusion_ngp.ops.hashgrid import GridLayout

OPS = torch.ops.dreamfusion_ngp
LEVELS = native().build_info()["simd_levels"]
LARGE = GridLayout(levels=4, log2_table=18, base_resolution=64, finest_resolution=256)  # looked up level by level
SMALL = GridLayout(levels=4, log2_table=12, base_resolution=8, finest_resolution=64, interpolation="smoothstep")
SOURCES = Path(__file__).resolve().parents[2] / "csrc"


class Problem:
    """A network, ray-ordered points and cotangents, in float32 numbers."""

    def __init__(self, layout, n, dtype=torch.float32, hidden=24):
        g = torch.Generator().manual_seed(0)
        start, end = torch.rand(n // 50 + 1, 1, 3, generator=g), torch.rand(n // 50 + 1, 1, 3, generator=g)
        x = (start + (end - start) * torch.linspace(0, 1, 50)[:, None]).reshape(-1, 3)[:n] * 2 - 1
        shapes = [(layout.entries, layout.features), (hidden, layout.width), (hidden,), (4, hidden), (4,)]
        network = [torch.randn(s, generator=g) * 0.4 for s in shapes] + [torch.tensor([1.0, 0.5, 0.0, 1.0])]
        cotangents = [torch.randn(s, generator=g) for s in ((n,), (n, 3), (n, 3))]
        self.x, self.grad_y = x.to(dtype), torch.randn(n, layout.width, generator=g).to(dtype)
        self.network, self.cotangents = [t.to(dtype) for t in network], [t.to(dtype) for t in cotangents]
        self.layout, self.settings = layout, (*layout.arguments, 1.0, 1, 3.0, 0.3, False)

    def part(self, rows: slice) -> dict[str, torch.Tensor]:
        """Results of all float32 kernels for some of the points."""
        x, d, tail = self.x[rows], [c[rows].contiguous() for c in self.cotangents], (*self.layout.arguments, None)
        u, table, grad_y = (x + 1) / 2, self.network[0], self.grad_y[rows]
        found = dict(
            zip(("h", "rgb_raw", "grad_h"), OPS.field(x, *self.network, *self.settings, None, None), strict=True)
        )
        found["density"] = OPS.field_density(x, *self.network, *self.settings, None, None)
        found["y"] = OPS.hashgrid_encode(u, table, *tail)
        found["grad_x"] = OPS.hashgrid_grad_x(grad_y, u, table, *tail)
        found["encode_grad_table"] = OPS.hashgrid_grad_table(grad_y, u, *tail)
        gradients = OPS.field_backward(*d, x, *self.network, *self.settings, None, None)
        found["grad_table"], found["grad_weights"] = gradients
        return found


SUMS = {"encode_grad_table", "grad_table", "grad_weights"}


def test_plain_kernels_are_always_there_and_the_best_come_first():
    known = ["x86-64-v4", "x86-64-v3", "x86-64-v2", "plain"]
    assert LEVELS[-1] == "plain" and [level for level in known if level in LEVELS] == LEVELS
    if not os.environ.get("DREAMFUSION_NGP_SIMD"):
        assert native().build_info()["simd"] == LEVELS[0]


def test_a_level_can_be_forced(simd):
    assert native().build_info()["simd"] == simd
    code = "from dreamfusion_ngp.base.native import build_info; print(build_info()['simd'])"
    environment = {**os.environ, "DREAMFUSION_NGP_SIMD": simd}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).strip() == simd


def test_a_level_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="no level x86-64-v9"):
        native().set_simd("x86-64-v9")
    code = (
        "from dreamfusion_ngp.base.errors import NativeError\nfrom dreamfusion_ngp.base.native import native\n"
        "try: native()\nexcept NativeError as error: print(error)"
    )
    environment = {**os.environ, "DREAMFUSION_NGP_SIMD": "avx9"}
    said = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert said == f"DREAMFUSION_NGP_SIMD=avx9: here are only {' '.join(LEVELS)}\n"


@pytest.mark.parametrize("layout", [LARGE, SMALL], ids=["large", "cached"])
@pytest.mark.parametrize("n", [1, 63, 64, 65, 5000])
def test_every_level_computes_what_the_plain_bodies_compute(simd, layout, n):
    """Against float64, which runs the bodies of the headers sample by sample."""
    want, got = Problem(layout, n, torch.float64).part(slice(None)), Problem(layout, n).part(slice(None))
    for name, tensor in got.items():
        scale = want[name].abs().max()
        worst = ((tensor.double() - want[name]).abs() / scale).flatten()
        if name in ("grad_h", "grad_x", "grad_table", "grad_weights"):
            # A point within rounding of a cell's face, or of a unit's zero, may fall on the other side.
            worst = worst.sort().values[: max(1, int(0.995 * len(worst)))]
        assert worst.max() < 2e-4, name


@pytest.mark.parametrize("layout", [LARGE, SMALL], ids=["large", "cached"])
def test_same_bits_for_any_number_of_threads(simd, layout, restore_threads):
    problem, found = Problem(layout, 20011), []
    for threads in (1, 2, 3, 8):
        torch.set_num_threads(threads)
        found.append(problem.part(slice(None)))
    for other in found[1:]:
        for name, tensor in other.items():
            assert torch.equal(tensor, found[0][name]), name


def test_more_samples_than_one_span_holds(simd):
    """320 thousand rows are more than 80 MB of blocks; a row's outputs do not depend on where spans are cut."""
    problem = Problem(LARGE, 320000)
    whole, cut = problem.part(slice(None)), 64 * 1024 * 3
    parts = [problem.part(slice(0, cut)), problem.part(slice(cut, None))]
    for name, tensor in whole.items():
        if name in SUMS:
            torch.testing.assert_close(tensor, parts[0][name] + parts[1][name], rtol=1e-3, atol=2e-2, msg=name)
        else:
            assert torch.equal(tensor, torch.cat([p[name] for p in parts])), name


def test_encode_of_a_large_table_matches_the_reference(simd):
    problem = Problem(LARGE, 3000, torch.float64)
    want = reference.hashgrid_encode((problem.x + 1) / 2, problem.network[0], LARGE)
    got = Problem(LARGE, 3000).part(slice(None))["y"]
    assert (got.double() - want).abs().max() < 2e-4 * want.abs().max()


@pytest.mark.slow
@pytest.mark.skipif(not (SOURCES.is_dir() and shutil.which("g++") and shutil.which("nm")), reason="needs g++ and nm")
@pytest.mark.parametrize("optimise", ["-O3", "-O1"])
@pytest.mark.parametrize("source", ["simd_kernels.cpp", "simd_raster.cpp"])
def test_no_function_compiled_for_one_processor_can_serve_another(tmp_path, optimise, source):
    """The linker keeps one copy of a weak symbol: one from an AVX-512 object would crash an older processor."""
    if "x86-64-v4" not in LEVELS:
        pytest.skip("no x86-64-v4 here")
    compiled = tmp_path / "v4.o"
    subprocess.run(
        [
            "g++",
            "-std=c++17",
            optimise,
            "-w",
            "-march=x86-64-v4",
            "-DDFN_SIMD_LEVEL=x86_64_v4",
            f"-I{SOURCES}",
            "-c",
            str(SOURCES / source),
            "-o",
            str(compiled),
        ],
        check=True,
    )
    symbols = subprocess.check_output(["nm", "--demangle", "--defined-only", str(compiled)], text=True).splitlines()
    shared = [line for line in symbols if line.split()[1] in "WVTu"]
    assert not [line for line in shared if "x86_64_v4" not in line], shared
