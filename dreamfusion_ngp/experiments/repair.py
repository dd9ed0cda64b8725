"""How well `refine` repairs the back of a mesh: toys whose true colours are known, with a blurred and darkened back.

    python benches/repair.py -o benches/results/repair.json

A toy's exact surface is exported with its true colours; the back half of its texture (z < 0) is blurred and darkened,
as feed-forward systems leave what they did not see; then it is refined for its prompt with the front kept.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..base.devices import choose_device, set_threads
from ..base.files import write_atomically
from ..bench.machine import facts
from ..config.presets import preset
from ..export.meshes import export_mesh
from ..importer.bake import texels_of
from ..importer.read import read_mesh
from ..importer.write import write_mesh
from ..runs.refine import refine
from ..scene.imported import ImportedMesh
from ..scene.isolevel import LEVEL
from ..toybox.world.captions import parse_prompt
from ..toybox.world.shapes import COLORS, PARAMETERS, distance_and_slot
from ..toybox.world.tracer import part_colors
from .groups import SIX

BOUND, SHARPNESS = 0.75, 150.0  # of the toy's cube; its density falls by e within 1 / SHARPNESS world units
BLUR, SHADE, BLACK = 12.0, 0.35, 30.0  # texels; factor and offset, of 255


@dataclass(frozen=True)
class Damage:
    """Paths of the true and the damaged mesh, and masks (T, T) of the texels at the back and at the front."""

    true: Path
    damaged: Path
    back: np.ndarray
    front: np.ndarray


def true_colors(prompt: str, x: torch.Tensor) -> torch.Tensor:
    """(N, 3) colours of the toy of a prompt at points (N, 3), those of its nearest part."""
    name, color = parse_prompt(prompt)
    palette = part_colors(torch.tensor([COLORS[color]]))[0]
    _, slot = distance_and_slot(name, tuple(x.cpu()[None, :, i] for i in range(3)), torch.zeros(1, PARAMETERS))
    return palette[slot[0].long()]


def true_toy(prompt: str, path: Path, size: int) -> Path:
    """The toy of a prompt as a GLB with its true colours."""
    name, _ = parse_prompt(prompt)

    def density(x: torch.Tensor) -> torch.Tensor:
        distance, _ = distance_and_slot(name, tuple(x[None, :, i] for i in range(3)), torch.zeros(1, PARAMETERS))
        return LEVEL * torch.exp((-SHARPNESS * distance[0]).clamp(-30, 30))

    export_mesh(density, partial(true_colors, prompt), BOUND, path.parent, ("glb",), texture=size)
    (path.parent / "mesh.glb").rename(path)
    return path


def colors_of(mesh: ImportedMesh) -> np.ndarray:
    """(H, W, 3) uint8 of a mesh's first texture, which is an image."""
    image = mesh.textures[0].image
    assert image is not None
    return image[..., :3]


def damage(true: Path, damaged: Path) -> Damage:
    """Blur and darken the back half of a texture."""
    from scipy.ndimage import gaussian_filter

    mesh = read_mesh(true)
    image = colors_of(mesh).astype(np.float64)
    face, place = texels_of(mesh, 0, len(image))
    z = (mesh.vertices[mesh.faces[face.clip(min=0)]] * place[..., None]).sum(2)[..., 2]
    back, front = (face >= 0) & (z < 0), (face >= 0) & (z >= 0)
    poor = np.stack([gaussian_filter(image[..., c], BLUR) for c in range(3)], -1) * SHADE + BLACK
    image[back] = poor[back]
    write_mesh(mesh, damaged, {0: image.round().clip(0, 255).astype(np.uint8)})
    return Damage(true, damaged, back, front)


def error(path: Path, truth: Path, where: np.ndarray) -> float:
    """Root mean square difference of two meshes' textures at some texels, over the channels, in [0, 1]."""
    a, b = (colors_of(read_mesh(p)).astype(np.float64) / 255 for p in (path, truth))
    return float(np.sqrt(((a - b)[where] ** 2).mean()))


def repair(prompt: str, root: Path, seed: int, steps: int | None, size: int, device: str) -> dict:
    """One toy: errors of its back before and after, and of the kept front."""
    folder = root / prompt.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    poor = damage(true_toy(prompt, folder / "true.glb", size), folder / "damaged.glb")
    config = replace(preset("refine"), seed=seed)
    if steps is not None:
        config = replace(config, steps=steps)
    began = time.monotonic()
    result = refine(
        poor.damaged, prompt, folder / "runs", size=size, keep_views=("front",), config=config, device=device
    )
    after = result.meshes["glb"]
    kept = poor.front & (colors_of(read_mesh(after)) == colors_of(read_mesh(poor.true))).all(-1)
    return {
        "prompt": prompt,
        "seed": seed,
        "steps": config.steps,
        "seconds": round(time.monotonic() - began, 1),
        "back_before": round(error(poor.damaged, poor.true, poor.back), 4),
        "back_after": round(error(after, poor.true, poor.back), 4),
        "front_after": round(error(after, poor.true, poor.front), 4),
        "front_unchanged": round(float(kept.sum() / max(1, poor.front.sum())), 3),
        "run": result.folder.relative_to(root).as_posix() if result.folder.is_relative_to(root) else "",
    }


def command_line(doc: str | None, runs: str) -> argparse.ArgumentParser:
    """The parser that the commands of this module and of reshape.py share."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("prompts", nargs="*", default=list(SIX))
    add_measure_flags(parser, runs)
    return parser


def add_measure_flags(parser: argparse.ArgumentParser, runs: str) -> None:
    """Add the flags that `measure_all` reads. runs: the default folder of runs."""
    parser.add_argument("-o", "--out", type=Path, required=True, help="JSON file, written after every toy")
    parser.add_argument("--runs", type=Path, default=Path(runs))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)


def measure_all(args: argparse.Namespace, measure: Callable[[Any, Path, int], dict]) -> int:
    """Write the figures of each of `args.prompts` and seed, by `measure(prompt, folder of the runs, seed)`, to
    `args.out`, and print a line for each."""
    set_threads(args.threads)
    records: list[dict] = []
    for seed in args.seeds:
        for prompt in args.prompts:
            records.append(measure(prompt, args.runs.resolve() / str(seed), seed))
            record = {"machine": facts(choose_device(args.device)), "runs": records}
            write_atomically(args.out, (json.dumps(record, indent=1) + "\n").encode())
            print(", ".join(f"{key} {value}" for key, value in records[-1].items()), flush=True)
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = command_line(__doc__, "repair_runs")
    parser.add_argument("--texture-size", type=int, default=512)
    args = parser.parse_args(argv)
    return measure_all(
        args, lambda prompt, root, seed: repair(prompt, root, seed, args.steps, args.texture_size, args.device)
    )
