"""A fixed surface whose textures are repainted: an imported mesh under guidance."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..config.schema import FieldConfig, MeshConfig
from .fields import HashField
from .surface import Surface
from .tetra_surface import NO_BLOB

CHUNK = 1 << 17  # points per call where nothing is differentiated
EDGE = 1e-2  # colours are differentiated as if they were at least this far from black and white


@dataclass(frozen=True)
class Maps:
    """Textures of T x T texels, row 0 at the top, and the UVs of the triangles.

    image: (N, T, T, 3) float32 display-referred colours in [0, 1]. kept: (N, T, T) in [0, 1], the share of a texel that
    is not repainted. repeat: (N,) bool, whether the image repeats outside [0, 1]^2 or is clamped to its border. uv: (U,
    2), origin at the bottom left. uv_faces: (F, 3) int64 rows of uv, -1 where there are none. texture: (F,) int64, the
    texture of a triangle. home: (F, 3) int64, the vertices at which a triangle gets its colours: of a copy, which has
    the texels of another triangle, those of that one; None where there are no copies.
    """

    image: Tensor
    kept: Tensor
    repeat: Tensor
    uv: Tensor
    uv_faces: Tensor
    texture: Tensor
    home: Tensor | None = None


class PaintedSurface(Surface):
    """The colour at a point is that of its texture, changed by a hash grid in space: c = t + (1 - kept)
    (sigmoid(logit(t) + d(x)) - t), with d = 0 at first. The grid is in space, not in UV, so that colours have no
    seams."""

    vertices: Tensor
    faces: Tensor
    image: Tensor
    kept: Tensor
    repeat: Tensor
    uv: Tensor
    uv_faces: Tensor
    texture: Tensor
    home: Tensor | None

    def __init__(self, vertices: Tensor, faces: Tensor, maps: Maps, config: MeshConfig, bound: float, seed: int):
        """vertices: (V, 3) float32 world units inside the cube of `bound`. faces: (F, 3) int32."""
        super().__init__()
        self.bound = bound
        self.detail = HashField(paint_config(config, bound), seed)
        with torch.no_grad():
            self.detail.w2.zero_()
        for name, value in (("vertices", vertices), ("faces", faces), *vars(maps).items()):
            self.register_buffer(name, value, persistent=False)

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.vertices, self.faces

    def parameter_groups(self) -> dict[str, list[torch.nn.Parameter]]:
        return self.detail.parameter_groups()

    def refresh(self) -> None:
        self.detail.refresh()

    def paint(self, x: Tensor, face: Tensor, barycentric: Tensor) -> Tensor:
        number, uv = self.place(face.long(), barycentric)
        color, kept = self.texels(number, uv.detach())
        if self.home is not None:
            x = (self.vertices[self.home[face.long()]] * barycentric.detach()[..., None]).sum(1)
        return self.moved(x, color, kept)

    def place(self, face: Tensor, barycentric: Tensor) -> tuple[Tensor, Tensor]:
        """The texture (N,) int64, -1 for none, and uv (N, 2) of points on triangles face (N,) int64."""
        index = self.uv_faces[face]
        uv = (self.uv[index.clamp(min=0)] * barycentric[..., None]).sum(1)
        return torch.where((index >= 0).all(1), self.texture[face], -1), uv

    def moved(self, x: Tensor, color: Tensor, kept: Tensor) -> Tensor:
        """Current colours (N, 3) at points (N, 3) with texture colours `color` (N, 3) and kept (N,)."""
        logit = torch.logit(color.clamp(EDGE, 1 - EDGE))
        change = torch.sigmoid(logit + self.detail(x.detach())[1]) - torch.sigmoid(logit)
        return (color + (1 - kept)[:, None] * change).clamp(0, 1)

    def texels(self, number: Tensor, uv: Tensor) -> tuple[Tensor, Tensor]:
        """Colours (N, 3) and kept (N,) of texture `number` (N,) at uv (N, 2), bilinear between texel centres; gray and
        0 where the number is -1."""
        size, which = self.image.shape[1], number.clamp(min=0)
        repeat = self.repeat[which]
        place = torch.stack([uv[:, 0], 1 - uv[:, 1]], -1) * size - 0.5
        low = place.floor()
        part = place - low
        color, kept = torch.zeros_like(self.image[0, 0, 0]).expand(len(uv), 3), torch.zeros_like(uv[:, 0])
        for row in (0, 1):
            for column in (0, 1):
                weight = (part[:, 0] if column else 1 - part[:, 0]) * (part[:, 1] if row else 1 - part[:, 1])
                at = low.long() + torch.tensor([column, row], device=low.device)
                x, y = torch.where(repeat[:, None], at % size, at.clamp(0, size - 1)).unbind(1)
                color = color + weight[:, None] * self.image[which, y, x]
                kept = kept + weight * self.kept[which, y, x]
        painted = number >= 0
        return torch.where(painted[:, None], color, 0.5), torch.where(painted, kept, 0.0)

    @torch.no_grad()
    def repainted(self, number: int, face: Tensor, barycentric: Tensor) -> Tensor:
        """(T, T, 3) the current texture. face: (T, T) int32, the triangle of every texel, -1 for none; barycentric: (T,
        T, 3), its position on the triangle. Texels without a triangle stay."""
        image = self.image[number].clone()
        mask = face >= 0
        corners = self.vertices[self.faces[face[mask].long()].long()]
        x = (corners * barycentric[mask][..., None].to(corners)).sum(1)
        old, kept = image[mask], self.kept[number][mask]
        chunks = zip(x.split(CHUNK), old.split(CHUNK), kept.split(CHUNK), strict=True)
        image[mask] = torch.cat([self.moved(*chunk) for chunk in chunks]) if len(x) else old
        return image


def paint_config(config: MeshConfig, bound: float) -> FieldConfig:
    """Settings of the hash grid of `PaintedSurface.detail`."""
    return replace(
        FieldConfig(),
        levels=config.detail_levels,
        features=2,
        log2_table=config.detail_log2_table,
        base_resolution=max(2, config.detail_finest // 16),
        finest_resolution=config.detail_finest,
        interpolation="smoothstep",
        hidden=32,
        bound=bound,
        blob=NO_BLOB,
        density_bias=0.0,
        background_hidden=0,
    )
