"""Time, memory, and what the machine can do at most: the rates that every figure is compared with."""

from __future__ import annotations

import ctypes
import statistics
import time
from pathlib import Path
from typing import Callable

import torch

from ..native import native

SLOW = 3.0  # seconds: a call that takes longer, a second time as well, is called only twice
LEVEL_ROWS = 1 << 19  # of the table that the gather and reduction rates are measured on: one hashed level
RANDOM_ROWS = 1 << 21


def clock(device: torch.device) -> float:
    """Seconds, after everything queued on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def once(call: Callable, device: torch.device) -> float:
    began = clock(device)
    call()
    return clock(device) - began


def side_by_side(calls: dict[str, Callable], device: torch.device, seconds: float) -> dict[str, dict]:
    """name -> median, fastest and slowest call in ms. The calls take turns, so that all see the same machine; the
    first of each does not count (it may compile)."""
    times = {name: [] for name in calls}
    warm = {name: once(call, device) for name, call in calls.items()}
    began, rounds = time.perf_counter(), 0
    while rounds < 3 or (time.perf_counter() - began < seconds * len(calls) and rounds < 200):
        for name, call in calls.items():
            if not times[name] or min(times[name]) <= SLOW:
                times[name].append(once(call, device))
        rounds += 1
    for name, found in times.items():
        if len(found) == 1 and warm[name] < 1.5 * found[0]:
            found.append(warm[name])  # slow, and nothing was compiled
    return {name: {"median_ms": 1e3 * statistics.median(t), "min_ms": 1e3 * min(t), "max_ms": 1e3 * max(t),
                   "calls": len(t)} for name, t in times.items()}


def peak_memory(call: Callable, device: torch.device) -> float | None:
    """Bytes that a call needs beyond those in use before it; None where the system does not tell."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return float(torch.cuda.max_memory_allocated(device) - before)
    try:
        native().trim()
        ctypes.CDLL(None).malloc_trim(0)  # what earlier calls freed counts anew
        before = _resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
        call()
        return float(max(0, _resident("VmHWM") - before))
    except (OSError, AttributeError):  # not Linux, or not glibc
        return None


def _resident(key: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.split(f"{key}:")[1].split()[0])


def best_rate(amount: float, call: Callable, device: torch.device, repeats: int) -> float:
    """`amount` per second of the fastest of `repeats` calls, after one that does not count."""
    call()
    return amount / min(once(call, device) for _ in range(repeats))


def ceilings(device: torch.device, quick: bool = False) -> dict[str, float]:
    """Rates per second: bytes copied (read and written), floating-point operations in fused multiply-adds, random pairs
    of floats read from and added to a table of 4 MB. Gathers and reductions are measured on the CPU only."""
    repeats, words = (2, 1 << 18) if quick else (7, 1 << 25)
    a, b = torch.ones(words, device=device), torch.ones(words, device=device)
    rates = {"copy": best_rate(8.0 * words, lambda: b.copy_(a), device, repeats)}
    if device.type == "cuda":
        size = 256 if quick else 8192
        m = torch.ones(size, size, device=device)
        return rates | {"fma": best_rate(2.0 * size ** 3, lambda: m @ m, device, repeats)}
    module, threads, rounds = native(), torch.get_num_threads(), 1 << (12 if quick else 22)
    operations = module.multiply_add(rounds, threads)
    rates["fma"] = best_rate(operations, lambda: module.multiply_add(rounds, threads), device, repeats)
    count = 1 << 14 if quick else RANDOM_ROWS
    rows = torch.randint(LEVEL_ROWS, (count,), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    tables = torch.zeros(threads, LEVEL_ROWS, 2)
    pointers = [t.data_ptr() for t in tables]
    rates["gather"] = best_rate(count, lambda: module.read_pairs(pointers[0], rows.data_ptr(), count, threads), device,
                                repeats)
    rates["reduction"] = best_rate(count * threads, lambda: module.add_pairs(pointers, rows.data_ptr(), count), device,
                                   repeats)
    return rates
