"""Outputs that can be made again from a run's checkpoint: mesh files, turntable, contact sheet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from ..base.devices import choose_device
from ..base.errors import ExportError, UsageError
from ..config.schema import RunConfig
from ..export.formats import STL_SIZE, check_formats
from ..importer.write import suffix_for
from ..optimise.mesh import SolidStage
from ..optimise.particles import ParticleStage
from ..optimise.stage import Stage
from ..optimise.volume import VolumeStage
from ..scene.control_surface import ControlSurface
from .checkpoint import load_checkpoint
from .display import turntable_frames
from .folder import checkpoint_of, remembered_files
from .handover import present_mesh, textured_mesh
from .texture import TextureStage

log = logging.getLogger(__name__)

DEFAULT_FORMATS = ("glb",)
MAX_FRAMES, MAX_PIXELS = 3600, 2048
NOTICEABLE = 0.01  # share of the volume: what floats around an object is less


def load_state(run: str | Path, device: str | torch.device = "auto") -> tuple[Stage, Path]:
    """The state of a run's checkpoint and the run's folder. Raises CheckpointError."""
    path = checkpoint_of(Path(run))
    return load_checkpoint(path, choose_device(device)), path.parent.resolve()


def export(
    run: str | Path, formats: tuple[str, ...] | None = None, *, device: str | torch.device = "auto", **options
) -> dict[str, Path]:
    """Make the mesh files of a run again, from its checkpoint, in its folder. options: of `export.meshes.export_mesh`:
    resolution, texture, faces, keep_all, smooth, size, origin. formats, size and origin that are not given are what the
    run was asked for, else the defaults: ("glb",), or for an imported mesh its own format. Returns the absolute path of
    each format; "obj" adds "mtl" and "png". Raises CheckpointError for a folder without a sound checkpoint, UsageError
    for a bad argument or one that cannot apply to this run (`check_options`), ExportError for an empty scene or a
    folder that cannot be written."""
    given = options if formats is None else {"formats": check_formats(formats), **options}
    wanted = remembered_files(checkpoint_of(Path(run)).parent) | given
    state, folder = load_state(run, device)
    check_options(state.config, wanted)
    return export_run(state, folder, **wanted)


def check_options(config: RunConfig, options: Mapping) -> None:
    """Raise UsageError that names, as flags, those of the `options` of `export` that cannot apply to what a stage with
    this config makes. Logs a note for a size of which no file has any use."""
    source, fixed, reason = Path(config.texture.source), set(), ""
    if config.kind == "texture" and config.texture.source:
        own, fixed = suffix_for(source), set(options)
        fixed -= {"formats"} if tuple(options.get("formats", ())) == (own[1:],) else set()
        reason = f"was imported, and {source.stem}{own} keeps its format, place, size and triangles"
    elif config.kind == "texture":
        fixed, reason = {"resolution", "texture", "faces", "keep_all", "smooth"}, "keeps the triangles of its texture"
    elif config.kind != "volume":
        fixed, reason = {"resolution"}, "is no volume that would be sampled"
    if named := [f"--{name.replace('_', '-')}" for name in options if name in fixed]:
        raise UsageError(f"leave out {', '.join(named)}: the mesh of this run {reason}")
    if "size" in options and "stl" not in options.get("formats", DEFAULT_FORMATS):
        log.info("note        --size is the size of an STL, and --formats names none")


def export_run(state: Stage, folder: Path, formats: tuple[str, ...] = DEFAULT_FORMATS, **options) -> dict[str, Path]:
    """`export` for a state in memory, without its checks. Particles after the first are written into folders of their
    own."""
    result = export_stage(state, folder, formats, **options)
    for_others(state, lambda member, name: export_run(member, folder / name, formats, **options))
    return result


def for_others(state: Stage, write: Callable[[VolumeStage, str], object]) -> None:
    """Call `write(member, name of its folder)` for the particles after the first, all of them, then raise the first
    ExportError."""
    failures = []
    for i, member in enumerate(particles(state)[1:], 2):
        try:
            write(member, name := f"particle-{i}")
        except ExportError as error:
            failures.append(ExportError(f"{name}: {error}"))
    if failures:
        raise failures[0]


def export_stage(state: Stage, folder: Path, formats: tuple[str, ...] = DEFAULT_FORMATS, **options) -> dict[str, Path]:
    """`export_run`, of the first of several particles alone. Ignores what `check_options` refuses: a run may end early,
    in a stage before the one for which it was checked."""
    from ..export.meshes import export_mesh, export_surface

    result: dict[str, Any]
    if isinstance(state, TextureStage) and state.is_generated:
        result = export_generated(state, folder, formats, **options)
    elif isinstance(state, TextureStage):
        result = {"paths": state.write(folder)}
    elif isinstance(state, SolidStage):
        options.pop("resolution", None)  # its own lattice has one
        surface = state.surface
        result = export_surface(
            present_mesh(state),
            surface.color,
            folder,
            formats=formats,
            frame=state.frame.cpu().numpy(),
            slope=surface.slope if isinstance(surface, ControlSurface) and surface.bump else None,
            device=state.device,
            **options,
        )
    else:
        field = cast(VolumeStage, state).field
        result = export_mesh(
            field.density,
            field.albedo,
            state.config.field.bound,
            folder,
            formats=formats,
            solid=field.solid,
            level=field.level,
            device=state.device,
            **options,
        )
    for name, path in result["paths"].items():
        log.info("%-11s %s", name, path)
    if result.get("left_out", 0.0) > NOTICEABLE:
        log.info(
            "note        loose pieces, %.0f %% of the volume, are left out of the mesh; export --keep-all keeps them",
            100 * result["left_out"],
        )
    if "stl" in result["paths"]:
        sides = "{:.1f} x {:.1f} x {:.1f}".format(*result["stl_sides"])
        log.info("STL size    %s mm (width, depth, height); --size changes it", sides)
    return {name: Path(path) for name, path in result["paths"].items()}


def particles(state: Stage) -> list[VolumeStage]:
    """The volumes of a stage of several, [] of another."""
    return state.members if isinstance(state, ParticleStage) else []


def export_generated(
    state: TextureStage, folder: Path, formats, size: float = STL_SIZE, origin: str = "scene", **others
) -> dict:
    """Export the mesh that an earlier stage of the run made, with its atlas and present texture; `others` are
    ignored."""
    from ..export.isosurface import Mesh
    from ..export.meshes import export_textured

    mesh = Mesh(state.mesh.vertices.astype(np.float64), state.mesh.faces.astype(np.int64))
    textured = textured_mesh(state.mesh, state.images()[0])
    frame = state.frame.cpu().numpy()
    return export_textured(mesh, textured, state.vertex_colors(), folder, formats, size, origin, frame)


def render(
    run: str | Path, *, frames: int = 48, resolution: int = 192, device: str | torch.device = "auto"
) -> dict[str, Path]:
    """Make the turntable of a run and its contact sheet again, from its checkpoint, in its folder: colours, normals and
    untextured, side by side. frames: of one turn. resolution: pixels a side of each of the three. Returns the absolute
    paths of "turntable" (.mp4, or .webp where there is no ffmpeg) and "sheet" (.png). Raises CheckpointError for a
    folder without a sound checkpoint, UsageError for a bad number, ExportError for a file that cannot be written."""
    state, folder = load_state(run, device)
    return render_run(state, folder, frames=frames, resolution=resolution)


def render_run(state: Stage, folder: Path, *, frames: int = 48, resolution: int = 192) -> dict[str, Path]:
    """`render` for a state in memory; several particles as in `export_run`."""
    from ..export.video import contact_sheet, write_turntable

    for name, value, low, high in (("frames", frames, 1, MAX_FRAMES), ("resolution", resolution, 8, MAX_PIXELS)):
        if not low <= value <= high:
            raise UsageError(f"--{name} must be from {low} to {high}, got {value}")
    pictures, paths, failure = list(turntable_frames(state, frames, resolution)), {}, None
    try:
        paths["turntable"] = write_turntable(folder / "turntable.mp4", pictures, fps=16)
        log.info("turntable   %s", paths["turntable"])
    except ExportError as error:  # the sheet may still be written
        failure = error
    chosen = [pictures[i * frames // 8] for i in range(8)]
    paths["sheet"] = contact_sheet(folder / "contact_sheet.png", chosen, columns=2)
    log.info("sheet       %s", paths["sheet"])
    if failure is not None:
        raise failure
    for_others(state, lambda member, name: render_run(member, folder / name, frames=frames, resolution=resolution))
    return paths
