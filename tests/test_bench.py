"""The benches at a tiny size: every op and every installed peer runs and agrees with float64; the report is made from
what they leave; and our threads beside torch's do not wait for each other by spinning."""

import importlib.util
import json
import math
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch

from dreamfusion_ngp.bench import OURS, RESOLUTIONS, SMALL_FIELD, counts, error_of, run
from dreamfusion_ngp.bench.cases import Problem, add_tensor_cores, encode_cases, field_cases
from dreamfusion_ngp.bench.timing import ceilings, peak_memory, side_by_side
from dreamfusion_ngp.errors import UsageError
from dreamfusion_ngp.ops.hashgrid import GridLayout

BENCHES = Path(__file__).resolve().parents[1] / "benches"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> dict:
    path = tmp_path_factory.mktemp("bench") / "tiny.json"
    assert run(json_path=path, quick=True, device="cpu", threads=1) == 0
    return json.loads(path.read_text())


def test_every_op_is_measured(result):
    ours = {r["op"]: r for r in result["rows"] if r["who"] == OURS}
    assert set(ours) == {
        "encode forward", "encode backward", "field density", "field forward", "field backward",
        "shade forward + backward", "adam", "field step", "march", "composite forward + backward",
        "step without guidance"}
    for row in result["rows"]:
        assert 0 < row["min_ms"] <= row["median_ms"] <= row["max_ms"] and row["calls"] >= 1 and row["size"] > 0
    for op in ("encode forward", "encode backward", "field forward", "field backward", "adam", "field step"):
        assert ours[op]["share"] > 0 and ours[op]["bound_by"] in result["ceilings"]


def test_peers_run_and_agree_with_float64(result):
    peers = {(r["op"], r["who"]): r for r in result["rows"] if r["who"] != OURS}
    expected = {("encode forward", "torch"), ("encode backward", "torch"), ("field step", "torch, composed")}
    for package in ("drjit", "jax"):
        if importlib.util.find_spec(package):
            expected |= {("encode forward", package), ("encode backward", package)}
    assert set(peers) >= expected
    for row in result["rows"]:
        assert row["error"] is None or row["error"] < 1e-4, (row["op"], row["who"], row["error"])
    assert all(row["error"] is not None and row["ratio"] > 0 for row in peers.values())


def test_tensor_cores_are_a_peer_of_every_field_op():
    """On CUDA at every resolution; on the CPU the same calls, whose results are ours."""
    cases = field_cases(Problem(8, SMALL_FIELD, CPU))
    add_tensor_cores(cases, 8, SMALL_FIELD, CPU)
    found = {c.op: c.peers["tensor cores"] for c in cases if c.peers}
    assert set(found) == {"field density", "field forward", "field backward", "field step"}
    for case in cases:
        call, sample = found.get(case.op, (lambda: None, None))
        call()
        assert sample is None or error_of(sample, case.sample()) == 0


def test_the_record_says_where_it_comes_from(result):
    assert result["versions"]["torch"] == torch.__version__ and result["threads"] == 1
    assert "cores of" in result["machine"] and result["simd"] and result["date"].count("-") == 2
    assert os.uname().nodename not in json.dumps(result)


def test_report_is_made_from_the_json_alone(result, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "tiny.json").write_text(json.dumps(result))
    (tmp_path / "results" / "other.json").write_text('{"tool": "another"}')
    command = [sys.executable, str(BENCHES / "report.py"), "--results", str(tmp_path / "results"), "-o", str(tmp_path)]
    subprocess.run(command, check=True)
    text = (tmp_path / "RESULTS.md").read_text()
    row = next(r for r in result["rows"] if r["op"] == "encode forward" and r["who"] == "torch")
    assert f"| encode forward | torch | {row['size']} |" in text and "No GPU was at hand" in text
    plots = list((tmp_path / "plots").glob("*.svg"))
    assert {p.name for p in plots} == {"tiny-small-time.svg", "tiny-small-roofline.svg"}
    for plot in plots:
        assert ElementTree.parse(plot).getroot().tag.endswith("svg") and "nan" not in plot.read_text()


