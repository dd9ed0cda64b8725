"""A whole training step with a UNet and a VAE of Stable Diffusion 1.5's size and random weights: the arithmetic of the
real one, without its files, by the code that runs the real one. Splits the time into guidance (VAE there and back, UNet
on two prompts), field (render, differentiate, update) and other; on CUDA without and with CUDA graphs.

    python benches/gpu/guided_step.py [--json FILE] [--device cuda] [--steps 10] [--quick]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from dreamfusion_ngp.bench.random_pipeline import write_pipeline
from dreamfusion_ngp.config.schema import GuidanceConfig, RunConfig
from dreamfusion_ngp.guidance.load import load_guidance
from dreamfusion_ngp.optimise.executors import executor
from dreamfusion_ngp.optimise.stage import device_clock
from dreamfusion_ngp.optimise.volume import VolumeStage, train_step

WARM = 6  # steps that do not count: graphs are captured at the second of their kind


def measure(guidance, config: RunConfig, device: str, resolution: int, steps: int, graphs: bool) -> dict:
    """Medians over `steps` steps, milliseconds. `whole` of graphs has the rays of the next step in it."""
    config = replace(config, render=replace(config.render, resolution=resolution), cuda_graphs=graphs)
    state, clock, parts = VolumeStage(config, device), device_clock(torch.device(device)), []
    run = executor(state)
    for _ in range(WARM):
        train_step(state, guidance, config, clock, run)
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(steps):
        began = clock()
        record = train_step(state, guidance, config, clock, run)
        parts.append({**record.seconds, "whole": clock() - began})
    median = {key: sorted(p[key] for p in parts)[steps // 2] * 1e3 for key in parts[0]}
    return {
        "resolution": resolution,
        "graphs": graphs,
        "steps": steps,
        "samples": int(record.samples[0]),
        **{f"{key}_ms": round(value, 3) for key, value in median.items()},
        "peak_bytes": torch.cuda.max_memory_allocated() if cuda else None,
    }


def random_guidance(config: RunConfig, device: str, quick: bool):
    """The guidance of random weights, written to a temporary folder and read back."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DREAMFUSION_NGP_CACHE"] = str(Path(folder) / "cache")
        (model := Path(folder) / "model").mkdir()
        write_pipeline(model, "quick" if quick else "sd15")
        return load_guidance(replace(config, guidance=replace(config.guidance, model=str(model))), device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="a tiny network, to see that everything runs")
    arguments = parser.parse_args()
    config = RunConfig(prompt="random weights", views=1, guidance=GuidanceConfig(precision="float16"))
    if arguments.quick:
        small = replace(config.field, levels=4, log2_table=10, finest_resolution=64, hidden=16)
        config = replace(config, field=small)
    guidance = random_guidance(config, arguments.device, arguments.quick)
    networks = {"unet": guidance.denoiser.network, "vae": guidance.denoiser.ends.vae}
    parameters = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    result = {"parameters": parameters, "dtype": str(guidance.denoiser.dtype), "rows": []}  # the VAE's: of its encoder
    modes = (False, True) if torch.device(arguments.device).type == "cuda" else (False,)
    for graphs, resolution in itertools.product(modes, (8,) if arguments.quick else (64, 512)):
        result["rows"].append(measure(guidance, config, arguments.device, resolution, arguments.steps, graphs))
        print(result["rows"][-1], flush=True)
        if arguments.json:  # after every row: what is measured stays
            arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
