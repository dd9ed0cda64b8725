"""How true the colours of the texture stage are, on volumes of toys whose colours are known.

    python benches/texture.py RUN... -o benches/results/texture.json

RUN: folders of finished runs of a volume preset, `fast` say. The surface of each is extracted once and has the volume's
colours baked; then its texture goes on by score distillation alone, from four sides in one picture of a model of depth,
with score distillation beside them, from each side painted alone, and from sides painted without depth. PSNR is that of
unlit views of 256 pixels against the colours that the toy has at the same points, the nearest part's: of the four
sides, and of eight views between them. Seams are those of the atlas; R-Precision is Colour, by the embedded judge.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config.presets import preset
from ..config.schema import RunConfig
from ..evaluation.judge import load_judge
from ..evaluation.pictures import RESOLUTION, lit_pictures
from ..evaluation.retrieval import retrieved, toy_pool
from ..guidance.load import load_guidance
from ..guidance.painter import Painter, load_painter
from ..guidance.protocol import Guidance
from ..optimise.loop import train
from ..optimise.painted_views import gaps, kept_share
from ..optimise.painting import Silent, render_sides, repaint_sides
from ..render.sides import Sides, rasterise_sides, side_cameras, view_weights
from ..runs.handover import mesh_of
from ..runs.outputs import load_state
from ..runs.texture import TextureStage
from ..scene.cameras import Cameras, orbit
from .repair import add_measure_flags, measure_all, true_colors

SIZE, FACES = 256, 10000  # pixels of a view; triangles at most
BETWEEN = (tuple(range(45, 405, 90)) * 2, (30,) * 4 + (-10,) * 4)  # azimuths and elevations, degrees
VARIANTS: dict[str, dict] = {
    "sds": {"views": 0},
    "painted": {"views": 4, "sds": 0.0},
    "painted_sds": {"views": 4},
    "alone": {"views": 4, "sds": 0.0, "together": False},
    "blind": {"views": 4, "sds": 0.0, "control_scale": 0.0},
}


def config_of(run: RunConfig, seed: int, length: int | None, size: int, control: str, **paint) -> RunConfig:
    """The config of a texture stage after the volume of `run`."""
    config = preset("refine")
    return replace(
        config,
        prompt=run.prompt,
        seed=seed,
        steps=length or config.steps,
        guidance=replace(config.guidance, control=control),
        paint=replace(config.paint, **paint),
        texture=replace(config.texture, size=size, faces=FACES),
    )


@torch.no_grad()
def psnr(stage: TextureStage, cameras: Cameras) -> float:
    """PSNR in dB of the unlit colours, over the pixels that show the surface."""
    vertices, faces = stage.surface()
    sides = rasterise_sides(vertices, faces, cameras, SIZE)
    colors = stage.surface.paint(*(values[sides.seen] for values in (sides.x, sides.face, sides.barycentric)))
    square = (colors.cpu().clamp(0, 1) - true_colors(stage.config.prompt, sides.x[sides.seen])).square().mean()
    return round(-10 * float(square.log10()), 2)


@torch.no_grad()
def disagreement(views: Tensor, sides: Sides, weight: Tensor) -> float:
    """Root mean square difference, over channels, between the colours that two painted views (B, H, H, 3) give to a
    point that both see, weighted by their weights (B, H, H)."""
    total, count = 0.0, 0.0
    for i in range(len(views)):
        for _, both, gap in gaps(views, sides, weight, i):
            total += float((both[:, None] * gap.square()).sum()) / 3
            count += float(both.sum())
    return round((total / max(count, 1e-9)) ** 0.5, 4)


def agreement(stage: TextureStage, painter: Painter, together: bool) -> float:
    """The disagreement of painted views before their colours are matched."""
    config = replace(stage.config, paint=replace(stage.config.paint, views=4, together=together))
    paint = config.paint
    vertices, faces = stage.surface()
    sides = rasterise_sides(vertices, faces, side_cameras(config.camera, 4), paint.resolution)
    views = repaint_sides(
        painter, render_sides(stage.surface, sides, config), sides, kept_share(stage.surface, sides), config
    )
    return disagreement(views.to(sides.depth), sides, view_weights(sides, paint.cosine, paint.power, paint.rim))


@torch.no_grad()
def seams(stage: TextureStage) -> float:
    """Root mean square jump of a channel across the borders of the atlas: what its image has on either side of the
    middles of the edges that two charts share."""
    mesh = stage.mesh
    ends, uv = (
        np.concatenate([index[:, [k, (k + 1) % 3]] for k in range(3)]).astype(np.int64)
        for index in (mesh.faces, mesh.uv_faces)
    )
    turned = ends[:, 0] > ends[:, 1]
    ends[turned], uv[turned] = ends[turned, ::-1], uv[turned, ::-1]
    order = np.lexsort(ends.T)
    ends, uv = ends[order], uv[order]
    border = (ends[1:] == ends[:-1]).all(1) & (uv[1:] != uv[:-1]).any(1)
    image = torch.from_numpy(stage.images()[0]).permute(2, 0, 1)[None].float() / 255
    middle = torch.from_numpy(mesh.uv[np.stack([uv[:-1][border], uv[1:][border]])].mean(2))
    grid = torch.stack([2 * middle[..., 0] - 1, 1 - 2 * middle[..., 1]], -1)[None]
    color = torch.nn.functional.grid_sample(image, grid, padding_mode="border", align_corners=False)[0]
    return round(float((color[:, 0] - color[:, 1]).square().sum() / max(3 * border.sum(), 1)) ** 0.5, 4)


def recognised(stage: TextureStage) -> float:
    """R-Precision Colour by the embedded judge, of eight lit views."""
    pool, retrieval = toy_pool(stage.config.prompt), load_judge()
    return float((retrieved(retrieval, lit_pictures(stage, RESOLUTION), pool.color) == pool.color_index).float().mean())


def measure(run: Path, root: Path, seed: int, steps: int | None, size: int, device: str, control: str) -> dict:
    """One run: PSNR of its sides and of views between them, seams and R-Precision, for the baked texture and after each
    of VARIANTS, and the disagreement of the painted views."""
    volume, _ = load_state(run, device)
    prompt = volume.config.prompt
    guidance: Guidance | None = None
    painters: dict[float, Painter] = {}
    folder = root / prompt.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    eyes = {"sides": side_cameras(preset("refine").camera, 4), "between": orbit(*BETWEEN, 1.4, 1.15)}
    figures: dict = {"prompt": prompt, "seed": seed}
    mesh = mesh_of(volume, config_of(volume.config, seed, steps, size, control).texture)
    for name, paint in ({"baked": {"views": 0}} | VARIANTS).items():
        config = config_of(volume.config, seed, steps, size, control, **paint)
        stage, guided = TextureStage(config, device, mesh), not paint["views"] or config.paint.sds > 0
        if paint["views"]:
            scale = config.paint.control_scale
            painters[scale] = painters.get(scale) or load_painter(config, stage.device)
            stage.load = lambda *_, painter=painters[scale]: painter
        if name != "baked" and guided:
            guidance = guidance or load_guidance(config, stage.device)
        began = time.monotonic()  # models are loaded for the first variant that needs them, and count for none
        if name != "baked":
            train(stage, guidance if guided and guidance else Silent(), lambda record: False)
        seconds = round(time.monotonic() - began, 1)
        figures[name] = {view: psnr(stage, cameras) for view, cameras in eyes.items()} | {"seconds": seconds}
        figures[name] |= {"seams": seams(stage), "r_precision": recognised(stage)}
        draw(stage, folder / f"{name}.png")
        if paint["views"] and not config.paint.sds:
            before, painter = TextureStage(config, device, mesh), painters[config.paint.control_scale]
            figures[name]["disagreement"] = agreement(before, painter, config.paint.together)
    return figures


def draw(stage: TextureStage, path: Path) -> None:
    """The four sides in a row, and the painted views above where there are some."""
    from PIL import Image

    config = stage.config
    size = SIZE if stage.views is None else config.paint.resolution
    vertices, faces = stage.surface()
    sides = rasterise_sides(vertices, faces, side_cameras(config.camera, 4), size)
    rows = [torch.cat(list(render_sides(stage.surface, sides, config)), 1)]
    if stage.views is not None:
        rows.insert(0, torch.cat(list(stage.views), 1))
    pixels = (torch.cat(rows).clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    Image.fromarray(pixels).save(path)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("prompts", nargs="+", type=Path, metavar="RUN", help="folder of a finished run of a volume")
    add_measure_flags(parser, "texture_runs")
    parser.add_argument("--texture-size", type=int, default=512)
    parser.add_argument("--depth-control", default="", help="the model of depth (default: the embedded one)")
    args = parser.parse_args(argv)
    options = args.texture_size, args.device, args.depth_control
    return measure_all(args, lambda run, root, seed: measure(run, root, seed, args.steps, *options))
