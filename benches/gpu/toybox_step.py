"""Whole steps with the embedded prior on a GPU, as `generate` makes them: without and with CUDA graphs, and the options
of the field that are off. Steps a second of a run that is under way, without waiting between steps, and where
the time of a step goes, with waits around its parts.

    python benches/gpu/toybox_step.py [--json FILE] [--device cuda] [--quick]
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch

from dreamfusion_ngp.config.presets import preset
from dreamfusion_ngp.guidance.load import load_guidance
from dreamfusion_ngp.optimise.executors import executor
from dreamfusion_ngp.optimise.stage import device_clock
from dreamfusion_ngp.optimise.volume import VolumeStage, train_step

WARM, STEPS, PARTS = 150, 200, 32  # steps: before anything counts; counted as they run; with waits
VARIANTS = {  # settings of the run, settings of its field
    "eager": ({"cuda_graphs": False}, {}),
    "graphs": ({}, {}),
    "graphs, tensor cores": ({}, {"tensor_cores": True}),
    "graphs, float16 table": ({}, {"half_table": True}),
}


def measure(name: str, variant: str, device: torch.device, quick: bool) -> dict:
    """One row: the preset `name` with the settings of a variant."""
    of_run, of_field = VARIANTS[variant]
    config = preset(name)
    config = replace(config, prompt="a red mug", **of_run, field=replace(config.field, **of_field))
    warm, count, parts = (4, 2, 2) if quick else (WARM, STEPS, PARTS)
    state, guidance, clock = VolumeStage(config, device), load_guidance(config, device), device_clock(device)
    run, host = executor(state), time.perf_counter
    for _ in range(warm):
        train_step(state, guidance, config, host, run)
    began = clock()
    for _ in range(count):
        train_step(state, guidance, config, host, run)
    whole = (clock() - began) / count
    split = []
    for _ in range(parts):
        start = clock()
        record = train_step(state, guidance, config, clock, run)
        split.append({**record.seconds, "step": clock() - start})
    median = {f"{key}_ms": round(1e3 * sorted(s[key] for s in split)[parts // 2], 3) for key in split[0]}
    return {
        "preset": name,
        "variant": variant,
        "steps_a_second": round(1 / whole, 1),
        "whole_ms": round(1e3 * whole, 3),
        **median,
        "samples": int(record.samples[0]),
        "resolution": config.render.resolution,
        "views": config.views,
        "peak_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that everything runs")
    arguments = parser.parse_args()
    device, rows = torch.device(arguments.device), []
    for name in ("fast", "dreamfusion"):
        for variant in VARIANTS if device.type == "cuda" else ("eager",):
            rows.append(measure(name, variant, device, arguments.quick))
            print(rows[-1], flush=True)
            if arguments.json:  # after every row: what is measured stays
                arguments.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
