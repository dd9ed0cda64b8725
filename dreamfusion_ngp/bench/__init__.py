"""`dreamfusion-ngp bench`: times of every op and of whole steps on this machine, beside those of installed peers.

Times are medians of calls that take turns in one run, with the fastest and the slowest. Each comes with the error
against float64, the peak memory, and its distance from the least time that rates measured in the same run allow
(copying, multiply-adds, random reads of and additions to a table).
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from ..base.console import silent
from ..base.errors import UsageError, writing
from ..config.presets import preset
from ..config.schema import FieldConfig

RESOLUTIONS = (64, 128, 256, 512)
LONGEST = 3.0  # seconds: of a call of a peer at another size than its first
MOST_SAMPLES = 1 << 17  # of a peer's first size
SMALL_FIELD = FieldConfig(levels=4, log2_table=10, finest_resolution=64, hidden=16)  # to see that everything runs
OURS = "dreamfusion_ngp"


def error_of(got: Callable[[], Tensor], truth: Tensor) -> float:
    """Root mean square of the difference, over that of the truth. Not the largest difference: within rounding of a
    cell's face, the derivative may be that of either cell."""
    difference = got().detach().cpu().double().reshape(-1) - truth.detach().cpu().reshape(-1)
    return float(difference.norm() / truth.norm())


class Bench:
    """Measures cases one after the other, and skips those that earlier measurements show to take too long or too much
    memory.

    rows: the measurements. left_out: why something is missing; a peer that was left out once stays out at larger sizes.
    show: takes one line per measurement.
    """

    def __init__(
        self, device: torch.device, rates: dict[str, float], seconds: float, show: Callable[[str], object] = silent
    ):
        self.device, self.rates, self.seconds, self.show = device, rates, seconds, show
        self.rows: list[dict] = []
        self.left_out: list[str] = []
        self.gone: set[tuple] = set()  # (op, who, field, precision)

    def affordable(self, op: str, who: str, size: int, fields: dict) -> None:
        """Raise LeftOut if a peer would, by its figures at the size before, take too much time or memory."""
        from .cases import LeftOut
        from .timing import free_memory

        before = [
            r
            for r in self.rows
            if (r["op"], r["who"]) == (op, who)
            and (r["field"], r["precision"]) == (fields["field"], fields["precision"])
        ]
        if not before:
            if size > MOST_SAMPLES:
                raise LeftOut(f"not tried at first with more than {MOST_SAMPLES} samples")
            return
        seconds = before[-1]["median_ms"] / 1e3 * size / before[-1]["size"]
        if seconds > LONGEST:
            raise LeftOut(f"by its time at the size before, a call would take {seconds:.0f} s")
        needed = (before[-1]["peak_bytes"] or 0.0) * size / before[-1]["size"]
        if not before[-1]["chunk"] and needed > 0.5 * free_memory(self.device):
            raise LeftOut(f"by its memory at the size before, a call would need {needed / 1e9:.0f} GB")

    def peers(self, case, fields: dict) -> dict:
        """name -> Peer, for those that can take part."""
        from .cases import LeftOut

        ready = {}
        for who, prepare in case.peers.items():
            if (case.op, who, fields["field"], fields["precision"]) in self.gone:
                continue
            try:
                self.affordable(case.op, who, case.size, fields)
                ready[who] = prepare()
            except LeftOut as reason:
                self.leave_out(case, who, fields, str(reason))
        return ready

    def leave_out(self, case, who: str, fields: dict, reason: str) -> None:
        self.gone.add((case.op, who, fields["field"], fields["precision"]))
        self.note(f"{case.op}, {who}, {fields['field']}, from {case.size} on: {reason}")

    def note(self, text: str) -> None:
        self.left_out.append(text)
        self.show(f"left out: {text}")

    def measure(self, case, fields: dict) -> None:
        """One row for us and one for each peer."""
        from .cases import Peer
        from .counts import floor
        from .timing import host_syncs, side_by_side

        fields = {**fields, "precision": str(case.precision).removeprefix("torch.")}
        calls = {OURS: Peer(case.call, case.sample), **self.peers(case, fields)}

        def drop(name: str, error: Exception) -> None:
            if name == OURS:
                raise error
            lines = str(error).strip().splitlines() or [""]
            self.leave_out(case, name, fields, f"{type(error).__name__}: {lines[-1]}")

        times = side_by_side({name: peer.call for name, peer in calls.items()}, self.device, self.seconds, drop)
        truth = case.truth() if case.truth else None
        for name, peer in ((name, calls[name]) for name in times):
            row = {
                "op": case.op,
                "who": name,
                **fields,
                "size": case.size,
                **times[name],
                "host_syncs": host_syncs(peer.call, self.device),
                "chunk": peer.chunk,
                "note": peer.note,
                "error": error_of(peer.sample, truth) if peer.sample and truth is not None else None,
            }
            if name != OURS:
                row["ratio"] = row["median_ms"] / times[OURS]["median_ms"]
            elif case.counts:
                least, resource = floor(case.counts, self.rates)
                row |= {
                    "counts": case.counts,
                    "floor_ms": 1e3 * least,
                    "bound_by": resource,
                    "share": 1e3 * least / row["median_ms"],
                }
            self.rows.append(row)
            self.show(table_line(row))

    def size(self, resolution: int, name: str, config: FieldConfig, half: bool) -> None:
        """All cases of one size and field; none if the machine is too small for them."""
        from .cases import needed_bytes
        from .timing import free_memory

        needed, free = needed_bytes(resolution, config), free_memory(self.device)
        if needed > 0.9 * free:
            self.note(f"{name}, {resolution}^2: needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free")
            return
        for case in cases_of(resolution, config, self.device, half):
            self.measure(case, {"field": name, "resolution": resolution})
            del case  # frees its tensors before the next is made

    def meshes(self, resolution: int, quick: bool) -> None:
        """The cases of meshes of one size."""
        from .mesh_cases import TRIANGLES, Ball, mesh_cases
        from .peers import peers_of

        balls = [Ball(resolution, self.device, 200 if quick else TRIANGLES)]
        if self.device.type == "cuda":
            balls.append(Ball(resolution, self.device, 200 if quick else 2 * TRIANGLES, views=8))
        for ball, case in ((b, c) for b in balls for c in mesh_cases(b)):
            case.peers = peers_of(case.op.partition(",")[0], ball, self.device, case.precision)
            self.measure(case, {"field": "mesh", "resolution": resolution})


