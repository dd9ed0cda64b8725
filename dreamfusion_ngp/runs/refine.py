"""Refinement of a mesh that another program made."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ..base.errors import MeshError, UsageError
from ..config.presets import preset
from ..config.schema import PaintConfig, RunConfig, TextureConfig
from ..export.formats import CONVENTIONS
from ..importer.gltf_read import glowing
from ..scene.imported import ImportedMesh
from ..scene.topology import examine_topology
from ..scene.uvs import examine_uvs
from .generate import RunResult, generate
from .kept import kept_views
from .recorder import Observer
from .texture import framed_mesh

log = logging.getLogger(__name__)

UNDEFINED_AXES = (".obj", ".ply", ".stl")  # formats that define none


def refine(
    mesh: str | Path,
    prompt: str,
    root: str | Path = "outputs",
    *,
    uv: str | None = None,
    textures: str | None = None,
    size: int | None = None,
    keep_views: str | Sequence[str] = (),
    geometry: bool = False,
    depth: bool = False,
    only_back: bool = False,
    up: str | None = None,
    front: str | None = None,
    config: RunConfig | None = None,
    device: str | torch.device = "auto",
    observer: Observer | None = None,
    catch_signals: bool = False,
) -> RunResult:
    """Repaint an imported mesh for `prompt`: only its textures change; vertices, triangles, their order, UVs, place and
    size stay. Writes it, with its new images, into a new run under `root`, under its own name.

    geometry: the shape changes too: after the texture stage the mesh is built again as a closed surface on a lattice,
    with a new atlas, and written as mesh.glb, upright, at the old place and size.

    depth: a depth-conditioned model first paints four sides in one picture (docs/texture-stage.md), as the config says,
    with `guidance.control`. only_back: as `keep_views` with "front", if that names no view.

    mesh: a GLB, glTF, OBJ, PLY or STL file (docs/imported-meshes.md). uv: "keep" its UVs, "unwrap" it anew, or "auto",
    anew only where UVs are missing or overlap. textures: "each" image its own, or "one" for all. size: texels a side.
    keep_views: of "front", "left", "back" and "right", views whose clearly visible texels stay as they are, also as
    one text with commas. up, front: axes of the file where its format does not define them. config: settings; default:
    the preset "refine", or "refine-geometry"; an argument that is None is as it says (uv "auto", textures "each", size
    1024). The other arguments, the result and the errors are those of `generate`; MeshError for a file that cannot be
    used.
    """
    path = Path(mesh)  # a link has the name and the suffix; what it leads to may have none
    base = preset("refine-geometry" if geometry else "refine") if config is None else config
    asked = kept_views(keep_views if isinstance(keep_views, str) else ",".join(keep_views))
    names = ",".join(asked or kept_views(base.texture.keep) or (("front",) if only_back else ()))
    if geometry:
        check_geometry(base, names)
    base = with_depth(base) if depth else base
    given = {"uv": uv, "textures": textures, "size": size, "up": up, "front": front}
    changes = {name: value for name, value in given.items() if value is not None}
    source = replace(base.texture, source=str(path.absolute()), keep=names, **changes)
    source = replace(source, digest=tried(path, source, base.paint))
    config = replace(base, kind="texture", prompt=prompt, texture=source)
    return generate(config, root, device=device, observer=observer, catch_signals=catch_signals)


def tried(path: Path, config: TextureConfig, paint: PaintConfig) -> str:
    """The digest of a mesh (`texture.framed_mesh`), which is read before a model is fetched or loaded for it; logs what
    its owner should know before it is painted. Raises MeshError and UsageError."""
    try:
        path.stat()
        mesh, digest = framed_mesh(path, config)
    except OSError as error:
        raise MeshError(f"{path}: {error.strerror or error}") from None
    for line in notes_on(mesh, path, config, paint):
        log.info("note        %s", line)
    return digest


def notes_on(mesh: ImportedMesh, path: Path, config: TextureConfig, paint: PaintConfig) -> Iterator[str]:
    """A line each: axes that are taken for granted, defects of the triangles, images that get another size, no colours
    to repaint, emitted light, and what may look wrong with UVs that are kept."""
    if path.suffix.lower() in UNDEFINED_AXES and config.up is None and config.front is None:
        convention = CONVENTIONS[path.suffix[1:].lower()]
        yield (
            f"{path.name} is taken to have {convention.up} up and its front towards {convention.front}, which its "
            "format leaves open; --up and --front change that"
        )
    if complaints := examine_topology(mesh).complaints():
        yield f"{path.name} has {'; '.join(complaints)}"
    images = [texture.image for texture in mesh.textures if texture.image is not None]
    height, width = max((image.shape[:2] for image in images), key=max, default=(0, 0))
    size = f"{config.size} x {config.size}"
    change = f"an image of {path.name} has {width} x {height} texels and will have {size}"
    if max(height, width) > config.size:
        yield f"{change} texels, also where views are kept; --texture-size changes that"
    elif images and config.keep and (height, width) != (config.size, config.size):
        yield f"{change}, so what views keep is interpolated; --texture-size changes that"
    colors = {tuple(material.color[:3]) for material in mesh.materials}
    if paint.views and paint.strength < 1 and not images and mesh.colors is None and len(colors) == 1:
        yield f"{path.name} has one plain colour, of which painted sides keep some; --set paint.strength=1 changes that"
    if names := glowing(mesh):
        text = f"{', '.join(name[:40] for name in names[:5])}{', ...' if len(names) > 5 else ''}"
        yield f"light that {path.name} emits ({text}) is not seen by guidance, and shows over the new colours"
    if config.uv == "keep":
        for number, texture in enumerate(mesh.textures):
            if complaints := examine_uvs(mesh, number).complaints():
                yield f"UVs of {texture.name[:40]} that are kept: {'; '.join(complaints)}"


def with_depth(config: RunConfig) -> RunConfig:
    """The config, set to paint four sides if it paints none."""
    return config if config.paint.views else replace(config, paint=replace(config.paint, views=4))


def check_geometry(config: RunConfig, kept: str) -> None:
    """Raise UsageError for settings that a new shape excludes."""
    if kept:
        raise UsageError("a new shape has a new texture, so no view of it can be kept: --geometry or --keep-views")
    if config.then is None:
        raise UsageError('a config for a new shape has a second stage of kind "mesh": see preset "refine-geometry"')
