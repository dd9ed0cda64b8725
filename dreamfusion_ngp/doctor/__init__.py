"""Facts about this installation, and verdicts with a remedy each: what `dreamfusion-ngp doctor` prints.

It must work when everything else is broken: torch is first tried in a separate process, and a failing check does not
keep the next from running.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..base.errors import NativeError
from ..base.native import REBUILD
from .facts import collect_facts, list_gpus
from .installation import (
    cuda_code,
    driver,
    embedded_prior,
    ffmpeg,
    gpu_architectures,
    native_module,
    requirements,
    torch_works,
)
from .places import cache_folder, disk, fetched_models, temporary_folder
from .self_test import cpu_self_test, gpu_self_test
from .verdict import FAIL, SKIP, Verdict, describe

CHECKS = {
    "native module": native_module,
    "CUDA code": cuda_code,
    "driver": driver,
    "GPU architectures": gpu_architectures,
    "torch": torch_works,
    "requirements": requirements,
    "embedded prior": embedded_prior,
    "ffmpeg": ffmpeg,
    "disk": disk,
    "cache": cache_folder,
    "fetched models": fetched_models,
    "temporary folder": temporary_folder,
    "CPU self-test": cpu_self_test,
    "GPU self-test": gpu_self_test,
}


@dataclass(frozen=True)
class Diagnosis:
    """The findings about an installation. facts: name -> text. verdicts: name -> `Verdict`."""

    facts: dict[str, str]
    verdicts: dict[str, Verdict]

    def failed(self) -> int:
        """How many checks failed."""
        return sum(v.status == FAIL for v in self.verdicts.values())


def examine() -> Diagnosis:
    """All facts and the verdict of every check."""
    gpus = list_gpus()
    return Diagnosis(collect_facts(gpus), {name: guarded(check, gpus) for name, check in CHECKS.items()})


def guarded(check, gpus: list[dict]) -> Verdict:
    """The check's verdict; an unexpected exception becomes a verdict too."""
    try:
        return check(gpus)
    except NativeError:
        return Verdict(SKIP, "needs the native module")
    except Exception as error:  # the other checks must still run
        return Verdict(FAIL, describe(error), f"install the package again: {REBUILD}")
