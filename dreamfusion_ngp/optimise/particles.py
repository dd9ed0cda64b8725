"""Several volumes of one prompt under one guidance: the particles of VSD (Wang et al., "ProlificDreamer", NeurIPS 2023,
algorithm 1), whose student learns from all of them. Other rules treat each alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor

from ..base.errors import UsageError
from ..base.rng import later_seed
from ..config.schema import RunConfig
from ..guidance.protocol import Guidance, GuidanceOutput
from ..render.volume import Rendering
from ..scene.cameras import Cameras
from ..scene.views import Views
from .stage import Stage, StepRecord, merge
from .volume import VolumeStage


class ParticleStage:
    """A `Stage` (stage.py) of `config.particles` volumes, each with its own seed. One step advances each of them once.
    The first is the one that is shown and that a later stage goes on with.

    members: the volumes. Tensors of the first have the names that a single volume has, those of the others end in their
    number, "field.table@1".
    """

    def __init__(self, config: RunConfig, device: str | torch.device):
        self.config, self.step, self.before = config, 0, 0
        self.weights: dict[str, str] = {}
        self.guided: dict[str, Tensor] = {}
        self.members = [
            VolumeStage.start(replace(config, seed=later_seed(config.seed, i), particles=1), device)
            for i in range(config.particles)
        ]
        self.device, self.field = self.members[0].device, self.members[0].field

    @classmethod
    def start(cls, config: RunConfig, device: str | torch.device, previous: Stage | None = None) -> Self:
        if previous is not None:
            raise UsageError("several particles start from nothing: they cannot go on from another stage")
        return cls(config, device)

    @property
    def whole(self) -> bool:
        """Whether every member is, at one and the same step."""
        return all(member.whole and member.step == self.step for member in self.members)

    def advance(self, guidance: Guidance, clock: Callable[[], float]) -> StepRecord:
        records = [
            member.advance(Numbered(guidance, i, len(self.members)), clock) for i, member in enumerate(self.members)
        ]
        self.step += 1
        merged = merge(records)
        return replace(merged, nonfinite=sum(r.nonfinite for r in records))

    def tensors(self) -> dict[str, Tensor]:
        tensors = {}
        for i, member in enumerate(self.members):
            tensors |= {f"{name}@{i}" if i else name: value for name, value in member.tensors().items()}
        return tensors | {f"guidance.{k}": v.data for k, v in self.guided.items()}

    def counters(self) -> dict[str, int]:
        refreshed = {f"refreshed@{i}" if i else "refreshed": m.refreshed for i, m in enumerate(self.members)}
        return {"before": self.before, **refreshed}

    def restore(self, step: int, counters: Mapping[str, int]) -> None:
        self.step, self.before = step, counters.get("before", self.before)
        for i, member in enumerate(self.members):
            member.restore(step, {"refreshed": counters.get(f"refreshed@{i}" if i else "refreshed", -1)})

    def show(self, cameras: Cameras, shading: Tensor, colors: Tensor, resolution: int) -> Iterator[Rendering]:
        return self.members[0].show(cameras, shading, colors, resolution)

    def occupied(self) -> float:
        return sum(member.occupied() for member in self.members) / len(self.members)


class Numbered:
    """A guidance with separate random numbers for member i of `count`."""

    def __init__(self, guidance: Guidance, i: int, count: int):
        self.guidance, self.i, self.count = guidance, i, count

    def __call__(self, image: Tensor, views: Views, part: int, progress: float) -> GuidanceOutput:
        return self.guidance(image, views, part * self.count + self.i, progress)

    def tensors(self) -> dict[str, Tensor]:
        return self.guidance.tensors()
