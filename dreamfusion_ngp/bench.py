"""`dreamfusion-ngp bench`: time of every op and of a whole non-guidance step on this machine, beside the torch
references.

Every figure is the median of repeated calls with its spread, at a stated size; a ratio compares two things timed in
turn in one run.
"""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path

import torch

from . import __version__
from .cameras import camera_rays
from .config import CameraConfig, FieldConfig, LightConfig, RenderConfig
from .errors import UsageError, writing
from .fields import HashField
from .ops import reference
from .ops.composite import composite
from .ops.field import field_density
from .ops.hashgrid import hashgrid_encode
from .ops.march import march
from .ops.shade import shade
from .render import Occupancy, flat_background, render
from .rng import Stream, generator
from .views import sample_views

SMALL_FIELD = FieldConfig(levels=4, log2_table=10, finest_resolution=64, hidden=16)  # to see that everything runs


def timed(call, device: torch.device, seconds: float) -> dict:
    """Median, fastest and slowest call in milliseconds over about `seconds`, after one warm-up call."""
    def once() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - began) * 1e3

    once()
    times, began = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < seconds:
        times.append(once())
    times.sort()
    return {"median_ms": times[len(times) // 2], "min_ms": times[0], "max_ms": times[-1], "calls": len(times)}


class Scene:
    """A field, an occupancy grid around its blob, four views and the samples of their rays."""

    def __init__(self, resolution: int, device: torch.device, field: FieldConfig):
        self.config = RenderConfig(resolution=resolution)
        self.field = HashField(field, 0).to(device)
        self.occupancy = Occupancy(self.config, self.field.config.bound).to(device)
        edge = self.occupancy.resolution
        cell = torch.arange(edge ** 3, device=device)
        axes = torch.stack([cell // edge ** 2, cell // edge % edge, cell % edge], -1)
        inside = (((axes + 0.5) / edge * 2 - 1) * self.occupancy.bound).norm(dim=-1) < 0.4
        weights = 2 ** torch.arange(8, device=device)
        self.occupancy.bits.copy_((inside.view(-1, 8).long() * weights).sum(-1).to(torch.uint8))
        views = sample_views(CameraConfig(), LightConfig(), 4, 1.0, generator(0, 0, Stream.VIEWS))
        self.cameras, self.shading = views.cameras.to(device), views.shading.to(device)
        self.origins, self.directions = camera_rays(self.cameras, resolution)
        self.samples = self.march()
        self.n = int(self.samples.info[0])
        samples = self.samples
        self.x, self.ray, self.t = (v[:self.n].contiguous() for v in (samples.x, samples.ray_id, samples.t))

    def march(self):
        c = self.config
        return march(self.origins, self.directions, self.occupancy.bits, resolution=self.occupancy.resolution,
                     bound=self.occupancy.bound, near=c.near, step=c.step, budget=c.budget, seed=0, stream=0)

    def step(self) -> None:
        """Render and differentiate, without guidance: what the field costs in a training step."""
        r = render(self.field, self.occupancy, self.cameras, self.shading, flat_background(torch.ones(4, 3)),
                   self.config, density="exp", seed=0)
        (r.rgb.square().mean() + r.orientation.mean() + r.opacity.mean()).backward()
        self.field.zero_grad(set_to_none=True)


def cases(scene: Scene) -> dict:
    """name -> (samples or rays, our call, the reference's call or None)."""
    f, n, rays = scene.field, scene.n, len(scene.origins)
    c, positional, named = scene.config, *f._arguments()
    unit = (scene.x / f.config.bound + 1) / 2
    h, raw, g = (v.detach().requires_grad_() for v in f(scene.x))
    shade_args = (h, raw, g, scene.x, scene.ray, scene.shading, rays // 4)
    shaded = [v.detach().requires_grad_() for v in shade(*shade_args, density="exp")]

    def both(call, *inputs):
        def run():
            sum(out.sum() for out in call() if out.requires_grad).backward()
            for tensor in inputs:
                tensor.grad = None
        return run

    composite_args = (*shaded, scene.t, scene.samples.offsets, scene.directions, c.step)
    return {
        "march": (rays, scene.march, None),
        "hashgrid_encode forward": (n, lambda: hashgrid_encode(unit, f.table.detach(), f.layout),
                                    lambda: reference.hashgrid_encode(unit, f.table.detach(), f.layout)),
        "field_density": (n, lambda: field_density(scene.x, *positional, **named), None),
        "field forward + backward": (n, both(lambda: f(scene.x), *f.parameters()),
                                     both(lambda: reference.field(scene.x, *positional, **named), *f.parameters())),
        "shade forward + backward": (n, both(lambda: shade(*shade_args, density="exp"), h, raw, g),
                                     both(lambda: reference.shade(*shade_args, density="exp"), h, raw, g)),
        # no ratio: the reference walks ray by ray in Python, to be read and not to be raced
        "composite forward + backward": (rays, both(lambda: composite(*composite_args), *shaded), None),
        "step without guidance": (n, scene.step, None),
    }


def run(*, json_path: Path | None = None, quick: bool = False, device: str = "auto", threads: int | None = None) -> int:
    """Print a table; write it as JSON if asked. quick: tiny sizes. Returns the exit code. Raises UsageError before the
    work if there is no folder for the JSON."""
    from .native import build_info
    from .workflow import choose_device, set_threads

    if json_path is not None and (json_path.is_dir() or not json_path.resolve().parent.is_dir()):
        raise UsageError(f"--json {json_path}: not a file in an existing folder")
    set_threads(threads)
    where = choose_device(device)
    rows, seconds = [], 0.02 if quick else 1.0
    for resolution in (8,) if quick else (64, 128):
        scene = Scene(resolution, where, SMALL_FIELD if quick else FieldConfig())
        for name, (size, ours, theirs) in cases(scene).items():
            row = {"op": name, "resolution": resolution, "size": size, **timed(ours, where, seconds)}
            if theirs is not None:
                row["reference"] = timed(theirs, where, seconds)
                row["ratio"] = row["reference"]["median_ms"] / row["median_ms"]
            rows.append(row)
            print(table_line(row), flush=True)
    result = {"version": __version__, "torch": torch.__version__, "device": str(where),
              "machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads(),
              "build": {k: build_info().get(k) for k in ("cuda", "simd", "archs", "csrc")}, "rows": rows}
    if json_path is not None:
        with writing(json_path):
            json_path.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def table_line(row: dict) -> str:
    ratio = f"{row['ratio']:7.1f} x the torch reference" if "ratio" in row else ""
    return (f"{row['op']:<30} {row['resolution']:>4}^2 x 4  {row['size']:>8}  {row['median_ms']:9.2f} ms "
            f"({row['min_ms']:.2f}-{row['max_ms']:.2f}) {1e6 * row['median_ms'] / max(row['size'], 1):9.0f} ns each "
            f"{ratio}")