def cases_of(resolution: int, config: FieldConfig, device: torch.device, half: bool) -> Iterator:
    """Yield the cases of one size. half: also with a float16 copy of the table. Each is freed before the next is
    made."""
    from .cases import Problem, encode_cases
    from .field_cases import field_cases, tensor_core_peers
    from .peers import peers_of
    from .scene import Scene, scene_cases

    problem = Problem(resolution, config, device)
    for case in chain(encode_cases(problem), field_cases(problem, half)):
        case.peers = peers_of(case.op, problem, device, case.precision)
        if device.type == "cuda":  # at every resolution: whether they pay depends on the size
            case.peers |= tensor_core_peers(case, problem)
        yield case
    del problem, case
    scene = Scene(resolution, config, device)
    for case in scene_cases(scene):
        case.peers = peers_of(case.op, scene, device, case.precision)
        yield case


def run(
    *,
    json_path: Path | None = None,
    quick: bool = False,
    device: str = "auto",
    threads: int | None = None,
    resolutions: tuple[int, ...] = (),
    show: Callable[[str], object] = silent,
) -> dict:
    """Measure everything. Returns the content of the JSON, which is written to `json_path` if given. quick: tiny sizes.
    show: takes the lines of a table as they come. Raises UsageError first if there is no folder for the JSON."""
    from ..base.devices import choose_device, set_threads
    from .machine import facts
    from .timing import ceilings

    if json_path is not None and (json_path.is_dir() or not json_path.resolve().parent.is_dir()):
        raise UsageError(f"--json {json_path}: not a file in an existing folder")
    set_threads(threads)
    where = choose_device(device)
    rates = ceilings(where, quick)
    bench = Bench(where, rates, 0.02 if quick else 0.5, show)
    result = {**facts(where), "quick": quick, "ceilings": rates, "rows": bench.rows, "left_out": bench.left_out}
    measured = ", ".join(f"{name} {rate / 1e9:.2f} G/s" for name, rate in rates.items())
    show(f"{result['machine']}, {result['threads']} threads, {result['simd']}; {measured}")
    fields = {"small": SMALL_FIELD} if quick else {"paper": FieldConfig(), "fast": preset("fast").field}
    if not quick:
        result["fields"] = {name: dataclasses.asdict(config) for name, config in fields.items()}
    began = time.perf_counter()
    for resolution in resolutions or ((8,) if quick else RESOLUTIONS):
        for name, config in fields.items():
            bench.size(resolution, name, config, half=quick or where.type == "cuda")
        bench.meshes(resolution, quick)
        result |= {"load_average": round(os.getloadavg()[0], 1), "seconds": round(time.perf_counter() - began)}
        if json_path is not None:  # after every resolution, so that measurements survive an interruption
            with writing(json_path):
                json_path.write_text(json.dumps(result, indent=1) + "\n")
    return result


def table_line(row: dict) -> str:
    beside = f"{row['ratio']:8.2f} x our time" if "ratio" in row else ""
    if "share" in row:
        beside = f"{100 * row['share']:5.0f} % of {row['bound_by']}"
    error = "       " if row["error"] is None else f"{row['error']:.1e}"
    half = " f16" if row["precision"] == "float16" else ""
    line = (
        f"{row['op'] + half:<30}{row['who']:<17}{row['field']:<6}{row['resolution']:>4}^2 {row['size']:>9} "
        f"{row['median_ms']:10.2f} ms ({row['min_ms']:.2f}-{row['max_ms']:.2f}) "
        f"{1e6 * row['median_ms'] / max(row['size'], 1):8.1f} ns each  {error} {beside} {row['note'] or ''}"
    )
    return line.rstrip()
