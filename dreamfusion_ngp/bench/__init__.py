"""`dreamfusion-ngp bench`: time of every op and of whole steps on this machine, beside the peers that are installed.

Times are medians of calls that take turns in one run, with the fastest and the slowest. Beside each stand the error
against float64, the memory at its peak, and how far the time is from the least that rates measured in the same run
allow (copying, multiply-adds, random reads of and additions to a table).
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Callable

import torch
from torch import Tensor

from ..config import FieldConfig, preset
from ..errors import UsageError, writing

RESOLUTIONS = (64, 128, 256, 512)
ONLY_SMALL = 64  # the resolution at which peers take part
SMALL_FIELD = FieldConfig(levels=4, log2_table=10, finest_resolution=64, hidden=16)  # to see that everything runs
OURS = "dreamfusion_ngp"


def error_of(got: Callable[[], Tensor], truth: Tensor) -> float:
    """Root mean square of the difference, over that of the truth. Not the largest: where a sample is within rounding
    of a cell's face, its derivative is that of the cell on either side."""
    difference = got().detach().cpu().double().reshape(-1) - truth.detach().cpu().reshape(-1)
    return float(difference.norm() / truth.norm())


def measure(case, fields: dict, rates: dict, device: torch.device, seconds: float) -> list[dict]:
    """One row for us and one for each peer."""
    from .counts import floor
    from .timing import peak_memory, side_by_side

    calls = {OURS: (case.call, case.sample), **case.peers}
    times = side_by_side({name: call for name, (call, _) in calls.items()}, device, seconds)
    truth = case.truth() if case.truth else None
    rows = []
    for name, (call, sample) in calls.items():
        row = {"op": case.op, "who": name, **fields, "size": case.size, **times[name],
               "peak_bytes": peak_memory(call, device),
               "error": error_of(sample, truth) if sample and truth is not None else None}
        if name != OURS:
            row["ratio"] = row["median_ms"] / times[OURS]["median_ms"]
        elif case.counts:
            least, resource = floor(case.counts, rates)
            row |= {"counts": case.counts, "floor_ms": 1e3 * least, "bound_by": resource,
                    "share": 1e3 * least / row["median_ms"]}
        rows.append(row)
    return rows


def cases_of(resolution: int, config: FieldConfig, device: torch.device, peers: bool) -> list:
    from .cases import Problem, Scene, add_tensor_cores, encode_cases, field_cases, scene_cases
    from .peers import peers_of

    problem = Problem(resolution, config, device)
    found = encode_cases(problem) + field_cases(problem)
    if peers:
        for case in found:
            case.peers = peers_of(case.op, problem)
    if device.type == "cuda":  # at every resolution: where they pay, if anywhere, is a question of size
        add_tensor_cores(found, resolution, config, device)
    return found + scene_cases(Scene(resolution, config, device))


def run(*, json_path: Path | None = None, quick: bool = False, device: str = "auto", threads: int | None = None,
        resolutions: tuple[int, ...] = ()) -> int:
    """Print a table; write it as JSON if asked. quick: tiny sizes. Returns the exit code. Raises UsageError before the
    work if there is no folder for the JSON."""
    from ..workflow import choose_device, set_threads
    from .machine import facts
    from .timing import ceilings

    if json_path is not None and (json_path.is_dir() or not json_path.resolve().parent.is_dir()):
        raise UsageError(f"--json {json_path}: not a file in an existing folder")
    set_threads(threads)
    where = choose_device(device)
    rates, rows, seconds = ceilings(where, quick), [], 0.02 if quick else 0.5
    result = {**facts(where), "quick": quick, "ceilings": rates, "rows": rows}
    print(f"{result['machine']}, {result['threads']} threads, {result['simd']}; "
          + ", ".join(f"{name} {rate / 1e9:.2f} G/s" for name, rate in rates.items()), flush=True)
    fields = {"small": SMALL_FIELD} if quick else {"paper": FieldConfig(), "fast": preset("fast").field}
    if not quick:
        result["fields"] = {name: dataclasses.asdict(config) for name, config in fields.items()}
    for resolution in resolutions or ((8,) if quick else RESOLUTIONS):
        for name, config in fields.items():
            for case in cases_of(resolution, config, where, peers=resolution <= ONLY_SMALL):
                new = measure(case, {"field": name, "resolution": resolution}, rates, where, seconds)
                rows += new
                for row in new:
                    print(table_line(row), flush=True)
        result["load_average"] = round(os.getloadavg()[0], 1)
        if json_path is not None:  # after every resolution: what is measured stays
            with writing(json_path):
                json_path.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def table_line(row: dict) -> str:
    beside = f"{row['ratio']:8.1f} x our time" if "ratio" in row else ""
    if "share" in row:
        beside = f"{100 * row['share']:5.0f} % of {row['bound_by']}"
    error = "       " if row["error"] is None else f"{row['error']:.1e}"
    return (f"{row['op']:<30}{row['who']:<17}{row['field']:<6}{row['resolution']:>4}^2 {row['size']:>9} "
            f"{row['median_ms']:10.2f} ms ({row['min_ms']:.2f}-{row['max_ms']:.2f}) "
            f"{1e6 * row['median_ms'] / max(row['size'], 1):8.1f} ns each  {error} {beside}")
