"""How well `refine --geometry` repairs the shape of a mesh: toys whose true surface is known, with a spoilt back.

    python benches/reshape.py -o benches/results/reshape.json

The back half of a toy (z < 0) is flattened and covered with bumps, as feed-forward systems leave what they did not see.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..config.presets import preset
from ..evaluation.metrics.closed_mesh import surface_error
from ..export.isosurface import Mesh
from ..importer.read import read_mesh
from ..runs.refine import refine
from ..toybox.world.captions import parse_prompt
from .repair import command_line, measure_all, true_toy

FLAT = 0.75  # factor on the depth of the back
BUMP, WAVES = 0.012, 40.0  # world units, radians a world unit


def spoil(true: Path, spoilt: Path) -> Path:
    """Flatten and ruffle the back half of a GLB's shape."""
    import trimesh

    mesh: Any = trimesh.load(true, force="mesh", process=False)
    x = np.array(mesh.vertices)
    back = np.clip(-x[:, 2] / 0.05, 0, 1)  # the damage grows from z = 0 to -.05
    bumps = BUMP * np.sin(WAVES * x).sum(1) / 3
    direction = x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-9)
    x[:, 2] *= 1 - back * (1 - FLAT)
    mesh.vertices = x + (back * bumps)[:, None] * direction
    spoilt.write_bytes(mesh.export(file_type="glb"))
    return spoilt


def solid_of(path: Path) -> Mesh:
    """The triangles of a file in its own coordinates, with vertices at the same place merged."""
    mesh = read_mesh(path)
    place = mesh.to_file(mesh.vertices)
    _, first, row = np.unique(place.round(6), axis=0, return_index=True, return_inverse=True)
    faces = row.reshape(-1)[mesh.faces]
    whole = (faces != np.roll(faces, 1, axis=1)).all(1)
    return Mesh(place[first], faces[whole].astype(np.int64))


def reshape(prompt: str, root: Path, seed: int, steps: int | None, device: str) -> dict:
    """One toy: Chamfer distance and angle of normals to the true surface, before and after `steps` of the shape."""
    folder = root / prompt.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    spoilt = spoil(true_toy(prompt, folder / "true.glb", 512), folder / "spoilt.glb")
    config = replace(preset("refine-geometry"), seed=seed)
    shape = config.then
    assert shape is not None
    if steps is not None:
        shape = replace(shape, steps=steps)
        config = replace(config, then=shape)
    began = time.monotonic()
    result = refine(spoilt, prompt, folder / "runs", size=512, geometry=True, config=config, device=device)
    seconds = time.monotonic() - began
    figures = {}
    name = parse_prompt(prompt)[0]
    for label, path in (("true", folder / "true.glb"), ("before", spoilt), ("after", result.meshes["glb"])):
        chamfer, angle = surface_error(solid_of(path), name, 0.0, 1.0)
        figures |= {f"chamfer_{label}": round(chamfer, 5), f"normals_{label}": round(angle, 2)}
    return {"prompt": prompt, "seed": seed, "steps": shape.steps, "seconds": round(seconds, 1), **figures}


def main(argv: list[str] | None = None) -> int:
    args = command_line(__doc__, "reshape_runs").parse_args(argv)
    return measure_all(args, lambda prompt, root, seed: reshape(prompt, root, seed, args.steps, args.device))
