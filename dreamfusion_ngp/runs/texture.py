"""The texture stage: optimises only the colours of a mesh, imported or made by the stage before."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from ..base.errors import MeshError, UsageError
from ..base.files import file_digest
from ..config.schema import RunConfig, TextureConfig
from ..importer.bake import Texels, start_image, texels_of
from ..importer.files import reads_noted
from ..importer.read import read_mesh
from ..importer.unwrap import choose_uvs
from ..importer.write import suffix_of, write_mesh
from ..optimise.painting import PaintStage
from ..optimise.stage import Stage
from ..scene.imported import ImportedMesh
from ..scene.painted_surface import Maps, PaintedSurface
from .handover import mesh_in, mesh_of, mesh_tensors, triangle
from .kept import kept_texels, kept_views

log = logging.getLogger(__name__)

DIAGONAL = 1.05  # world units, of an imported mesh's bounding box: the median of the toys'
REACH = 8  # texels around charts that are padded


class TextureStage(PaintStage):
    """mesh: as it was read, with the UVs of the new texture, or as the stage before made it (handover.py), which the
    checkpoint holds. texels: of each of its textures."""

    surface: PaintedSurface

    def __init__(self, config: RunConfig, device: str | torch.device, mesh: ImportedMesh | None = None):
        """mesh: made by the stage before; None: the file that the config names, or a placeholder."""
        texture = config.texture
        if texture.source:
            original = imported(texture)
            self.mesh = choose_uvs(original, texture.uv, texture.textures, texture.size)
        else:
            original = self.mesh = triangle(texture.size) if mesh is None else mesh
        self.texels = [texels_of(self.mesh, number, texture.size) for number in range(len(self.mesh.textures))]
        vertices = torch.from_numpy(np.ascontiguousarray(self.mesh.vertices, dtype=np.float32))
        faces = torch.from_numpy(np.ascontiguousarray(self.mesh.faces, dtype=np.int32))
        maps = maps_of(original, self.mesh, self.texels, texture)
        surface = PaintedSurface(vertices, faces, maps, config.mesh, config.field.bound, config.seed)
        surface.two_sided = bool(texture.source)  # of other programs' meshes, any may be a sheet or inside out
        super().__init__(config, device, surface)
        held = {} if texture.source else {**mesh_tensors(self.mesh), "frame": self.frame}
        self.mesh_tensors = {name: value.to(self.device) for name, value in held.items()}

    @classmethod
    def start(cls, config: RunConfig, device: str | torch.device, previous: Stage | None = None) -> Self:
        if previous is None:
            return cls(config, device)
        if config.texture.source:
            raise UsageError("a texture of an imported mesh is the first stage, with no other before it")
        return cls(config, device, mesh_of(previous, config.texture))

    @property
    def is_generated(self) -> bool:
        """Whether the mesh was made by the stage before."""
        return not self.config.texture.source

    def tensors(self) -> dict[str, torch.Tensor]:
        return super().tensors() | self.mesh_tensors

    def fitting(self, tensors: Mapping[str, torch.Tensor]) -> Self:
        """The stage, before its first step, of the mesh that a checkpoint's tensors hold."""
        mesh = mesh_in(tensors) if self.is_generated else None
        return self if mesh is None else type(self)(self.config, self.device, mesh)

    @property
    def frame(self) -> torch.Tensor:
        """See `MeshStage.frame`; the scene's axes stay."""
        units = 1 / np.cbrt(np.linalg.det(self.mesh.matrix[:3, :3]))
        return torch.from_numpy(np.append(-self.mesh.matrix[:3, 3] * units, units))

    def images(self) -> dict[int, np.ndarray]:
        """(T, T, 3) uint8 sRGB of every texture as it is now; charts are padded into the texels around them."""
        images = {}
        for number, (face, place) in enumerate(self.texels):
            where = (torch.from_numpy(v).to(self.device) for v in (face, place))
            image = (self.surface.repainted(number, *where) * 255).round().byte().cpu().numpy()
            images[number] = pad(image, face >= 0)
        return images

    @torch.no_grad()
    def vertex_colors(self) -> np.ndarray:
        """(V, 3) in [0, 1]: the colour of every vertex, on one of its triangles."""
        faces = self.surface.faces.long()
        corner = torch.zeros(len(self.surface.vertices), dtype=torch.int64, device=self.device)
        corner[faces.flatten()] = torch.arange(faces.numel(), device=self.device)
        place = torch.nn.functional.one_hot(corner % 3, 3).to(self.surface.vertices)
        return self.surface.paint(self.surface.vertices, corner // 3, place).cpu().numpy()

    def write(self, folder: Path) -> dict[str, Path]:
        """Write the imported mesh into `folder` under its own name. Returns the path of its format."""
        suffix = suffix_of(self.mesh)
        paths = write_mesh(self.mesh, folder / (Path(self.config.texture.source).stem + suffix), self.images())
        return {suffix[1:]: Path(paths[-1])}


def log_new_uvs(state: Stage) -> None:
    """Log which textures of an imported mesh have other UVs than its file, unless that was asked for."""
    if isinstance(state, TextureStage) and state.config.texture.uv == "auto":
        names = [texture.name[:40] for texture in state.mesh.textures if texture.unwrapped]
        if names:
            text = f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
            log.info("note        new UVs for %s: those of the file are missing, overlap or leave the image", text)


def imported(config: TextureConfig) -> ImportedMesh:
    """The mesh of the file that the config names. Raises MeshError, UsageError for another file than it was, or where
    one of those that it names is another."""
    path = Path(config.source)
    if not os.path.exists(path):
        raise MeshError(f"{path}, the mesh of this run, is not there; put it back, or a link to where it is")
    before, digest = framed_mesh(path, config)
    if config.digest not in ("", digest) and config.digest != (own := file_digest(path)):  # older runs have that alone
        names = "" if own == digest else ", or a file that it names is not"
        raise UsageError(f"{path} is not the file that this run was started with{names}")
    return before


def framed_mesh(path: Path, config: TextureConfig) -> tuple[ImportedMesh, str]:
    """The mesh, scaled to the size of the embedded world's toys, and the SHA-256 of its file, or of its file and those
    that it names. Raises MeshError and UsageError."""
    with reads_noted() as others:
        mesh = read_mesh(path, config.up, config.front)
    extent = np.ptp(mesh.vertices[np.unique(mesh.faces)].astype(np.float64), axis=0)
    framed = read_mesh(path, config.up, config.front, side=float(extent.max() * DIAGONAL / np.linalg.norm(extent)))
    digests = [file_digest(path), *(f"{name} {digest}" for name, digest in sorted(others.items()))]
    text = "\n".join(digests).encode("utf-8", "surrogateescape")
    return framed, hashlib.sha256(text).hexdigest() if others else digests[0]


def maps_of(before: ImportedMesh, mesh: ImportedMesh, texels: list[Texels], config: TextureConfig) -> Maps:
    """The textures as the file has them, and how much of each texel is kept."""
    images = [start_image(before, mesh, number, config.size) for number in range(len(mesh.textures))]
    views = kept_views(config.keep)
    kept = [kept_texels(mesh, one, views, config) for one in texels]
    return Maps(
        torch.from_numpy(np.stack(images)).float() / 255,
        torch.stack(kept),
        torch.tensor([texture.wrap != "clamp" for texture in mesh.textures]),
        torch.from_numpy(np.ascontiguousarray(mesh.uv, dtype=np.float32)),
        torch.from_numpy(mesh.uv_faces.astype(np.int64)),
        torch.from_numpy(mesh.face_texture().astype(np.int64)),
        home_of(mesh),
    )


def home_of(mesh: ImportedMesh) -> torch.Tensor | None:
    """`Maps.home` of a mesh."""
    home = None
    for rows, first, corners in mesh.copies():
        home = mesh.faces.astype(np.int64) if home is None else home
        home[rows] = mesh.faces[first][:, corners]
    return None if home is None else torch.from_numpy(home)


def pad(image: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """The image with texels that are not covered, but within REACH of covered ones, set to the nearest of those."""
    from scipy.ndimage import distance_transform_edt

    if covered.all() or not covered.any():
        return image
    nearest: Any = distance_transform_edt(~covered, return_indices=True)
    away, (row, column) = nearest
    near = away <= REACH
    out = image.copy()
    out[near] = image[row[near], column[near]]
    return out
