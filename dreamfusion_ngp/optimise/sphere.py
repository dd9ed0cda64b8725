"""The stage of a sphere that becomes an object: CLIP-Mesh (Mohammad Khalid et al. 2022), under any guidance."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from ..base.errors import UsageError
from ..config.schema import RunConfig
from ..render.mesh import MeshRendering
from ..render.mesh_losses import consistency_loss, laplacian_loss, laplacian_weight
from ..scene.control_surface import ControlSurface
from .mesh import SolidStage
from .stage import Stage


class SphereStage(SolidStage):
    """Control points and colours; the uniform Laplacian is that of the control points."""

    surface: ControlSurface

    def __init__(self, config: RunConfig, device: str | torch.device):
        super().__init__(config, device, ControlSurface(config.mesh, config.field, config.seed))

    @classmethod
    def start(cls, config: RunConfig, device: str | torch.device, previous: Stage | None = None) -> Self:
        if previous is not None:
            raise UsageError("a sphere is the first stage of a run; it takes nothing over")
        return cls(config, device)

    def losses(self, rendering: MeshRendering) -> dict[str, tuple[float, Tensor]]:
        config, surface, terms = self.config.mesh, self.surface, {}
        if weight := laplacian_weight(config, self.step / self.config.steps):
            terms["laplacian"] = (weight, laplacian_loss(surface.control, surface.control_faces))
        if config.consistency:
            terms["consistency"] = (config.consistency, consistency_loss(rendering.vertex_normal, rendering.faces))
        return terms
