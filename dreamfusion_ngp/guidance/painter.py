"""A depth-conditioned model that repaints pictures of a mesh: which one, whether it fits, and the pass itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..base.errors import PriorError
from ..base.rng import Stream, generator
from ..base.slots import sent
from ..config.schema import GuidanceConfig, PaintConfig, RunConfig
from ..hub.fetch import model_path
from ..hub.names import DEPTH_TOYBOX, LATENT_TOYBOX, TOYBOXES
from ..scene.cameras import orbit
from ..scene.lights import ALBEDO
from ..scene.views import Views
from .denoisers.depth import Seen, channel_problem, check_control, with_channel, with_control
from .denoisers.diffusion import DiffusionDenoiser, Family
from .denoisers.latent import LATENT
from .denoisers.sdxl import SDXL
from .embedded import PRIORS
from .load import family, model_folder
from .pipeline_folder import read_config
from .sampling import decoder, image_to_image
from .settings import read_settings

MOST_SCALE = 7.5  # of guidance: what the pipelines of public models have, and TextMesh
BASES = (LATENT, SDXL)


@dataclass(frozen=True)
class Source:
    """Where a painter comes from. folder: of its pipeline.  control: of the ControlNet, None where the UNet takes depth
    itself.  model: the pipeline's name."""

    folder: Path
    control: Path | None
    model: str


@dataclass(frozen=True)
class Painter:
    """decode: x (b, C, h, w) to pictures (b, H, W, 3) in [0, 1] on the CPU.  scale: of guidance where the config names
    none: that of the ControlNet's dreamfusion_ngp.json, else the pipeline's, at most MOST_SCALE."""

    denoiser: DiffusionDenoiser
    seen: Seen
    decode: Callable[[Tensor], Tensor]
    scale: float


def source_of(config: RunConfig) -> Source:
    """The painter of a run: `guidance.control` for `guidance.model`, or a pipeline of its own; with the embedded priors
    toybox-depth on toybox-256. Raises PriorError where there is none."""
    name, model = config.guidance.control, config.guidance.model
    if model in TOYBOXES and name in ("", DEPTH_TOYBOX):
        return Source(PRIORS / LATENT_TOYBOX, embedded(), LATENT_TOYBOX)
    if name in ("", DEPTH_TOYBOX):
        raise PriorError(
            f"painting with depth needs a model of depth for {model}: give --depth-control and the folder or hub id of "
            "a ControlNet that was made for it, or of a pipeline of Stable Diffusion 2 depth"
        )
    path = model_path(name)
    if (path / "model_index.json").is_file():
        return Source(path, None, name)
    if model in TOYBOXES:
        return Source(PRIORS / LATENT_TOYBOX, path, LATENT_TOYBOX)
    return Source(model_folder(config), path, model)


def embedded() -> Path:
    """The folder of toybox-depth. Raises PriorError."""
    folder = PRIORS / DEPTH_TOYBOX
    if not folder.is_dir():
        raise PriorError(
            f"{DEPTH_TOYBOX} is not part of this installation: give a model of depth with --depth-control, or train "
            "this one: dreamfusion-ngp train-prior --kind depth -o FOLDER, then --depth-control FOLDER"
        )
    return folder


def check_painter(config: RunConfig) -> None:
    """Raise PriorError for what can be known to be wrong with the painter of a run without loading its weights."""
    checked(source_of(config))


def checked(source: Source) -> Family:
    """The family of a painter's pipeline. Raises PriorError where the two do not fit."""
    found = family(source.folder)
    found.check(source.folder)
    if found not in BASES:
        raise PriorError(
            f"{source.folder} cannot be painted with: a model of depth is a ControlNet for Stable Diffusion 1, 2 or "
            "XL, or a pipeline of Stable Diffusion 2 depth"
        )
    if source.control is not None:
        check_control(source.control, source.folder)
    elif problem := channel_problem(read_config(source.folder, "unet")):
        raise PriorError(f"{source.folder} is no pipeline of depth to image: of its unet, {problem}")
    return found


def load_painter(config: RunConfig, device: torch.device | str) -> Painter:
    """The painter of a run, on `device`. Raises PriorError where it is missing, damaged, or does not fit."""
    source = source_of(config)
    found, seen = checked(source), Seen()
    scale = config.paint.control_scale
    found = with_channel(found, seen) if source.control is None else with_control(found, source.control, seen, scale)
    told = told_of(config.guidance, source.model)
    denoiser = DiffusionDenoiser(
        found, replace(config, guidance=told, cuda_graphs=False), source.folder, torch.device(device)
    )
    said = read_settings(source.control).get("guidance_scale") if source.control else None
    own = denoiser.scale if said is None else said
    return Painter(denoiser, seen, decoder(denoiser, source.folder), min(own, MOST_SCALE))


def told_of(guidance: GuidanceConfig, model: str) -> GuidanceConfig:
    """The guidance of a pass: of no view, since a picture has several, plainly guided; of the run's own additions those
    that are for `model`."""
    own = guidance.model == model
    return replace(
        GuidanceConfig(),
        model=model,
        negative=guidance.negative,
        view_words="none",
        mode_words=model in TOYBOXES,
        precision=guidance.precision,
        offload=guidance.offload,
        loras=guidance.loras if own else (),
        embeddings=guidance.embeddings if own else (),
        vae=guidance.vae if own else "",
    )


@torch.no_grad()
def repaint(
    painter: Painter, pictures: Tensor, depth: Tensor, config: PaintConfig, seed: int, known: Tensor | None = None
) -> Tensor:
    """Pictures (b, H, W, 3) in [0, 1] made anew by one image-to-image pass, on the CPU. depth: (b, H, W) in [0, 1]
    (`depth_picture`). known: (b, H, W) in [0, 1], what of them is to stay; the pass sees it as it is. H and W must be
    multiples of what the UNet halves; the noise is a function of `seed`."""
    denoiser, seen = painter.denoiser, painter.seen
    settings = replace(denoiser.config, scale=painter.scale if config.scale is None else config.scale)
    n = len(pictures)
    views = Views(orbit([0.0] * n, 0.0, 1.5, 1.0), torch.zeros(n, 6), np.full(n, ALBEDO))
    with denoiser.resident():
        seen.picture = depth.to(denoiser.device)
        x = denoiser.encode.latents(pictures.to(denoiser.device).permute(0, 3, 1, 2) * 2 - 1)
        noise = generator(seed, 0, Stream.PAINT).standard_normal(x.shape, dtype=np.float32)
        stays = None if known is None else kept_latents(known.to(x), tuple(x.shape[2:]))
        made = image_to_image(
            denoiser, x, sent(noise, denoiser.device), views, settings, config.steps, config.strength, stays
        )
    return painter.decode(made)


def kept_latents(known: Tensor, size: tuple[int, int]) -> Tensor:
    """(b, 1, *size): the least of what stays (b, H, W) where a latent is."""
    factor = known.shape[1] // size[0]
    return -torch.nn.functional.max_pool2d(-known[:, None], factor)
