"""Bytes, table entries and floating-point operations of each op, counted by hand from the bodies in csrc/.

bytes: streamed, each tensor once, and the table (or its gradient) once; gathers, reductions: reads of and additions to
table entries of two floats; flops: multiplications and additions of the forms below, index arithmetic left out.
"""

from __future__ import annotations

from ..ops.hashgrid import GridLayout

VALUE, GRADIENT, ADJOINT, CELL = 21, 33, 26, 24  # per feature: trilinear, with its gradient, its adjoint; per level


def _total(n: int, per_sample: dict[str, float], fixed: dict[str, float]) -> dict[str, float]:
    return {
        key: n * per_sample.get(key, 0.0) + fixed.get(key, 0.0) for key in ("bytes", "gathers", "reductions", "flops")
    }


def encode_forward(n: int, layout: GridLayout) -> dict[str, float]:
    L, K, F = layout.levels, layout.width, layout.features
    return _total(
        n, dict(bytes=12 + 4 * K, gathers=4 * K, flops=CELL * L + VALUE * K), dict(bytes=4 * layout.entries * F)
    )


def encode_backward(n: int, layout: GridLayout) -> dict[str, float]:
    """The gradient of the table is cleared, read and written."""
    L, K, F = layout.levels, layout.width, layout.features
    return _total(
        n,
        dict(bytes=12 + 4 * K, reductions=4 * K, flops=CELL * L + (ADJOINT + 8) * K),
        dict(bytes=12 * layout.entries * F),
    )


def field_density(n: int, layout: GridLayout, hidden: int) -> dict[str, float]:
    counts = encode_forward(n, layout)
    counts["bytes"] += n * (4 - 4 * layout.width)
    counts["flops"] += n * 2 * hidden * (layout.width + 4)
    return counts


def field_forward(n: int, layout: GridLayout, hidden: int, entry: int = 4) -> dict[str, float]:
    """Two products with W1, one with W2, J^T q. entry: bytes of a number in the table that is read."""
    L, K, F = layout.levels, layout.width, layout.features
    flops = CELL * L + (GRADIENT + 6) * K + 2 * hidden * (2 * K + 4) + 6 * K
    return _total(n, dict(bytes=12 + 28, gathers=4 * K, flops=flops), dict(bytes=entry * layout.entries * F))


def field_backward(n: int, layout: GridLayout, hidden: int, entry: int = 4) -> dict[str, float]:
    """The encoding and its tangent again; three products with W1 and two outer products; the scatter. The gradient is
    cleared, read and written."""
    L, K, F = layout.levels, layout.width, layout.features
    flops = 2 * CELL * L + (GRADIENT + 8 + ADJOINT + 8) * K + 2 * hidden * (5 * K + 8)
    return _total(
        n,
        dict(bytes=12 + 28, gathers=4 * K, reductions=4 * K, flops=flops),
        dict(bytes=(12 + entry) * layout.entries * F),
    )


def adam(parameters: int) -> dict[str, float]:
    """Four tensors read and written."""
    return _total(parameters, dict(bytes=32, flops=14), {})


def added(*counts: dict[str, float]) -> dict[str, float]:
    return {key: sum(c[key] for c in counts) for key in counts[0]}


def times(counts: dict[str, float], rates: dict[str, float]) -> dict[str, float]:
    """resource -> the seconds that it needs at the measured rate, if nothing else delays it."""
    needs = {
        "copy": counts["bytes"],
        "fma": counts["flops"],
        "gather": counts["gathers"],
        "reduction": counts["reductions"],
    }
    return {name: needs[name] / rates[name] for name in needs if name in rates}


def floor(counts: dict[str, float], rates: dict[str, float]) -> tuple[float, str]:
    """(seconds, resource): the least time that the measured rates allow, and the resource that sets it; resources are
    assumed to overlap without loss."""
    seconds = times(counts, rates)
    slowest = max(seconds, key=seconds.__getitem__)
    return seconds[slowest], slowest
