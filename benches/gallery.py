"""The gallery: the default command on a list of prompts, each scored against its true toy.

    python benches/gallery.py [-o docs/gallery] [--seeds 0] ["a red mug" ...]

Every prompt is one `dreamfusion-ngp generate` with nothing but the seed given, then one `evaluate`. Leaves in the
output folder a contact sheet (PNG) per prompt and seed, all of them in gallery.jpg, and figures.json: what each scored,
how long it took, and on what. The runs themselves go to a folder of their own (--runs) and are kept; a run that is
complete there is not made again, so a stopped gallery goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

from dreamfusion_ngp.base import markdown
from dreamfusion_ngp.base.files import write_atomically
from dreamfusion_ngp.runs.folder import slug

PROMPTS = ("a red mug", "a yellow chair", "a green snowman", "a blue airplane", "an orange torus", "a purple house")
SCORES = (
    "volumetric_iou",
    "silhouette_iou",
    "silhouette_iou_worst",
    "volumetric_iou_unaligned",
    "scale",
    "color_error",
    "color_share",
)
SHEET = 576  # pixels, the width of a contact sheet among the others
PROGRAM = (sys.executable, "-m", "dreamfusion_ngp")


def make_run(prompt: str, seed: int, root: Path, options: list[str]) -> Path:
    """The record, in `root`, of a finished run of `prompt` with these options; the run is made where there is none."""
    name = f"{slug(prompt)}-{seed}"
    done = root / f"{name}.json"
    if not is_made(done, options):
        place, began = root / name, time.monotonic()
        done.unlink(missing_ok=True)
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([*PROGRAM, "generate", prompt, "--seed", str(seed), "-o", str(place), *options], check=True)
        seconds = time.monotonic() - began
        run = next(place.glob("*/*/checkpoint.safetensors")).parent
        subprocess.run([*PROGRAM, "evaluate", str(run)], check=True)
        made = {"run": str(run.relative_to(root)), "seconds": round(seconds, 1), "options": options}
        write_atomically(done, json.dumps(made).encode())
    return done


def is_made(done: Path, options: list[str]) -> bool:
    """Whether a record is there, whole, and of a run with these options."""
    try:
        return json.loads(done.read_text())["options"] == options
    except (OSError, ValueError, KeyError, TypeError):
        return False


def record(prompt: str, seed: int, done: Path, out: Path) -> dict:
    """Copy the contact sheet and read the scores of a run."""
    made = json.loads(done.read_text())
    run = done.parent / made["run"]
    sheet = f"{done.stem}.png"
    shutil.copy(run / "contact_sheet.png", out / sheet)
    scores = json.loads((run / "evaluation.json").read_text())
    return {
        "prompt": prompt,
        "seed": seed,
        "seconds": made["seconds"],
        "sheet": sheet,
        **{key: None if scores[key] is None else round(scores[key], 3) for key in SCORES},
    }


def machine() -> dict:
    import torch

    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return {
        "commit": head.stdout.strip(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.cuda.is_available(),
        "torch": torch.__version__,
    }


def table(rows: list[dict]) -> str:
    """The figures as a Markdown table, with their means."""
    head = ["prompt", "seed", "volumetric IoU", "silhouette IoU", "worst view", "colour error", "seconds"]
    columns = ("volumetric_iou", "silhouette_iou", "silhouette_iou_worst", "color_error", "seconds")
    shown = [[math.nan if r[c] is None else r[c] for c in columns] for r in rows]
    means = [sum(v) / len(v) for v in zip(*shown, strict=True)]
    names = [[r["prompt"], str(r["seed"])] for r in rows] + [["mean", ""]]
    body = [
        [*name, *(f"{v:.2f}" for v in values[:-1]), f"{values[-1]:.0f}"]
        for name, values in zip(names, [*shown, means], strict=True)
    ]
    return "\n".join(markdown.table(head, body))


def montage(sheets: list[Path], out: Path) -> None:
    """The contact sheets in rows of three, SHEET wide and two thirds of it tall each."""
    from PIL import Image

    width, height = SHEET, SHEET * 2 // 3
    whole = Image.new("RGB", (width * min(3, len(sheets)), height * -(-len(sheets) // 3)), "white")
    for i, sheet in enumerate(sheets):
        with Image.open(sheet) as picture:
            whole.paste(
                picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS),
                (i % 3 * width, i // 3 * height),
            )
    whole.save(out, quality=88, optimize=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", nargs="*", default=PROMPTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--runs", type=Path, default=Path("outputs/gallery"))
    parser.add_argument("-o", "--out", type=Path, default=Path("docs/gallery"))
    parser.add_argument("--options", default="", help='more arguments for generate, e.g. "--steps 100"')
    args = parser.parse_args(argv)
    args.runs.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in args.seeds:
        for prompt in args.prompts:
            rows.append(record(prompt, seed, make_run(prompt, seed, args.runs, args.options.split()), args.out))
            found = {"command": "python benches/gallery.py", "options": args.options, **machine(), "runs": rows}
            write_atomically(args.out / "figures.json", (json.dumps(found, indent=1) + "\n").encode())
    montage([args.out / row["sheet"] for row in rows], args.out / "gallery.jpg")
    print(table(rows))


if __name__ == "__main__":
    main()
