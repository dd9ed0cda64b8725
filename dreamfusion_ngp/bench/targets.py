"""Targets of the kernels, as data, and the verdicts: met or missed, and if missed, what the ceilings measured in the
same run allow. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

OURS = "dreamfusion_ngp"
PAPER = {"field": "paper", "resolution": 64, "precision": "float32"}  # 131072 samples along rays
RESOURCES = {"copy": "bytes", "fma": "flops", "gather": "gathers", "reduction": "reductions"}


@dataclass(frozen=True)
class Target:
    """ops: their times are added. times: least ratio of another's time to ours. most_ms: upper bound of our time."""

    device: str
    name: str
    ops: tuple[str, ...]
    who: str = OURS
    times: float | None = None
    most_ms: float = inf


ENCODE, BACKWARD, STEP = ("encode forward",), ("encode backward",), ("field step",)
KERNELS = ("field forward", "shade forward + backward", "field backward")
RAYS = ("march", "composite forward + backward")
TARGETS = (
    Target("cpu", "encode forward", ENCODE, "torch", times=10),
    Target("cpu", "encode forward", ENCODE, "drjit", times=1.5),
    Target("cpu", "encode backward", BACKWARD, "torch", times=10),
    Target("cpu", "encode backward", BACKWARD, "drjit", times=1.5),
    Target("cpu", "field step with Lambert shading", STEP, "torch, composed", times=15),
    Target("cuda", "field and shading, forward and backward", KERNELS, most_ms=0.4),
    Target("cuda", "field step, normals by autograd", STEP, "tinycudann + torch", times=5),
    Target("cuda", "field step, normals by autograd", STEP, "tinycudann + torch, jit", times=5),
    Target("cuda", "field step, normals by finite differences", STEP, "tinycudann + torch, 6 taps", times=5),
    Target("cuda", "march and composite", RAYS, "nerfacc", times=2),
    Target("cuda", "step without guidance", ("step without guidance",), most_ms=1.0),
)
MEMORY = 10.0  # peak memory per sample of the composed step over ours, with ours at 512 x 512


def rows_of(result: dict, ops: tuple[str, ...], who: str, **keys) -> list[dict] | None:
    """One row per op, None if one is missing."""
    keys = {**PAPER, **keys}
    matches = (
        next(
            (
                r
                for r in result["rows"]
                if (r["op"], r["who"]) == (op, who) and all(r.get(k, "float32") == v for k, v in keys.items())
            ),
            None,
        )
        for op in ops
    )
    rows = [row for row in matches if row is not None]
    return rows if len(rows) == len(ops) else None


def total(rows: list[dict], key: str = "median_ms") -> float:
    return sum(r[key] for r in rows)


def argument(rows: list[dict], rates: dict, limit_ms: float) -> str:
    """Where our time goes: each resource's share of it, and the least time that the ceilings allow."""
    counts = [r["counts"] for r in rows if "counts" in r]
    needs = {name: 1e3 * sum(c[key] for c in counts) / rates[name] for name, key in RESOURCES.items() if name in rates}
    needs = {name: ms for name, ms in needs.items() if ms}
    if not needs:
        return ""
    shares = ", ".join(f"{name} {100 * ms / total(rows):.0f} %" for name, ms in needs.items())
    overlapped, in_turn = max(needs.values()), sum(needs.values())
    place = (
        "is below both: the ceilings of this run do not allow it"
        if limit_ms < overlapped
        else "lies between them"
        if limit_ms < in_turn
        else "is above both: the ceilings of this run allow it"
    )
    return (
        f" Share of the ceilings in our {total(rows):.3g} ms: {shares}. They allow {overlapped:.3g} ms if all "
        f"overlap without loss and {in_turn:.3g} ms one after the other; the target, {limit_ms:.3g} ms, {place}."
    )


def verdict(target: Target, result: dict) -> str:
    """One line: "met", "missed" or "not measured"."""
    ours, theirs = rows_of(result, target.ops, OURS), rows_of(result, target.ops, target.who)
    if target.times is None:
        goal = f"at most {target.most_ms:g} ms"
    else:
        goal = f"at least {target.times:g} x as fast as {target.who}"
    head = f"{target.name}, {goal}: "
    if ours is None or theirs is None:
        return f"- not measured: {head}no rows of {target.who if ours else OURS}."
    mine = total(ours)
    limit = target.most_ms if target.times is None else total(theirs) / target.times
    fastest = total(ours, "min_ms")
    if target.times is None:
        figure = f"{mine:.3g} ms (fastest calls {fastest:.3g} ms)"
    else:
        figure = f"{total(theirs) / mine:.3g} x (fastest calls {total(theirs, 'min_ms') / fastest:.3g} x)"
    if mine <= limit:
        return f"- met: {head}{figure}."
    return f"- missed: {head}{figure}.{argument(ours, result['ceilings'], limit)}"


def memory_line(result: dict, field: str) -> str | None:
    """Peak memory per sample of a field step: ours at the largest size, the composed one's where it was measured."""
    mine, composed = (
        [
            r
            for r in result["rows"]
            if (r["op"], r["who"], r["field"]) == ("field step", who, field)
            and r.get("precision", "float32") == "float32"
            and r["peak_bytes"]
        ]
        for who in (OURS, "torch, composed")
    )
    if not mine or not composed:
        return None
    most, other = max(mine, key=lambda r: r["size"]), max(composed, key=lambda r: r["size"])
    at_a_time = other.get("chunk") or min(other["size"], 1 << 15)  # files without `chunk` are older than it
    per, theirs = most["peak_bytes"] / most["size"], other["peak_bytes"] / at_a_time
    word = "not measured at 512 x 512" if most["resolution"] < 512 else "met" if theirs >= MEMORY * per else "missed"
    return (
        f"- {word}: peak memory of the field step at most a tenth of the composed one's, a sample: ours "
        f"{most['peak_bytes'] / 1e6:.0f} MB at {most['size']} samples, {per:.0f} bytes each; composed "
        f"{other['peak_bytes'] / 1e6:.0f} MB with {at_a_time} samples at a time, {theirs:.0f} bytes each: "
        f"{theirs / per:.0f} x."
    )


def section(result: dict) -> list[str]:
    """The lines of a machine's targets; none where there is nothing to compare."""
    lines = [verdict(t, result) for t in TARGETS if t.device == result["device"]]
    if not any(rows_of(result, t.ops, OURS) for t in TARGETS if t.device == result["device"]):
        return []
    memory = memory_line(result, PAPER["field"])
    return [
        "### Targets",
        "",
        "At 131072 samples, 16 levels x 2, 2^19 rows, by medians:",
        "",
        *lines,
        *([memory] if memory else []),
        "",
    ]
