"""`dreamfusion-ngp fetch`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..base.errors import UsageError
from ..hub.names import ALIASES, CLIP_CLASSES, hub_id, on_the_hub, page_of

VAES = ("AutoencoderKL", "AutoencoderTiny", "AsymmetricAutoencoderKL")


def add_arguments(verbs) -> None:
    parser = verbs.add_parser("fetch", help="download a model once, to run offline afterwards")
    parser.add_argument("model", help=f"{', '.join(ALIASES)}, or a hub id (owner/name or owner/name@revision)")


def run(args: argparse.Namespace) -> None:
    from ..hub.fetch import fetch

    model = args.model
    if not on_the_hub(model):
        page = f", or for that of the hub {page_of(model)}" if hub_id(model) else ""
        raise UsageError(
            f"{model!r} is no model of the hub{' but a path here' if page else ''}; give one of "
            f"{', '.join(ALIASES)}, or owner/name{page}"
        )
    snapshot = fetch(model, print)
    size = sum(entry["size"] for entry in snapshot.files.values())
    licence = f"licence: {ALIASES[model].licence}; " if model in ALIASES else ""
    print(
        f"{snapshot.name}\n{len(snapshot.files)} files, {size / 1e6:.1f} MB, {snapshot.checks()}, in {snapshot.folder}"
    )
    if use := use_of(model, snapshot.folder):
        print(licence + use)


def use_of(model: str, folder: Path) -> str:
    """What to do with a fetched model: the command that takes it, "" if none does."""
    from ..hub.fetch import read_json

    pipeline, alone = read_json(folder / "model_index.json"), read_json(folder / "config.json")
    kind = (pipeline or alone).get("_class_name")
    if kind == "StableDiffusionDepth2ImgPipeline":
        return f'now: dreamfusion-ngp refine mug.glb "a red mug" --depth-control {model}'
    if pipeline or alone.get("model_type") in CLIP_CLASSES:
        return f'now: dreamfusion-ngp generate "a DSLR photo of a peacock on a surfboard" --guidance {model}'
    base = "now, with the MODEL that it was made for: dreamfusion-ngp"
    if kind == "ControlNetModel":
        return f'{base} refine mug.glb "a red mug" --guidance MODEL --depth-control {model}'
    if kind in VAES:
        return f'{base} generate "a red mug" --guidance MODEL --set guidance.vae={model}'
    if not pipeline and not alone:
        return f'{base} generate "a red mug" --guidance MODEL --lora {model} (a textual inversion: --embedding {model})'
    return ""
