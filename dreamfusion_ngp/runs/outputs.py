"""What can be made of a run again: its mesh files, its turntable and contact sheet."""

from __future__ import annotations

from pathlib import Path

from ..base.devices import choose_device, set_threads
from ..base.errors import ExportError, UsageError
from ..optimise.loop import State
from .checkpoint import load_checkpoint
from .display import turntable_frames
from .folder import checkpoint_of

MAX_FRAMES, MAX_PIXELS = 3600, 2048


def load_state(run: Path, device: str = "auto", threads: int | None = None) -> tuple[State, Path]:
    set_threads(threads)
    path = checkpoint_of(run)
    return load_checkpoint(path, choose_device(device)), path.parent.resolve()


def export_run(state: State, folder: Path, formats: tuple[str, ...] = ("glb",), **options) -> dict:
    from ..export.meshes import export_mesh

    device = state.device
    result = export_mesh(
        lambda x: state.field.density(x.to(device)).cpu(),
        lambda x: state.field.albedo(x.to(device)).cpu(),
        state.config.field.bound,
        folder,
        formats=formats,
        **options,
    )
    for name, path in result["paths"].items():
        print(f"{name:<11} {path}")
    if "stl" in result["paths"]:
        width, depth, height = result["stl_sides"]
        print(f"STL size    {width:.1f} x {depth:.1f} x {height:.1f} mm (width, depth, height); --size changes it")
    return result


def render_run(state: State, folder: Path, *, frames: int = 48, resolution: int = 192) -> Path:
    from ..export.video import contact_sheet, write_turntable

    for name, value, low, high in (("frames", frames, 1, MAX_FRAMES), ("resolution", resolution, 8, MAX_PIXELS)):
        if not low <= value <= high:
            raise UsageError(f"--{name} must be from {low} to {high}, got {value}")
    pictures, path, failure = list(turntable_frames(state, frames, resolution)), None, None
    try:
        path = write_turntable(folder / "turntable.mp4", pictures, fps=16)
        print(f"turntable   {path}")
    except ExportError as error:  # the sheet may do all the same
        failure = error
    sheet = contact_sheet(folder / "contact_sheet.png", [pictures[i * frames // 8] for i in range(8)], columns=2)
    print(f"sheet       {sheet}")
    if failure is not None:
        raise failure
    return path
