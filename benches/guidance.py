"""Time and memory of one guidance step of a full-size Stable Diffusion 1.5 or SDXL with random weights.

    python benches/guidance.py --family sd15 --json benches/results/guidance.json

The UNet and the VAE have the published architectures; only the text encoders are small, since they do not run in a
step. No weights are downloaded: a random pipeline is written to a temporary folder (SDXL: 5 GB in half precision) and
loaded by the code that loads real ones. Times are medians of steps after one to warm up.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from dreamfusion_ngp.bench.random_pipeline import FAMILIES, write_pipeline
from dreamfusion_ngp.config.schema import GuidanceConfig, RunConfig
from dreamfusion_ngp.guidance.load import load_guidance
from dreamfusion_ngp.guidance.memory import plan
from dreamfusion_ngp.scene.cameras import orbit
from dreamfusion_ngp.scene.views import Views


def measure(folder: Path, args, **options) -> dict:
    """Figures of one setting of guidance."""
    device = torch.device(args.device)
    config = RunConfig(prompt="a red mug", views=args.views, guidance=GuidanceConfig(model=str(folder), **options))
    guidance = load_guidance(config, device)
    seen = Views(
        orbit([360.0 * i / args.views for i in range(args.views)], 20.0, 1.5, 1.0),
        torch.zeros(args.views, 6),
        torch.zeros(args.views, dtype=torch.int64).numpy(),
    )
    image = torch.rand(args.views, args.resolution, args.resolution, 3, device=device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)

    def step(number: int) -> float:
        began = time.perf_counter()
        guidance(image, seen, number, 0.0)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    step(0)
    times = [step(i + 1) for i in range(args.steps)]
    row = {
        "options": options,
        "median_ms": round(1e3 * statistics.median(times), 2),
        "steps": args.steps,
        "views": args.views,
        "planned_bytes": plan(guidance.denoiser, args.views, args.resolution),
    }
    if device.type == "cuda":
        row["peak_bytes"] = torch.cuda.max_memory_allocated(device)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=FAMILIES, default="sd15")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--resolution", type=int, default=64, help="pixels a side of the render")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile, without and with CUDA graphs")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="a tiny model and two steps, to see that it runs")
    args = parser.parse_args()
    if args.quick:
        args.family, args.steps = "quick", 2
    gpu = args.device.startswith("cuda")
    settings = [dict(precision="float16" if gpu else "float32"), dict(slice=1, checkpoint=True)]
    if gpu:
        settings[1]["precision"] = "float16"
    if args.compile:
        settings += [{**settings[0], "compile": mode} for mode in ("default", "reduce-overhead")]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DREAMFUSION_NGP_CACHE"] = str(Path(folder) / "cache")
        (model := Path(folder) / "model").mkdir()
        write_pipeline(model, args.family)
        rows = []
        for options in settings:
            rows.append(measure(model, args, **options))
            print(json.dumps(rows[-1]), flush=True)
    machine = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads"
    report = {"family": args.family, "machine": machine, "torch": torch.__version__, "rows": rows}
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
