"""The benches at a tiny size: every op and every installed peer runs and agrees with float64; the report is made from
what they leave; and our threads beside torch's do not wait for each other by spinning. (Peers that need a GPU:
tests/bench/test_bench_peers.py.)"""

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
from support.plots import pinned_matplotlib

from dreamfusion_ngp.base.errors import UsageError
from dreamfusion_ngp.bench import LONGEST, MOST_SAMPLES, OURS, RESOLUTIONS, SMALL_FIELD, Bench, counts, error_of, run
from dreamfusion_ngp.bench.cases import Case, LeftOut, Peer, Problem, encode_cases, needed_bytes
from dreamfusion_ngp.bench.field_cases import field_cases, tensor_core_peers
from dreamfusion_ngp.bench.timing import SLOW, ceilings, free_memory, peak_memory, side_by_side
from dreamfusion_ngp.config.schema import FieldConfig
from dreamfusion_ngp.ops.hashgrid import GridLayout

BENCHES = Path(__file__).resolve().parents[2] / "benches"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> dict:
    path = tmp_path_factory.mktemp("bench") / "tiny.json"
    lines: list[str] = []
    found = run(json_path=path, quick=True, device="cpu", threads=1, show=lines.append)
    assert json.loads(path.read_text()) == json.loads(json.dumps(found))
    assert len(lines) == 1 + len(found["rows"]) + len(found["left_out"])
    return found


def test_every_op_is_measured(result):
    ours = {r["op"]: r for r in result["rows"] if r["who"] == OURS}
    assert set(ours) == {
        "encode forward",
        "encode backward",
        "field density",
        "field forward",
        "field backward",
        "shade forward + backward",
        "adam",
        "field step",
        "march",
        "composite forward + backward",
        "step without guidance",
        "raster forward + backward",
    }
    for row in result["rows"]:
        assert 0 < row["min_ms"] <= row["median_ms"] <= row["max_ms"] and row["calls"] >= 1 and row["size"] > 0
    for op in ("encode forward", "encode backward", "field forward", "field backward", "adam", "field step"):
        assert ours[op]["share"] > 0 and ours[op]["bound_by"] in result["ceilings"]
    halves = {r["op"] for r in result["rows"] if r["precision"] == "float16"}
    assert halves == {"field forward", "field backward", "field step"}
    assert all(r["host_syncs"] is None for r in result["rows"])  # nothing to wait for on a CPU


def test_peers_run_and_agree_with_float64(result):
    peers = {(r["op"], r["who"]): r for r in result["rows"] if r["who"] != OURS}
    expected = {("encode forward", "torch"), ("encode backward", "torch"), ("field step", "torch, composed")}
    for package in ("drjit", "jax", "taichi"):
        if importlib.util.find_spec(package):
            expected |= {("encode forward", package), ("encode backward", package)}
    assert set(peers) >= expected
    no_figure = ("step without guidance", "deodr", "mitsuba")  # random; edges of another kind; noise
    for row in result["rows"]:
        assert (row["error"] is None) == (row["op"] in no_figure or row["who"] in no_figure), row["op"]
        most = 2e-3 if row["precision"] == "float16" else 1e-4  # of the truth with the float32 table
        assert row["error"] is None or row["error"] < most, (row["op"], row["who"], row["error"])
    assert all(row["ratio"] > 0 for row in peers.values())


def test_tensor_cores_are_a_peer_of_every_field_op():
    """On CUDA at every resolution; on the CPU the same calls, whose results are ours."""
    problem = Problem(8, SMALL_FIELD, CPU)
    cases = field_cases(problem, half=True)
    found = {(c.op, c.precision): tensor_core_peers(c, problem) for c in cases}
    assert {op for (op, precision), peers in found.items() if peers and precision == torch.float32} == {
        "field density",
        "field forward",
        "field backward",
        "field step",
    }
    assert not any(peers for (_, precision), peers in found.items() if precision == torch.float16)
    for case in cases:
        for prepare in found[case.op, case.precision].values():
            peer = prepare()
            peer.call()
            assert peer.sample is None or error_of(peer.sample, case.sample()) == 0


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
    assert f"| encode forward | torch | {row['size']} |" in text and "No table of all ops was measured on a GPU" in text
    assert "; float16 table" in text and text.count("| n/a |") == len(result["rows"])
    plots = list((tmp_path / "plots").glob("*.svg"))
    assert {p.name for p in plots} == {"tiny-small-time.svg", "tiny-small-roofline.svg"}
    for plot in plots:
        assert ElementTree.parse(plot).getroot().tag.endswith("svg") and "nan" not in plot.read_text()


