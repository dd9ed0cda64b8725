"""Stages that optimise a surface by score distillation. The mesh stage is Magic3D's (Lin et al. 2023, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor

from ..base.errors import UsageError
from ..config.schema import RunConfig
from ..guidance.protocol import Guidance
from ..render.mesh import MeshRendering, render_mesh
from ..render.mesh_losses import consistency_loss, laplacian_loss, laplacian_weight, sign_change_loss
from ..scene.cameras import Cameras
from ..scene.control_surface import ControlSurface
from ..scene.distance_field import make_field
from ..scene.surface import Surface
from ..scene.tetra_surface import TetraSurface
from .adam import Adam
from .adopt import adopt
from .stage import Stage, StepRecord, check_finite, check_update, merge
from .step import Draw, draw


class SurfaceStage:
    """A `Stage` (stage.py) that optimises a surface. Subclasses say how it starts."""

    def __init__(self, config: RunConfig, device: str | torch.device, surface: Surface):
        self.config, self.step, self.whole, self.before = config, 0, True, 0
        self.weights: dict[str, str] = {}
        self.guided: dict[str, Tensor] = {}
        self.surface = surface.to(device)
        self.surface.refresh()
        self.device = next(self.surface.parameters()).device
        optim = config.optim
        rates = {"grid": optim.lr_grid, "mlp": optim.lr_mlp, "offset": config.mesh.lr_offset}
        groups = self.learnt().items()
        pairs: list[tuple[Tensor, float]] = [(p, rates[name]) for name, group in groups for p in group]
        self.adam = Adam(pairs, optim)

    def learnt(self) -> dict[str, list[torch.nn.Parameter]]:
        """The parameters that steps change, as `Surface.parameter_groups`."""
        return self.surface.parameter_groups()

    def advance(self, guidance: Guidance, clock: Callable[[], float]) -> StepRecord:
        """Make one step: draw views and differentiate `accumulate` times; the last part updates."""
        config = self.config
        records = [self.differentiate(guidance, part, clock) for part in range(config.accumulate)]
        self.step += 1
        self.stepped()
        self.whole = True
        return records[0] if len(records) == 1 else merge(records)

    def differentiate(self, guidance: Guidance, part: int, clock: Callable[[], float]) -> StepRecord:
        """Draw the views of a part of a step, render, distil, add the gradient; the last part updates."""
        config, step, began = self.config, self.step, clock()
        drawn = draw(config, step * config.accumulate + part)
        ready = clock()
        rendering = self.look(drawn)
        losses = self.losses(rendering)
        rendered = clock()
        output = guidance(rendering.rgb.detach(), drawn.views, drawn.number, drawn.progress)
        terms = {"sds": output.value.detach(), **{name: value.detach() for name, (_, value) in losses.items()}}
        check_finite(terms, step)
        guided = clock()
        self.whole = part < config.accumulate - 1
        self.learn(rendering, output.gradient, losses, last=part == config.accumulate - 1)
        done = clock()
        seconds = {"guidance": guided - rendered, "field": (rendered - ready) + (done - guided), "other": ready - began}
        counts = torch.tensor([len(rendering.faces), 0], device=self.device)
        opacity = rendering.opacity.detach().mean()
        return StepRecord(step, terms, output.log, opacity, counts, self.adam.nonfinite, seconds)

    def look(self, drawn: Draw) -> MeshRendering:
        views, layers = drawn.views, self.config.guidance.layers
        rendering = render_mesh(
            self.surface,
            views.cameras,
            views.shading,
            torch.zeros_like(drawn.colors) if layers else drawn.colors,
            resolution=drawn.size,
            samples=self.config.mesh.samples,
            show=self.config.mesh.show,
        )
        if not layers:
            return rendering
        return replace(rendering, rgb=torch.cat([rendering.rgb, rendering.opacity[..., None]], -1))

    def losses(self, rendering: MeshRendering) -> dict[str, tuple[float, Tensor]]:
        """(weight, value) of the regularisers."""
        return {}

    def stepped(self) -> None:
        """Called at the end of every step, which is whole only after it."""

    def learn(
        self, rendering: MeshRendering, d_rgb: Tensor, losses: dict[str, tuple[float, Tensor]], last: bool
    ) -> None:
        """Add the gradient of a part of a step, and after the last part update everything."""
        parameters, parts = [p for p, _ in self.adam.pairs], self.config.accumulate
        outputs = [rendering.rgb, *(weight * value for weight, value in losses.values())]
        incoming = [d_rgb.contiguous() / parts, *(torch.full_like(value, 1 / parts) for _, value in losses.values())]
        gradients = torch.autograd.grad(outputs, parameters, incoming, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        if not last:
            return
        factors = torch.tensor(self.adam.factors(self.step, self.config.steps), dtype=torch.float32)
        self.adam.step(factors.to(self.device).unbind())
        self.surface.refresh()
        check_update(self.adam, self.step, self.tensors)

    def tensors(self) -> dict[str, Tensor]:
        tensors = {f"surface.{k}": v.data for k, v in self.surface.named_parameters()}
        tensors |= {f"surface.{k}": v for k, v in self.surface.state().items()}
        for i, (first, second) in enumerate(self.adam.moments):
            tensors |= {f"adam.{i}.first": first, f"adam.{i}.second": second}
        tensors |= {"adam.nonfinite": self.adam.nonfinite}
        return tensors | {f"guidance.{k}": v.data for k, v in self.guided.items()}

    def counters(self) -> dict[str, int]:
        return {"before": self.before}

    def restore(self, step: int, counters: Mapping[str, int]) -> None:
        self.step, self.before = step, counters.get("before", self.before)
        self.surface.reopen()

    @torch.no_grad()
    def show(self, cameras: Cameras, shading: Tensor, colors: Tensor, resolution: int) -> Iterator[MeshRendering]:
        """Yield the rendering of every camera over its row of colors (B, 3), four samples to a pixel."""
        for i in range(len(cameras)):
            one = slice(i, i + 1)
            yield render_mesh(self.surface, cameras[one], shading[one], colors[one], resolution=resolution, samples=2)

    @torch.no_grad()
    def occupied(self) -> float:
        """Share of the scene's cube that is inside the surface."""
        vertices, faces = self.surface()
        a, b, c = vertices[faces.long()].unbind(1)
        volume = float((a * torch.linalg.cross(b, c)).sum()) / 6
        return volume / (2 * self.surface.bound) ** 3


