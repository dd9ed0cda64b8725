"""The interface of a surface: an nn.Module that returns triangles and their colours."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor


class Surface(torch.nn.Module):
    """Triangles inside the cube [-bound, bound]^3, in world units."""

    bound: float
    two_sided = False  # triangles may be seen from behind: they are shaded on the side that is seen

    @abstractmethod
    def forward(self) -> tuple[Tensor, Tensor]:
        """vertices (V, 3) float32 with autograd, faces (F, 3) int32, counter-clockwise as seen from outside."""

    @abstractmethod
    def paint(self, x: Tensor, face: Tensor, barycentric: Tensor) -> Tensor:
        """(N, 3) display-referred colours in [0, 1] with autograd, at points x (N, 3) of the surface, on triangles
        `face` (N,) int32 of the last `forward`, at `barycentric` (N, 3)."""

    def look(self, x: Tensor, face: Tensor, barycentric: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
        """Colours as `paint` returns them, and unit normals (N, 3) to shade with; normal: those of the triangles."""
        return self.paint(x, face, barycentric), normal

    @abstractmethod
    def parameter_groups(self) -> dict[str, list[torch.nn.Parameter]]:
        """Every parameter in the group whose learning rate it takes, as of `scene.field.Field`."""

    def refresh(self) -> None:
        """Recompute what is derived from the parameters; called after every change of them."""

    def state(self) -> dict[str, Tensor]:
        """Tensors besides the parameters that steps change in place, for checkpoints."""
        return {}

    def reopen(self) -> None:
        """Called after parameters and `state` were overwritten."""
        self.refresh()


def bumped(normal: Tensor, slope: Tensor) -> Tensor:
    """Unit normals (N, 3) of a surface with unit normals `normal` on which there is relief (Blinn 1978): of `slope`
    (N, 3), the gradient of its height in space, the part along the surface counts."""
    along = slope - (slope * normal).sum(-1, keepdim=True) * normal
    return torch.nn.functional.normalize(normal - along, dim=-1)


def is_behind(normal: Tensor, corner: Tensor, toward: Tensor) -> Tensor:
    """(N,) bool: whether normals (N, 3) point away from the side on which triangles `corner` (N, 3, 3) are seen, that
    of the direction `toward` (N, 3) the eye. A triangle that runs the other way round than its neighbours, whose normal
    it has, is not behind, but a sheet seen from its back is, and a solid that is inside out."""
    own = torch.linalg.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    return (normal * own).sum(-1).sign() * (own * toward).sum(-1).sign() < 0


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """(V, 3) unit normals: the area-weighted mean of the normals of the triangles around a vertex. Zero where there is
    no triangle, or where they cancel. Differentiable."""
    index = faces.long()
    a, b, c = vertices.index_select(0, index.flatten()).view(-1, 3, 3).unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    total = torch.zeros_like(vertices)
    for k in range(3):
        total = total.index_add(0, index[:, k], normal)
    return torch.nn.functional.normalize(total, dim=-1, eps=1e-20)
