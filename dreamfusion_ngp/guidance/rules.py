"""The distillation rules by name, and the models that they support."""

from __future__ import annotations

from ..base.errors import UsageError
from ..config.schema import GuidanceConfig
from .denoisers.diffusion import DiffusionDenoiser, Family
from .distill.asd import asd
from .distill.bridge import bridge
from .distill.csd import csd
from .distill.ism import ism
from .distill.linear import linear
from .distill.nfsd import nfsd
from .distill.rfds import rfds
from .distill.rfds_rev import rfds_rev
from .distill.sdi import sdi
from .distill.sds import sds
from .distill.vsd import Variational
from .distill.x0 import x0
from .protocol import Distill
from .student import Student, check_student

FUNCTIONS: dict[str, Distill] = {
    rule.__name__: rule for rule in (sds, linear, csd, nfsd, bridge, x0, asd, ism, sdi, rfds, rfds_rev)
}
RULES = (*FUNCTIONS, "vsd")
OF_FLOWS = ("rfds", "rfds_rev")


def check_rule(config: GuidanceConfig, family: Family) -> None:
    """Raise UsageError if the rule of a config does not support its model, or needs a missing package."""
    if config.rule == "vsd":
        check_student(config, family)
    if config.rule in OF_FLOWS and not family.flow:
        raise UsageError(
            f"rule {config.rule} is for models that predict the velocity of a flow (Stable Diffusion 3), which "
            f"{config.model} does not; of the others x0 comes nearest"
        )


def rule_of(config: GuidanceConfig, denoiser: DiffusionDenoiser, seed: int) -> Distill:
    """The rule that a config names, for the denoiser."""
    return Variational(Student(denoiser, seed)) if config.rule == "vsd" else FUNCTIONS[config.rule]
