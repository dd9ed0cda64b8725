"""A function in several CPU processes at once, which exchange tensors through a process group."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.multiprocessing import ProcessRaisedException
from torch.multiprocessing.spawn import ProcessException

from ...base.errors import PriorError


def run_group(function: Callable[..., None], world: int, *args) -> None:
    """Call `function(rank, world, *args)` in `world` processes of one thread each, the members of the default process
    group (gloo, over the loopback interface), and wait for all of them.

    function, args: picklable. A member that has returned may be gone: the last exchange of tensors must be over for it.
    Raises torch.multiprocessing.ProcessRaisedException, which holds the traceback, where the function raised, and
    PriorError where a process was killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        members = torch.multiprocessing.spawn(
            _member, (world, f"file://{folder}/rendezvous", function, args), nprocs=world, join=False
        )
        try:
            while not members.join():
                pass
        except ProcessException as error:
            ends = [process.exitcode for process in members.processes]
            if -signal.SIGKILL not in ends and isinstance(error, ProcessRaisedException):
                raise
            number = ends.index(-signal.SIGKILL) if -signal.SIGKILL in ends else error.error_index
            raise PriorError(
                f"process {number + 1} of {world} ended with status {ends[number]} before its work was "
                "done (-9: killed, often for want of memory; try fewer processes)"
            ) from error


def _member(rank: int, world: int, rendezvous: str, function: Callable[..., None], args: tuple) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world)
    try:
        function(rank, world, *args)
    except KeyboardInterrupt:
        leave(130)
    leave(0)


def leave(status: int) -> None:
    """End the process without finalising the interpreter.

    Gloo's threads outlive destroy_process_group where a module imported since holds the group
    (torch.distributed.nn.functional does, in default arguments). One of them that drops a tensor while the interpreter
    is finalised asks for the GIL; CPython unwinds its stack with pthread_exit, out of a destructor, and the process
    aborts: "terminate called without an active exception" (pytorch/pytorch issue 190489). The work is done by then.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # a line that cannot be written costs no work
            stream.flush()
    os._exit(status)
