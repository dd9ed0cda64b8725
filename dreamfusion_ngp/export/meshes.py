"""Mesh files: GLB, OBJ + MTL + PNG, PLY, STL, each in the axes and units of its format (formats.py)."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..base.errors import ExportError, UsageError
from ..base.files import write_together
from ..scene.isolevel import query
from .formats import CONVENTIONS, STL_SIZE, check_formats, check_origin, check_size
from .isosurface import Mesh, extract_mesh, finish, vertex_normals
from .texture import MAX_TEXTURE, Color, Slope, TexturedMesh, bake_texture, surface_color

SCENE = (0.0, 0.0, 0.0, 1.0)  # the frame of the scene itself
Z_UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])  # (x, y, z) @ Z_UP = (x, -z, y): a rotation


def export_mesh(
    density,
    albedo,
    bound: float,
    folder,
    formats=("glb",),
    resolution: int = 128,
    texture: int = 1024,
    faces: int = 20000,
    keep_all: bool = False,
    smooth: int = 0,
    size: float = STL_SIZE,
    origin: str = "scene",
    solid=None,
    level: float | None = None,
    device: str | torch.device = "cpu",
) -> dict:
    """Write mesh.<format> files into `folder` (made if missing), all of them or none.

    density, albedo: callables, world points (N, 3) float32 on `device` -> (N,) density per world unit, (N, 3) sRGB
    values in [0, 1].
    resolution: samples per axis of the scene cube [-bound, bound]^3. texture: texels a side. faces: budget, 0 for no
    decimation. keep_all: every separate piece, not only the largest. smooth: iterations of Taubin smoothing.
    size: longest side of an STL, millimetres; the other formats have the scene's size, in metres.
    origin: "scene", the point that the cameras circle; "base", the middle of the bounding box's bottom, so that the
    object stands on the ground; "centre", the middle of the bounding box.
    solid, level: like density, and its value at the surface, where that is known (`scene.field.Field.solid`); None: the
    density itself, at the level of `isolevel.iso_level`.
    Returns {"paths": {"glb": absolute path, ...}} ("obj" adds "mtl" and "png"), for an STL "stl_sides" (width, depth,
    height in millimetres), and the figures of `isosurface.extract_mesh`.
    Raises UsageError for a bad argument, ExportError for a field that is empty or not finite, or a bad folder.
    """
    check_limits(texture, faces)
    grid: dict[str, Any] = dict(
        resolution=resolution, faces=faces, keep_all=keep_all, smooth=smooth, level=level, device=device
    )
    place = (Path(folder).resolve(), check_formats(formats), texture, check_size(size), check_origin(origin))
    mesh, stats = extract_mesh(density if solid is None else solid, bound, **grid)

    def color(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        return surface_color(density, albedo, points, normals, bound, device)

    return write_mesh(mesh, color, *place) | stats


def export_surface(
    mesh: Mesh,
    albedo,
    folder,
    formats=("glb",),
    texture: int = 1024,
    faces: int = 20000,
    keep_all: bool = False,
    smooth: int = 0,
    size: float = STL_SIZE,
    origin: str = "scene",
    frame: Sequence[float] | np.ndarray = SCENE,
    slope=None,
    device: str | torch.device = "cpu",
) -> dict:
    """As `export_mesh`, of an existing closed surface: albedo gives the colours of points on it, slope the gradient of
    a relief's height, which a GLB has as a normal map (None: no relief). frame: (4,), the scene's origin in the
    coordinates of the files, and file units per world unit."""
    check_limits(texture, faces)
    place = (Path(folder).resolve(), check_formats(formats), texture, check_size(size), check_origin(origin))
    if not len(mesh.faces):
        raise ExportError("the scene is empty: its surface has no triangle")
    mesh, stats = finish(mesh, faces=faces, keep_all=keep_all, smooth=smooth, smallest=0.0)
    relief = None if slope is None else lambda points: query(slope, points, device)
    return write_mesh(mesh, lambda points, _: query(albedo, points, device), *place, frame, slope=relief) | stats


def export_textured(
    mesh: Mesh,
    textured: TexturedMesh,
    colors: np.ndarray,
    folder,
    formats=("glb",),
    size: float = STL_SIZE,
    origin: str = "scene",
    frame: Sequence[float] | np.ndarray = SCENE,
) -> dict:
    """As `export_mesh`, of a closed mesh that has a texture: `textured` is the same mesh with a vertex per UV. colors:
    (V, 3) in [0, 1], of its vertices, for formats without a texture. frame: as of `export_surface`."""
    place = (Path(folder).resolve(), check_formats(formats), len(textured.image), check_size(size))
    return write_mesh(mesh, lambda points, normals: colors, *place, check_origin(origin), frame, textured)


def write_mesh(
    mesh: Mesh,
    color: Color,
    folder: Path,
    formats,
    texture: int,
    size: float,
    origin: str,
    frame: Sequence[float] | np.ndarray = SCENE,
    textured: TexturedMesh | None = None,
    slope: Slope | None = None,
) -> dict:
    """Write the files of `export_mesh` for a mesh and its colours. Returns their paths and the sides of an STL.
    textured: the mesh with its atlas and texture, where it has them already. slope: of its relief, if it has one."""
    stats, files = {}, {}
    placed = Mesh(mesh.vertices * frame[3] + np.asarray(frame[:3]), mesh.faces)
    shift = -origin_of(placed.vertices, origin)
    if {"glb", "obj"} & set(formats):
        textured = bake_texture(mesh, color, size=texture, slope=slope) if textured is None else textured
        vertices = textured.vertices * frame[3] + (np.asarray(frame[:3]) + shift)
        textured = replace(textured, vertices=vertices.astype(textured.vertices.dtype))
        check_finite(textured.vertices, textured.normals, textured.uv)
        if "glb" in formats:
            files["mesh.glb"] = glb_bytes(textured)
        if "obj" in formats:
            files |= obj_files(textured)
    if "ply" in formats:
        files["mesh.ply"] = ply_bytes(turned(placed, shift), color(mesh.vertices, vertex_normals(mesh)))
    if "stl" in formats:
        solid = of_size(turned(placed, shift), size)
        files["mesh.stl"] = stl_bytes(solid)
        stats["stl_sides"] = np.ptp(solid.vertices, axis=0).tolist()
    return {"paths": write_files(folder, files), **stats}


def check_limits(texture: int, faces: int) -> None:
    if not 16 <= texture <= MAX_TEXTURE:
        raise UsageError(f"texture size must be between 16 and {MAX_TEXTURE} texels, got {texture}")
    if faces < 0:
        raise UsageError(f"faces must be at least 0 (0: no limit), got {faces}")


def of_size(mesh: Mesh, size: float) -> Mesh:
    """The mesh with a longest side of `size`."""
    return Mesh(mesh.vertices * (size / np.ptp(mesh.vertices, axis=0).max()), mesh.faces)


def origin_of(vertices: np.ndarray, origin: str) -> np.ndarray:
    """(3,) the point of the scene, +Y up, that becomes the origin of a file."""
    if origin == "scene":
        return np.zeros(3)
    low, high = vertices.min(0), vertices.max(0)
    middle = (low + high) / 2
    return np.array([middle[0], low[1], middle[2]]) if origin == "base" else middle


def turned(mesh: Mesh, shift: np.ndarray) -> Mesh:
    """The mesh moved by `shift`, then with +Z up and its front to -Y."""
    return Mesh((mesh.vertices + shift) @ Z_UP, mesh.faces)


def convention_text(name: str) -> str:
    """The axes and the unit of a format, as its files state them."""
    convention = CONVENTIONS[name]
    return f"{convention.unit}, {convention.up} up, front {convention.front}"


def check_finite(*arrays: np.ndarray) -> None:
    if not all(np.isfinite(a).all() for a in arrays):
        raise ExportError("the mesh has coordinates that are not finite; nothing was written")


def write_files(folder: Path, files: dict[str, bytes]) -> dict[str, str]:
    """Write the files, all of them or none. Returns absolute paths by extension."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_together(folder, files)
    except OSError as error:
        raise ExportError(f"cannot write to {folder}: {error.strerror or error}") from None
    return {name.rsplit(".", 1)[1]: str(folder / name) for name in files}


