"""Where tensors live and how many cores work on them: a device by its name, torch's number of threads."""

from __future__ import annotations

import logging

import torch

from .errors import NativeError, UsageError
from .native import cores, cuda_remedy, native, native_cuda, why_no_cuda

log = logging.getLogger(__name__)

MAX_THREADS = 1024


def choose_device(name: str | torch.device) -> torch.device:
    """ "auto", "cpu", "cuda" or "cuda:N" as a device that works. Raises UsageError or NativeError that says why not."""
    name = str(name)
    native()
    if name == "cpu":
        return torch.device("cpu")
    if name == "auto":
        usable = torch.cuda.is_available() and native().build_info()["cuda"]
        if torch.cuda.is_available() and not usable:
            log.warning("a GPU is here, but this installation has no CUDA code (%s); %s", why_no_cuda(), cuda_remedy())
        return torch.device("cuda" if usable else "cpu")
    if name.split(":")[0] != "cuda":
        raise UsageError(f"unknown device {name!r}; choose auto, cpu, cuda or cuda:N")
    native_cuda()
    if not torch.cuda.is_available():
        build = "a CPU build of torch" if torch.version.cuda is None else f"torch with CUDA {torch.version.cuda}"
        raise NativeError(
            f'--device {name}: no CUDA device can be used ({build}); run "dreamfusion-ngp doctor" for the reason'
        )
    try:
        device = torch.device(name)
        torch.cuda.get_device_properties(device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name}: {str(error).strip().splitlines()[0]}") from None
    return torch.device("cuda", device.index or 0)


def set_threads(threads: int | None) -> None:
    """Set torch's number of CPU threads for the whole process; None: one for each core that the process may use. Raises
    UsageError."""
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise UsageError(f"--threads must be from 1 to {MAX_THREADS}, got {threads}")
    torch.set_num_threads(threads or cores())
