"""Time, memory, host synchronisations, and the peak rates of the machine, with which every figure is compared."""

from __future__ import annotations

import ctypes
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from ..base.native import native

SLOW = 3.0  # seconds: a call that takes longer is timed only once after its first time
LEVEL_ROWS = 1 << 19  # of the table on which the gather and reduction rates are measured: one hashed level
RANDOM_ROWS = 1 << 21
trims: dict[str, Callable] = {}  # for peers that cache freed memory: name -> function that returns it


def clock(device: torch.device) -> float:
    """Seconds, after everything queued on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def once(call: Callable, device: torch.device) -> float:
    began = clock(device)
    call()
    return clock(device) - began


def side_by_side(
    calls: dict[str, Callable],
    device: torch.device,
    seconds: float,
    drop: Callable[[str, Exception], None] | None = None,
) -> dict[str, dict]:
    """name -> median, fastest and slowest call in ms, and the peak memory. The calls take turns, so that all have the
    same conditions. The first of each counts only where it is slow and took less than 1.5 times the second: then it
    compiled nothing. drop: called for a call that fails the first time, which is then left out; default: raise."""
    warm, peaks = {}, {}
    for name, call in calls.items():
        try:
            peaks[name] = peak_memory(lambda name=name, call=call: warm.update({name: once(call, device)}), device)
        except Exception as error:
            if drop is None:
                raise
            drop(name, error)
    calls, times = {name: calls[name] for name in peaks}, {name: [] for name in peaks}
    began, rounds = time.perf_counter(), 0
    while rounds < 3 or (time.perf_counter() - began < seconds * len(calls) and rounds < 200):
        for name, call in calls.items():
            if not times[name] or min(times[name]) <= SLOW:
                times[name].append(once(call, device))
        rounds += 1
    for name, laps in times.items():
        if len(laps) == 1 and warm[name] < 1.5 * laps[0]:
            laps.append(warm[name])
        if len(laps) > 2:  # quick enough for another call, which compiles nothing
            peaks[name] = peak_memory(calls[name], device)
    return {
        name: {
            "median_ms": 1e3 * statistics.median(t),
            "min_ms": 1e3 * min(t),
            "max_ms": 1e3 * max(t),
            "calls": len(t),
            "peak_bytes": peaks[name],
        }
        for name, t in times.items()
    }


def host_syncs(call: Callable, device: torch.device) -> int | None:
    """How often a call waits for the device, as counted by torch's synchronisation debug mode: only waits through
    torch, not those inside other libraries. None on the CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    torch.cuda.synchronize(device)
    return sum("synchronizing" in str(w.message) for w in caught)


def peak_memory(call: Callable, device: torch.device) -> float | None:
    """Bytes that a call needs beyond those in use before it; None where the system does not report it."""
    for trim in trims.values():
        trim()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return float(torch.cuda.max_memory_allocated(device) - before)
    counted = False
    try:
        native().trim()
        ctypes.CDLL(None).malloc_trim(0)  # returns freed memory, so that it counts again
        before = _resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
        counted = True
    except (OSError, AttributeError):  # not Linux, or not glibc
        pass
    call()
    return float(max(0, _resident("VmHWM") - before)) if counted else None


def _resident(key: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.split(f"{key}:")[1].split()[0])


def free_memory(device: torch.device) -> float:
    """Bytes free on the device, or on the host for "cpu"; infinite where the system does not report it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        return 1024.0 * int(text.split("MemAvailable:")[1].split()[0])
    except (OSError, IndexError):
        return float("inf")


def best_rate(amount: float, call: Callable, device: torch.device, repeats: int) -> float:
    """`amount` per second of the fastest of `repeats` calls, after one warm-up call."""
    call()
    return amount / min(once(call, device) for _ in range(repeats))


def ceilings(device: torch.device, quick: bool = False) -> dict[str, float]:
    """Rates per second: bytes read and written (by a copy, or by scaling in place, whichever is faster: a copy also
    reads what it is about to overwrite), floating-point operations in fused multiply-adds, random pairs of floats read
    from and added to a table of 4 MB. Gathers and reductions are measured on the CPU only."""
    repeats, words = (2, 1 << 18) if quick else (7, 1 << 25)
    a, b = torch.ones(words, device=device), torch.ones(words, device=device)
    rates = {
        "copy": max(best_rate(8.0 * words, call, device, repeats) for call in (lambda: b.copy_(a), lambda: b.mul_(1.0)))
    }
    if device.type == "cuda":
        size = 256 if quick else 8192
        m = torch.ones(size, size, device=device)
        return rates | {"fma": best_rate(2.0 * size**3, lambda: m @ m, device, repeats)}
    module, threads, rounds = native(), torch.get_num_threads(), 1 << (12 if quick else 22)
    operations = module.multiply_add(rounds, threads)
    rates["fma"] = best_rate(operations, lambda: module.multiply_add(rounds, threads), device, repeats)
    count = 1 << 14 if quick else RANDOM_ROWS
    rows = torch.randint(LEVEL_ROWS, (count,), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    tables = torch.zeros(threads, LEVEL_ROWS, 2)
    pointers = [t.data_ptr() for t in tables]
    rates["gather"] = best_rate(
        count, lambda: module.read_pairs(pointers[0], rows.data_ptr(), count, threads), device, repeats
    )
    rates["reduction"] = best_rate(
        count * threads, lambda: module.add_pairs(pointers, rows.data_ptr(), count), device, repeats
    )
    return rates
