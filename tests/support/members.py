"""What tests run in processes of their own. A process that is spawned finds a function by the name of its module, and
this folder is on the path, whichever tests run and from wherever they are started."""

import atexit
import importlib
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from dreamfusion_ngp.base.errors import DivergenceError
from dreamfusion_ngp.toybox.prior.optimizer import MuonAdamW


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_in = torch.nn.Conv2d(3, 8, 3)
        self.words = torch.nn.Embedding(5, 8)
        self.hidden = torch.nn.Conv2d(8, 16, 3)
        self.linear = torch.nn.Linear(16, 8)
        self.unused = torch.nn.Linear(4, 4)

    def forward(self, x):
        x = self.hidden(torch.relu(self.conv_in(x))).mean((2, 3))
        return (self.linear(x) * self.words.weight[0]).sum()


def two_steps(rank: int, world: int, folder: Path) -> None:
    """Two steps with the same gradients everywhere; the weights go to `folder`/WORLD-RANK.pt."""
    torch.manual_seed(0)
    model = Small()
    optimizer = MuonAdamW([model], rank, world)
    for _ in range(2):
        for name, p in model.named_parameters():
            p.grad = None if name.startswith("unused") else torch.randn_like(p)
        optimizer.aim()
        optimizer.move(1e-3)
    torch.save(model.state_dict(), folder / f"{world}-{rank}.pt")


def score_and_abort_at_exit(prior) -> dict:
    """A score of a training; the process that made it cannot finalise its interpreter."""
    assert not prior.unet.training
    atexit.register(os.abort)
    return {"right": 0.5}


def sum_beside_a_late_thread(rank: int, world: int, folder: Path) -> None:
    """Adds the ranks up and writes the sum into `folder`. The group is held as by a module that was imported after it
    was made, and the threads of gloo run when nothing else does, so that one is likely to drop its tensor late."""
    importlib.import_module("torch.distributed.nn.functional")
    for thread in Path("/proc/self/task").iterdir():
        if thread.joinpath("comm").read_text().startswith("pt_gloo"):
            os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))
    total = torch.tensor(float(rank + 1))
    dist.all_reduce(total)
    (folder / f"{rank}").write_text(f"{total:g}")


def abort_at_exit(rank: int, world: int, folder: Path) -> None:
    """Leaves a line in the buffer of its output and a file, and cannot finalise its interpreter."""
    sys.stdout = open(folder / f"{rank}.out", "w")
    print("through")
    atexit.register(os.abort)


def save_when_interrupted(rank: int, world: int, folder: Path) -> None:
    """Exchanges tensors for ever; a member that is interrupted takes a second to write `folder`/RANK."""
    dist.all_reduce(torch.zeros(1))
    os.write(1, b"begun\n")  # at once: where Python does not buffer, print writes the line and its end apart
    try:
        while True:
            dist.all_reduce(torch.zeros(1))
    except KeyboardInterrupt:
        time.sleep(1)
        (folder / str(rank)).touch()
        raise


def die(rank: int, world: int) -> None:
    """The second is killed; the first notices, since nobody answers."""
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def fail(rank: int, world: int) -> None:
    if rank == 1:
        raise ValueError("this is the reason")
    dist.barrier()


def diverge(rank: int, world: int) -> None:
    raise DivergenceError("the loss is nan: stopped")