def png_bytes(image: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def glb_bytes(textured: TexturedMesh) -> bytes:
    """Binary glTF 2.0: one mesh, one material with baseColorTexture (sRGB by the standard), metallic 0, roughness 1,
    and a normalTexture with tangents where there is a normal map."""
    import trimesh
    from PIL import Image
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import PBRMaterial

    def image(pixels: np.ndarray):
        return Image.open(io.BytesIO(png_bytes(pixels)))  # has the format PNG, in which it is then embedded

    material = PBRMaterial(
        name="surface",
        baseColorTexture=image(textured.image),
        normalTexture=None if textured.normal_map is None else image(textured.normal_map),
        metallicFactor=0.0,
        roughnessFactor=1.0,
        doubleSided=False,
    )
    mesh = trimesh.Trimesh(
        textured.vertices,
        textured.faces,
        vertex_normals=textured.normals,
        vertex_attributes={} if textured.tangents is None else {"_TANGENT": textured.tangents},
        process=False,
        visual=TextureVisuals(uv=textured.uv, material=material),
    )
    scene = trimesh.Scene()
    scene.add_geometry(mesh, geom_name="mesh", node_name="mesh")
    data: Any = scene.export(file_type="glb", include_normals=True, tree_postprocessor=name_tangents)
    return data


def name_tangents(tree: dict) -> None:
    """Give tangents their name in glTF; trimesh marks attributes that it does not know as the application's own."""
    for mesh in tree["meshes"]:
        for primitive in mesh["primitives"]:
            if "_TANGENT" in primitive["attributes"]:
                primitive["attributes"]["TANGENT"] = primitive["attributes"].pop("_TANGENT")


def obj_files(textured: TexturedMesh) -> dict[str, bytes]:
    """Wavefront OBJ with its material and texture beside it."""
    lines = [f"# {convention_text('obj')}", "mtllib mesh.mtl", "o mesh", "usemtl surface"]
    small = math.floor(-math.log10(max(np.ptp(textured.vertices, axis=0).max(), 1e-30)))  # kilometres, say
    row = "v {0:.{3}f} {1:.{3}f} {2:.{3}f}"
    lines += [row.format(*v, 6 + max(0, small)) for v in textured.vertices]
    lines += ["vt {:.6f} {:.6f}".format(*v) for v in textured.uv]
    lines += ["vn {:.4f} {:.4f} {:.4f}".format(*v) for v in textured.normals]
    lines += ["f {0}/{0}/{0} {1}/{1}/{1} {2}/{2}/{2}".format(*(f + 1)) for f in textured.faces]
    material = "newmtl surface\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nd 1\nillum 1\nmap_Kd mesh.png\n"
    return {
        "mesh.obj": ("\n".join(lines) + "\n").encode(),
        "mesh.mtl": material.encode(),
        "mesh.png": png_bytes(textured.image),
    }


def ply_bytes(mesh: Mesh, color: np.ndarray) -> bytes:
    """Binary PLY with normals and vertex colours (8 bits, sRGB), and a comment that states its axes."""
    import trimesh
    from trimesh.exchange.ply import export_ply

    check_finite(mesh.vertices, color)
    rgba = np.concatenate([(color * 255).round(), np.full((len(color), 1), 255)], 1).astype(np.uint8)
    solid = trimesh.Trimesh(
        mesh.vertices, mesh.faces, vertex_normals=vertex_normals(mesh), vertex_colors=rgba, process=False
    )
    head, body = export_ply(solid, vertex_normal=True).split(b"\nelement ", 1)
    return head + f"\ncomment {convention_text('ply')}\nelement ".encode() + body


def stl_bytes(mesh: Mesh) -> bytes:
    """Binary STL: only the shape; its 80-byte header states the unit and the axes."""
    import trimesh
    from trimesh.exchange.stl import export_stl

    check_finite(mesh.vertices)
    data = export_stl(trimesh.Trimesh(mesh.vertices, mesh.faces, process=False))
    return f"dreamfusion_ngp: {convention_text('stl')}".encode().ljust(80, b"\0") + data[80:]
