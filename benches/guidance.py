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

from dreamfusion_ngp.config.schema import GuidanceConfig, RunConfig
from dreamfusion_ngp.guidance.load import load_guidance
from dreamfusion_ngp.guidance.memory import plan
from dreamfusion_ngp.scene.cameras import orbit
from dreamfusion_ngp.scene.views import Views

SD15 = dict(sample_size=64, block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8)
SDXL = dict(
    sample_size=128,
    block_out_channels=(320, 640, 1280),
    cross_attention_dim=2048,
    attention_head_dim=(5, 10, 20),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=(1, 2, 10),
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)
QUICK = dict(
    sample_size=8,
    block_out_channels=(32, 32),
    cross_attention_dim=16,
    attention_head_dim=4,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
)
FAMILIES = {  # UNet, widths of the VAE's blocks, widths of the text encoders
    "sd15": (SD15, (128, 256, 512, 512), (768,)),
    "sdxl": (SDXL, (128, 256, 512, 512), (768, 1280)),
    "quick": (QUICK, (32, 32), (16,)),
}


def tokenizer():
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(97, 123)] + [","]
    names = ["<|startoftext|>", "<|endoftext|>", *letters, *(c + "</w>" for c in letters)]
    return CLIPTokenizer(vocab={t: i for i, t in enumerate(names)}, merges=[], model_max_length=77)


def text_encoder(width: int, projected: bool):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=60,
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=2,
        num_attention_heads=width // 16,
        projection_dim=width,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def write_pipeline(folder: Path, family: str) -> Path:
    """A pipeline of the family with random weights in half precision."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    unet, blocks, widths = FAMILIES[family]
    parts = {
        "unet": UNet2DConditionModel(in_channels=4, out_channels=4, **unet).half(),
        "vae": AutoencoderKL(
            block_out_channels=blocks,
            down_block_types=("DownEncoderBlock2D",) * len(blocks),
            up_block_types=("UpDecoderBlock2D",) * len(blocks),
            layers_per_block=2,
        ).half(),
        "scheduler": DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
    }
    for i, width in enumerate(widths):
        end = f"_{i + 1}" if i else ""
        parts |= {f"text_encoder{end}": text_encoder(width, i > 0), f"tokenizer{end}": tokenizer()}
    index = {"_class_name": "StableDiffusionXLPipeline" if len(widths) > 1 else "StableDiffusionPipeline"}
    for name, part in parts.items():
        variant = {"variant": "fp16"} if name in ("unet", "vae") else {}
        part.save_pretrained(folder / name, **variant)
        library = "transformers" if name.startswith("t") else "diffusers"
        index[name] = [library, type(part).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


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
