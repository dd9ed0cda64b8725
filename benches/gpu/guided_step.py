"""A whole training step with a UNet and a VAE of Stable Diffusion 1.5's size and random weights: the arithmetic of the
real one, without its files. Splits the time into guidance (VAE there and back, UNet on two prompts), field (render,
differentiate, update) and other.

    python benches/gpu/guided_step.py [--json FILE] [--device cuda] [--steps 10] [--quick]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from dreamfusion_ngp.config import RunConfig
from dreamfusion_ngp.guidance.sds import SdsOutput
from dreamfusion_ngp.train import State, device_clock, train_step

SCALING = 0.18215  # of Stable Diffusion's latents
UNET = dict(sample_size=64, in_channels=4, out_channels=4, layers_per_block=2, cross_attention_dim=768,
            attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280),
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3)
VAE = dict(sample_size=512, in_channels=3, out_channels=3, latent_channels=4, layers_per_block=2,
           block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
           up_block_types=("UpDecoderBlock2D",) * 4)
SMALL = dict(norm_num_groups=8, block_out_channels=(16, 16, 32, 32), layers_per_block=1)


class RandomDiffusion:
    """SDS with random weights. The gradient of the picture is taken here, so that its time counts as guidance."""

    def __init__(self, device: str, quick: bool):
        from diffusers import AutoencoderKL, UNet2DConditionModel

        self.half = torch.float16 if torch.device(device).type == "cuda" else torch.float32
        self.size = 64 if quick else 512
        extra = SMALL if quick else {}
        with torch.device(device):
            self.unet = UNet2DConditionModel(**{**UNET, **extra}).to(self.half).requires_grad_(False).eval()
            self.vae = AutoencoderKL(**{**VAE, **extra}).to(self.half).requires_grad_(False).eval()
            self.prompts = torch.randn(2, 77, 768, dtype=self.half)

    def parameters(self) -> dict[str, int]:
        return {name: sum(p.numel() for p in getattr(self, name).parameters()) for name in ("unet", "vae")}

    def __call__(self, rgb, views, step) -> SdsOutput:
        leaf = rgb.detach().requires_grad_()
        picture = torch.nn.functional.interpolate(
            leaf.movedim(-1, 1), (self.size, self.size), mode="bilinear", align_corners=False)
        latents = self.vae.encode((picture * 2 - 1).to(self.half)).latent_dist.mean * SCALING
        with torch.no_grad():
            noise = torch.randn_like(latents)
            noisy = (0.7 * latents + 0.7 * noise).repeat_interleave(2, 0)
            words = self.prompts.repeat(len(latents), 1, 1)
            plain, guided = self.unet(noisy, 500, words).sample.unflatten(0, (-1, 2)).unbind(1)
            pull = plain + 7.5 * (guided - plain) - noise
        (gradient,) = torch.autograd.grad((latents * pull).mean(), leaf)
        return SdsOutput((rgb * gradient.nan_to_num()).sum(), {})


def measure(guidance, device: str, resolution: int, steps: int, quick: bool) -> dict:
    """Medians over `steps` steps, milliseconds, after three that do not count."""
    config = RunConfig(prompt="random weights")
    config = replace(config, views=1, render=replace(config.render, resolution=resolution))
    if quick:
        config = replace(config, field=replace(config.field, levels=4, log2_table=10, finest_resolution=64, hidden=16))
    state, clock, parts = State(config, device), device_clock(torch.device(device)), []
    for _ in range(3):
        train_step(state, guidance, config, clock)
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(steps):
        began = clock()
        record = train_step(state, guidance, config, clock)
        parts.append({**record.seconds, "whole": clock() - began})
    median = {key: sorted(p[key] for p in parts)[steps // 2] * 1e3 for key in parts[0]}
    return {"resolution": resolution, "steps": steps, "samples": int(record.samples[0]),
            **{f"{key}_ms": round(value, 3) for key, value in median.items()},
            "peak_bytes": torch.cuda.max_memory_allocated() if cuda else None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="a tiny network, to see that everything runs")
    arguments = parser.parse_args()
    guidance = RandomDiffusion(arguments.device, arguments.quick)
    result = {"parameters": guidance.parameters(), "dtype": str(guidance.half), "rows": []}
    for resolution in (8,) if arguments.quick else (64, 512):
        result["rows"].append(measure(guidance, arguments.device, resolution, arguments.steps, arguments.quick))
        print(result["rows"][-1], flush=True)
        if arguments.json:  # after every row: what is measured stays
            arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