def test_committed_report_is_that_of_the_committed_json(tmp_path):
    if not BENCHES.is_dir() or not list((BENCHES / "results").glob("*.json")):
        pytest.skip("no committed results here")
    subprocess.run([sys.executable, str(BENCHES / "report.py"), "-o", str(tmp_path)], check=True)
    assert (tmp_path / "RESULTS.md").read_text() == (BENCHES / "RESULTS.md").read_text()


def test_sizes_of_the_full_run():
    assert RESOLUTIONS == (64, 128, 256, 512)
    assert Problem(8, SMALL_FIELD, CPU).n == 8 * 8 * 32
    bound = SMALL_FIELD.bound
    assert Problem(8, SMALL_FIELD, CPU).x.abs().max() < bound


def test_counts_of_the_default_layout():
    layout, n = GridLayout(), 1000
    forward, backward = counts.encode_forward(n, layout), counts.encode_backward(n, layout)
    assert forward["gathers"] == n * 16 * 8 == backward["reductions"] and not forward["reductions"]
    assert forward["bytes"] == n * (12 + 128) + 8 * layout.entries
    least, resource = counts.floor(forward, {"copy": 1e30, "fma": 1e30, "gather": 1e3})
    assert resource == "gather" and least == pytest.approx(128)


def test_ceilings_are_rates(restore_threads):
    torch.set_num_threads(2)
    rates = ceilings(CPU, quick=True)
    assert set(rates) == {"copy", "fma", "gather", "reduction"}
    assert all(1e6 < rate < 1e15 and math.isfinite(rate) for rate in rates.values())


def test_peak_memory_sees_a_temporary():
    held = []
    peak = peak_memory(lambda: held.append(float(torch.ones(1 << 24).sum())), CPU)
    assert peak is None or 60e6 < peak < 90e6


def test_calls_take_turns():
    order = []
    side_by_side({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, CPU, 0.0)
    assert order[:6] == ["a", "b"] * 3


def test_bad_arguments_are_one_line(tmp_path):
    with pytest.raises(UsageError, match="not a file in an existing folder"):
        run(json_path=tmp_path / "missing" / "b.json", quick=True)


def test_a_run_that_is_cut_short_keeps_the_sizes_before(tmp_path, monkeypatch):
    def cases(resolution, config, device, peers):
        if resolution == 5:
            raise KeyboardInterrupt
        return encode_cases(Problem(resolution, config, device))[:1]

    monkeypatch.setattr("dreamfusion_ngp.bench.cases_of", cases)
    with pytest.raises(KeyboardInterrupt):
        run(json_path=tmp_path / "b.json", quick=True, device="cpu", threads=1, resolutions=(4, 5))
    assert {r["resolution"] for r in json.loads((tmp_path / "b.json").read_text())["rows"]} == {4}


SPIN = """
import time
import torch
from dreamfusion_ngp.ops.hashgrid import GridLayout, hashgrid_encode

torch.set_num_threads(2)
layout = GridLayout(levels=4, log2_table=10, finest_resolution=64)
x, table, m = torch.rand(4096, 3), torch.rand(layout.entries, 2), torch.rand(300, 300)
def cpu_seconds():
    began = time.process_time()
    for _ in range(20):
        m @ m
        hashgrid_encode(x, table, layout)
        time.sleep(0.01)  # a pool that spins burns this time on every thread but the main one
    return time.process_time() - began
cpu_seconds()
print(cpu_seconds())
"""


def spent(first: str, policy: str | None) -> float:
    """Seconds of processor time for 20 rounds of a few milliseconds that use both pools, with pauses between."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | {"OMP_NUM_THREADS": "2"}
    environment |= {"OMP_WAIT_POLICY": policy} if policy else {}
    command = [sys.executable, "-c", first + SPIN]
    return min(float(subprocess.check_output(command, env=environment, text=True)) for _ in range(2))


@pytest.mark.parametrize("first, policy", [("import dreamfusion_ngp", None), ("", "PASSIVE")])
def test_idle_threads_sleep_beside_each_other(first, policy):
    """Threads that wait use no processor. Where this package is imported before torch, it sees to that; our own pool
    never spins. With OMP_WAIT_POLICY=ACTIVE the same takes 0.45 s (two cores)."""
    assert spent(first, policy) < 0.15