class SolidStage(SurfaceStage):
    """The stage of a closed surface with a field of colours, exported as a new mesh.

    frame: (4,) float64: the scene's origin in the coordinates of the mesh's file, and file units per world unit.
    """

    surface: TetraSurface | ControlSurface
    frame: Tensor

    def __init__(self, config: RunConfig, device: str | torch.device, surface: TetraSurface | ControlSurface):
        super().__init__(config, device, surface)
        self.frame = torch.tensor([0.0, 0, 0, 1], dtype=torch.float64, device=self.device)

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {"frame": self.frame}


class MeshStage(SolidStage):
    """The stage of a surface on a lattice, in shape and colours, which starts from a volume's."""

    surface: TetraSurface

    def __init__(self, config: RunConfig, device: str | torch.device):
        field = make_field(config.field, config.seed)
        field.bind({name: torch.from_numpy(value) for name, value in field.schedule(1.0).items()})  # as a volume ends
        super().__init__(config, device, TetraSurface(field, config.mesh, config.field, config.seed))

    def learnt(self) -> dict[str, list[torch.nn.Parameter]]:
        if self.config.mesh.learn == "all":
            return self.surface.parameter_groups()
        self.surface.requires_grad_(False)
        self.surface.detail.requires_grad_(True)
        return self.surface.detail.parameter_groups()

    @classmethod
    def start(cls, config: RunConfig, device: str | torch.device, previous: Stage | None = None) -> Self:
        stage = cls(config, device)
        if previous is not None:
            stage.take_over(previous)
        return stage

    @torch.no_grad()
    def take_over(self, previous: Stage) -> None:
        """Start from the surface and the colours of a finished volume, or of another surface such as an imported mesh.
        Raises UsageError for another kind of scene, ExportError for an empty one, MeshError for a mesh that encloses
        nothing."""
        if isinstance(previous, SurfaceStage):
            if not self.copy(previous):
                with torch.enable_grad():
                    adopt(self.surface, previous.surface, self.config.seed)
            if (frame := getattr(previous, "frame", None)) is not None:
                self.frame.copy_(frame)
            return
        tensors = previous.tensors()
        for name, value in self.surface.field.named_parameters():
            if (start := tensors.get(f"field.{name}")) is None or start.shape != value.shape:
                raise UsageError("a mesh starts from a volume with the same field")
            value.copy_(start)
        self.surface.refresh()
        self.surface.begin()
        self.restore(0, {})

    def copy(self, previous: SurfaceStage) -> bool:
        """Take over the shape and colours of a mesh on the same lattice as they are. Returns False for any other."""
        current, state = self.surface.state_dict(), previous.surface.state_dict()
        if not isinstance(previous, MeshStage) or any(state[k].shape != v.shape for k, v in current.items()):
            return False
        self.surface.load_state_dict(state)
        self.surface.reopen()
        return True

    def stepped(self) -> None:
        if self.step % self.config.mesh.refresh == 0:
            self.surface.refresh_band()

    def losses(self, rendering: MeshRendering) -> dict[str, tuple[float, Tensor]]:
        """(weight, value) of the regularisers to which the config gives a weight; none of a shape that is fixed."""
        config, surface = self.config.mesh, self.surface
        terms = {}
        if config.learn == "color":
            return terms
        if config.consistency:
            terms["consistency"] = (config.consistency, consistency_loss(rendering.vertex_normal, rendering.faces))
        if config.laplacian:
            weight = laplacian_weight(config, self.step / self.config.steps)
            terms["laplacian"] = (weight, laplacian_loss(rendering.vertices, rendering.faces))
        if config.sign_change:
            terms["sign_change"] = (config.sign_change, sign_change_loss(surface.value, surface.band.edges))
        return terms