def test_committed_report_is_that_of_the_committed_json(tmp_path):
    if not BENCHES.is_dir() or not list((BENCHES / "results").glob("*.json")):
        pytest.skip("no committed results here")
    subprocess.run([sys.executable, str(BENCHES / "report.py"), "-o", str(tmp_path)], check=True)
    assert (tmp_path / "RESULTS.md").read_text() == (BENCHES / "RESULTS.md").read_text()
    for plot in (tmp_path / "plots").iterdir():
        committed = BENCHES / "plots" / plot.name
        assert committed.stat().st_size <= 300_000
        assert plot.read_text() == committed.read_text() or not pinned_matplotlib()


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


def test_a_peer_takes_part_as_long_as_it_is_affordable():
    bench, fields = Bench(CPU, {}, 0.0), {"field": "paper", "precision": "float32"}
    bench.affordable("op", "peer", MOST_SAMPLES, fields)
    with pytest.raises(LeftOut, match="not tried at first"):
        bench.affordable("op", "peer", MOST_SAMPLES + 1, fields)
    row = dict(op="op", who="peer", **fields, size=1000, median_ms=1e3, peak_bytes=1e3, chunk=None)
    bench.rows.append(row)
    bench.affordable("op", "peer", int(1000 * LONGEST), fields)
    with pytest.raises(LeftOut, match="would take 4 s"):
        bench.affordable("op", "peer", 4000, fields)
    bench.affordable("op", "peer", 4000, fields | {"precision": "float16"})  # its own first size
    bench.rows.append(row | {"peak_bytes": free_memory(CPU) / 3})
    with pytest.raises(LeftOut, match="would need"):
        bench.affordable("op", "peer", 2000, fields)
    bench.rows.append(bench.rows[-1] | {"chunk": 500})
    bench.affordable("op", "peer", 2000, fields)  # it works in pieces


def test_what_cannot_take_part_is_said_and_the_others_are_measured():
    def unable():
        raise LeftOut("no smoothstep")

    def broken():
        raise RuntimeError("first\nout of memory")

    peers = {
        "unable": unable,
        "broken": lambda: Peer(broken),
        "able": lambda: Peer(lambda: None, lambda: torch.ones(1)),
    }
    bench = Bench(CPU, {}, 0.0)
    for size in (7, 8):  # said once, and not tried again
        bench.measure(
            Case(
                "op",
                size,
                lambda: None,
                sample=lambda: torch.ones(1),
                truth=lambda: torch.ones(1).double(),
                peers=peers,
            ),
            {"field": "paper", "resolution": 64},
        )
    assert [r["who"] for r in bench.rows] == [OURS, "able"] * 2
    assert bench.left_out == [
        "op, unable, paper, from 7 on: no smoothstep",
        "op, broken, paper, from 7 on: RuntimeError: out of memory",
    ]
    with pytest.raises(RuntimeError):  # our own may not fail
        bench.measure(Case("op", 7, broken), {"field": "paper", "resolution": 64})


def test_a_size_that_the_machine_cannot_hold_is_left_out():
    assert 3e9 < needed_bytes(512, FieldConfig()) < 9e9
    bench = Bench(CPU, {}, 0.0)
    bench.size(1 << 20, "paper", FieldConfig(), False)
    assert not bench.rows and "are free" in bench.left_out[0]


def test_slow_calls_are_few(monkeypatch):
    took = iter([SLOW + 1, 2 * SLOW, 5 * SLOW, 2 * SLOW])  # first and second call of one, and of one that compiles
    calls = []
    monkeypatch.setattr("dreamfusion_ngp.bench.timing.once", lambda call, device: (call(), next(took))[1])
    found = side_by_side({"slow": lambda: calls.append(1)}, CPU, 0.0)["slow"]
    assert len(calls) == 2 == found["calls"] and found["median_ms"] == pytest.approx(1e3 * (3 * SLOW + 1) / 2)
    found = side_by_side({"compiles": lambda: calls.append(1)}, CPU, 0.0)["compiles"]
    assert len(calls) == 4 and found["calls"] == 1 and found["median_ms"] == pytest.approx(2e3 * SLOW)


def test_calls_take_turns():
    order = []
    side_by_side({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, CPU, 0.0)
    assert order[:6] == ["a", "b"] * 3


def test_bad_arguments_are_one_line(tmp_path):
    with pytest.raises(UsageError, match="not a file in an existing folder"):
        run(json_path=tmp_path / "missing" / "b.json", quick=True)


def test_a_run_that_is_cut_short_keeps_the_sizes_before(tmp_path, monkeypatch):
    def cases(resolution, config, device, half):
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
