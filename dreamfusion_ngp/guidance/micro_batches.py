"""Splits a batch over the CPU's cores. On small pictures the threads of one convolution have little work to share, and
sleep between convolutions (OMP_WAIT_POLICY=PASSIVE); with one core per row each wakes once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch
from torch import Tensor


@torch.no_grad()
def in_micro_batches(function: Callable[[slice], Tensor], rows: int, device: torch.device) -> Tensor:
    """`function` of all `rows` of a batch, called on slices of it in parallel if there are several CPU threads. Without
    autograd."""
    threads = torch.get_num_threads()
    count = min(threads, rows) if device.type == "cpu" else 1
    if count < 2:
        return function(slice(0, rows))
    cuts = [rows * i // count for i in range(count + 1)]
    return torch.cat(list(_workers(count, threads // count).map(torch.no_grad()(function), map(slice, cuts, cuts[1:]))))


@cache
def _workers(count: int, threads: int) -> ThreadPoolExecutor:
    """`count` Python threads, whose torch operators use `threads` threads each."""
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
