"""The rows of a batch side by side on the CPU's cores. A network on small pictures has little for the threads of one
convolution to share, and they sleep between two (OMP_WAIT_POLICY=PASSIVE): a core for each row wakes once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor


@torch.no_grad()
def in_parts(function: Callable[[slice], Tensor], rows: int, device: torch.device) -> Tensor:
    """What `function` gives for all `rows` of a batch, asked for parts of it at once where there are several CPU
    threads to work on them. Without autograd."""
    threads = torch.get_num_threads()
    parts = min(threads, rows) if device.type == "cpu" else 1
    if parts < 2:
        return function(slice(0, rows))
    cuts = [rows * i // parts for i in range(parts + 1)]
    return torch.cat(list(_workers(parts, threads // parts).map(torch.no_grad()(function), map(slice, cuts, cuts[1:]))))


@cache
def _workers(count: int, threads: int) -> ThreadPoolExecutor:
    """`count` Python threads, whose operators have `threads` threads each."""
    before, all_there = torch.get_num_threads(), threading.Barrier(count)

    def begin() -> None:
        torch.set_num_threads(threads)  # for this thread, and as a default for threads to come
        torch.get_num_threads()  # at its first use a thread takes the default of that moment
        all_there.wait()

    pool = ThreadPoolExecutor(count, thread_name_prefix="rows", initializer=begin)
    for started in [pool.submit(int) for _ in range(count)]:
        started.result()
    torch.set_num_threads(before)  # the default for threads to come
    return pool
