"""A finished scene as a mesh with an atlas: what a texture stage starts from, and its tensors in the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..config.schema import TextureConfig
from ..export.isosurface import Mesh, extract_mesh, finish
from ..export.meshes import SCENE
from ..export.texture import TexturedMesh, bake_texture, surface_color, vertex_normals
from ..optimise.mesh import SolidStage
from ..optimise.stage import Stage
from ..scene.imported import ImportedMesh, Material, Part, Texture
from ..scene.isolevel import query

NAMES = ("vertices", "faces", "uv", "uv_faces", "image")  # of a mesh, by the names of the checkpoint's tensors
PREFIX = "mesh."


def mesh_of(stage: Stage, config: TextureConfig) -> ImportedMesh:
    """The surface of a finished volume or mesh stage, its largest piece, of at most `config.faces` triangles, with an
    atlas of `config.size` texels a side and its colours in it, in the place and units of the stage's frame. Raises
    ExportError for an empty or not finite scene, and where there is no atlas."""
    surface = surface_of if isinstance(stage, SolidStage) else volume_surface
    mesh, color = surface(stage, config.faces)
    textured = bake_texture(mesh, color, size=config.size)
    frame = stage.frame.cpu().numpy() if isinstance(stage, SolidStage) else SCENE
    return whole_mesh(mesh.vertices, mesh.faces, textured.uv, textured.faces, textured.image, frame)


def volume_surface(stage, faces: int):
    """A volume's mesh, as an export makes it, and the function of its colours (`export.texture.Color`)."""
    field, where = stage.field, stage.device
    mesh, _ = extract_mesh(field.solid, field.bound, faces=faces, level=field.level, device=where)
    return mesh, lambda points, normals: surface_color(field.density, field.albedo, points, normals, field.bound, where)


@torch.no_grad()
def present_mesh(stage) -> Mesh:
    """The triangles of a stage's surface as they are."""
    vertices, triangles = stage.surface()
    return Mesh(vertices.double().cpu().numpy(), triangles.long().cpu().numpy())


def surface_of(stage, faces: int):
    """As `volume_surface`, of a mesh stage."""
    mesh, _ = finish(present_mesh(stage), faces=faces, keep_all=False, smooth=0, smallest=0.0)
    return mesh, lambda points, normals: query(stage.surface.color, points, stage.device)


def whole_mesh(vertices, faces, uv, uv_faces, image, frame: Sequence[float] | np.ndarray = SCENE) -> ImportedMesh:
    """One part of one material with one texture, where it stands in the scene. vertices (V, 3), faces (F, 3), uv (U,
    2), uv_faces (F, 3); image: (T, T, 3) uint8 sRGB; frame: of its files, as of `export.meshes.export_surface`."""
    count, matrix = len(faces), np.eye(4)
    matrix[:3] = np.column_stack([np.eye(3), -np.asarray(frame[:3])]) / frame[3]
    return ImportedMesh(
        name="mesh",
        vertices=np.asarray(vertices, np.float32),
        faces=np.asarray(faces, np.int32),
        uv=np.asarray(uv, np.float32),
        uv_faces=np.asarray(uv_faces, np.int32),
        colors=None,
        materials=(Material("surface", 0, np.ones(4, np.float32)),),
        face_material=np.zeros(count, np.int32),
        textures=(Texture("surface", np.asarray(image, np.uint8), "clamp"),),
        parts=(Part("mesh"),),
        face_part=np.zeros(count, np.int32),
        matrix=matrix,
        source=None,
    )


def triangle(size: int) -> ImportedMesh:
    """The smallest mesh, a placeholder until that of a checkpoint is loaded."""
    corner = np.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.0, 0.1, 0.0]])
    return whole_mesh(corner, [[0, 1, 2]], corner[:, :2] * 10, [[0, 1, 2]], np.zeros((size, size, 3), np.uint8))


def mesh_tensors(mesh: ImportedMesh) -> dict[str, Tensor]:
    """The tensors from which `mesh_in` makes a mesh of `whole_mesh` again."""
    image = mesh.textures[0].image
    values = (mesh.vertices, mesh.faces, mesh.uv, mesh.uv_faces, image)
    return {PREFIX + name: torch.from_numpy(np.array(value)) for name, value in zip(NAMES, values, strict=True)}


def mesh_in(tensors: Mapping[str, Tensor]) -> ImportedMesh | None:
    """The inverse of `mesh_tensors`; None where the tensors hold no mesh, or an invalid one."""
    if any(PREFIX + name not in tensors for name in NAMES):
        return None
    vertices, faces, uv, uv_faces, image = (tensors[PREFIX + name].cpu().numpy() for name in NAMES)
    shaped = vertices.shape[1:] == (3,) and uv.shape[1:] == (2,) and faces.shape == uv_faces.shape
    shaped = shaped and faces.shape[1:] == (3,) and image.ndim == 3 and len(faces) and faces.dtype.kind != "f"
    if not shaped or faces.min() < 0 or uv_faces.min() < 0:
        return None
    if faces.max() >= len(vertices) or uv_faces.max() >= len(uv) or image.shape[0] != image.shape[1]:
        return None
    frame = tensors["frame"].cpu().numpy() if "frame" in tensors else np.array(SCENE)  # older files lack it
    if frame.shape != (4,) or not np.isfinite(frame).all() or not frame[3] > 0:
        return None
    return whole_mesh(vertices, faces, uv, uv_faces, image, frame)


def textured_mesh(mesh: ImportedMesh, image: np.ndarray) -> TexturedMesh:
    """A mesh of `whole_mesh` with another image, with a vertex for each of its UVs."""
    first = np.zeros(len(mesh.uv), np.int64)  # the vertex of every UV
    first[mesh.uv_faces.ravel()] = mesh.faces.ravel()
    normals = vertex_normals(Mesh(mesh.vertices.astype(np.float64), mesh.faces.astype(np.int64)))
    return TexturedMesh(
        mesh.vertices[first], normals[first].astype(np.float32), mesh.uv, mesh.uv_faces.astype(np.int64), image
    )
