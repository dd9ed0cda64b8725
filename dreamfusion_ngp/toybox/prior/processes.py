"""Runs a function in several CPU processes, which exchange tensors through a process group."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing import parent_process, resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessException, ProcessRaisedException, start_processes

from ...base import errors
from ...base.errors import PriorError

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, kill, a closed terminal


def heard() -> list[signal.Signals]:
    """The signals of STOPS that end a group: not a hang-up that is ignored, as nohup has it."""
    return [each for each in STOPS if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN]


def run_group(function: Callable[..., None], world: int, *args) -> None:
    """Call `function(rank, world, *args)` in `world` processes of one thread each, the members of the default process
    group (gloo, over the loopback interface), and wait for all of them.

    function, args: picklable. A member may exit once it has returned, so no exchange of tensors may need it after that.
    KeyboardInterrupt and SystemExit in the caller, the STOPS in any member become one KeyboardInterrupt in the
    first member. The others keep running until it has saved, and none outlives the call.
    Raises a DreamfusionError that the function raised, torch.multiprocessing.ProcessRaisedException, which holds the
    traceback, where it raised another, and PriorError where a process was killed.
    """
    processes: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            with postponed():  # in the members too, until they handle signals: an interrupted import prints a traceback
                members: Any = start_processes(
                    _member, (world, f"file://{folder}/rendezvous", function, args), nprocs=world, join=False
                )
                processes = members.processes
            while not members.join():
                pass
        except ProcessException as error:
            ends = [process.exitcode for process in processes]
            if -signal.SIGKILL not in ends and isinstance(error, ProcessRaisedException):
                if foreseen := foreseen_error(error):
                    raise foreseen from None
                raise
            number = ends.index(-signal.SIGKILL) if -signal.SIGKILL in ends else error.error_index
            raise PriorError(
                f"process {number + 1} of {world} ended with status {ends[number]} before its work was "
                "done (-9: killed, often for want of memory; try fewer processes)"
            ) from error
        except (KeyboardInterrupt, SystemExit):
            stop(processes)
            raise


def foreseen_error(error: ProcessRaisedException) -> errors.DreamfusionError | None:
    """The DreamfusionError of a member, by the last line of its traceback; None for another error."""
    last = str(error).strip().splitlines()[-1]
    name, _, message = last.removeprefix(f"{errors.__name__}.").partition(": ")
    kind = getattr(errors, name, None) if last.startswith(f"{errors.__name__}.") else None
    return kind(message) if isinstance(kind, type) and issubclass(kind, errors.DreamfusionError) else None


@contextlib.contextmanager
def postponed():
    """Block STOPS until after the block. A process started in it receives them once it unblocks them."""
    resource_tracker.ensure_running()  # whose start, with the first process, would unblock them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def stop(processes: Sequence[BaseProcess]) -> None:
    """Interrupt the first process and wait for it; then kill the others, which would wait for it in an exchange."""
    try:
        for process in processes[:1]:
            if process.is_alive() and process.pid:
                os.kill(process.pid, signal.SIGINT)
            process.join()
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.join()


def _member(rank: int, world: int, rendezvous: str, function: Callable[..., None], args: tuple) -> None:
    stops = heard()
    for number in stops:
        signal.signal(number, signal.SIG_DFL)  # there is nothing to save before the group exists
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    parent = parent_process()
    if parent is not None and not parent.is_alive():  # it died before torch had set its death signal
        leave(1)
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world)
    for number in stops:
        signal.signal(number, signal.SIG_IGN if rank else _interrupt)
    try:
        function(rank, world, *args)
    except KeyboardInterrupt:
        leave(130)
    leave(0)


def _interrupt(number, frame) -> None:
    """A terminal's Ctrl-C reaches a member twice, from the terminal and from `stop`; the second must not cost the save
    that the first began."""
    for each in STOPS:  # one that is on its way meets a handler: Python complains of SIG_IGN there
        signal.signal(each, lambda *_: None)
    raise KeyboardInterrupt


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
