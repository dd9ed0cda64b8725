"""A depth-conditioned model that repaints pictures of a mesh: choosing it, checking it, and the painting pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
from .denoisers.depth import DepthInput, channel_problem, check_control, with_channel, with_control
from .denoisers.diffusion import DiffusionDenoiser, Family
from .denoisers.latent import LATENT
from .denoisers.sdxl import SDXL
from .embedded import PRIORS
from .load import family, model_folder
from .pipeline_folder import read_config
from .sampling import decoder, image_to_image
from .settings import read_settings

MOST_SCALE = 7.5  # of guidance: the usual value of public pipelines, and TextMesh's
BASES = (LATENT, SDXL)


@dataclass(frozen=True)
class Source:
    """The folders of a painter. folder: of its pipeline. control: of the ControlNet, None if the UNet takes depth
    itself. model: the pipeline's name."""

    folder: Path
    control: Path | None
    model: str


@dataclass(frozen=True)
class Painter:
    """decode: x (b, C, h, w) to pictures (b, H, W, 3) in [0, 1] on the CPU.  scale: guidance scale if the config has
    none: that of the ControlNet's dreamfusion_ngp.json, else the pipeline's, at most MOST_SCALE."""

    denoiser: DiffusionDenoiser
    depth_input: DepthInput
    decode: Callable[[Tensor], Tensor]
    scale: float


def source_of(config: RunConfig) -> Source:
    """The painter of a run: `guidance.control` for `guidance.model`, or a pipeline of its own; for the embedded priors,
    toybox-depth on toybox-256. Raises PriorError if there is none."""
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
    """Raise PriorError for errors in the painter of a run that can be detected without loading its weights."""
    checked(source_of(config))


def check_painters(stages: Iterable[RunConfig], device: torch.device | str) -> None:
    """Raise PriorError unless the painter of every stage that paints is there, fits and works. Each is loaded, which
    calls its networks once, and let go: a stage may need it only hours later."""
    painting = [config for config in stages if config.paint.views]
    for config in painting:
        check_painter(config)
    for config in painting:
        load_painter(config, device)


def checked(source: Source) -> Family:
    """The family of a painter's pipeline. Raises PriorError if it and the ControlNet do not fit."""
    model_family = family(source.folder)
    model_family.check(source.folder)
    if model_family not in BASES:
        raise PriorError(
            f"{source.folder} cannot be painted with: a model of depth is a ControlNet for Stable Diffusion 1, 2 or "
            "XL, or a pipeline of Stable Diffusion 2 depth"
        )
    if source.control is not None:
        check_control(source.control, source.folder)
    elif problem := channel_problem(read_config(source.folder, "unet")):
        raise PriorError(f"{source.folder} is no pipeline of depth to image: of its unet, {problem}")
    return model_family


def load_painter(config: RunConfig, device: torch.device | str) -> Painter:
    """The painter of a run, on `device`. Raises PriorError if it is missing, damaged, or does not fit."""
    source = source_of(config)
    model_family, depth_input = checked(source), DepthInput()
    control_scale = config.paint.control_scale
    model_family = (
        with_channel(model_family, depth_input)
        if source.control is None
        else with_control(model_family, source.control, depth_input, control_scale)
    )
    settings = pass_settings(config.guidance, source.model)
    denoiser = DiffusionDenoiser(
        model_family, replace(config, guidance=settings, cuda_graphs=False), source.folder, torch.device(device)
    )
    own_scale = read_settings(source.control).get("guidance_scale") if source.control else None
    scale = denoiser.scale if own_scale is None else own_scale
    return Painter(denoiser, depth_input, decoder(denoiser, source.folder), min(scale, MOST_SCALE))


def pass_settings(guidance: GuidanceConfig, model: str) -> GuidanceConfig:
    """The guidance settings of a painting pass: no view words, since a picture has several views, and plain guidance;
    LoRAs, embeddings and VAE of the run only if they are for `model`."""
    same_model = guidance.model == model
    return replace(
        GuidanceConfig(),
        model=model,
        negative=guidance.negative,
        view_words="none",
        mode_words=model in TOYBOXES,
        precision=guidance.precision,
        offload=guidance.offload,
        resolution=guidance.resolution if same_model else None,  # of pictures that have another shape anyway
        loras=guidance.loras if same_model else (),
        embeddings=guidance.embeddings if same_model else (),
        vae=guidance.vae if same_model else "",
    )


@torch.no_grad()
def repaint(
    painter: Painter, pictures: Tensor, depth: Tensor, config: PaintConfig, seed: int, keep: Tensor | None = None
) -> Tensor:
    """Pictures (b, H, W, 3) in [0, 1] repainted by one image-to-image pass, on the CPU. depth: (b, H, W) in [0, 1]
    (`depth_picture`). keep: (b, H, W) in [0, 1], the share of a pixel that is kept, unchanged during the pass. H and W
    must be divisible by the UNet's total downsampling; the noise is a function of `seed`."""
    denoiser, depth_input = painter.denoiser, painter.depth_input
    settings = replace(denoiser.config, scale=painter.scale if config.scale is None else config.scale)
    n = len(pictures)
    views = Views(orbit([0.0] * n, 0.0, 1.5, 1.0), torch.zeros(n, 6), np.full(n, ALBEDO))
    with denoiser.resident():
        depth_input.picture = depth.to(denoiser.device)
        x = denoiser.encode.latents(pictures.to(denoiser.device).permute(0, 3, 1, 2) * 2 - 1)
        noise = generator(seed, 0, Stream.PAINT).standard_normal(x.shape, dtype=np.float32)
        keep_latents = None if keep is None else latent_mask(keep.to(x), tuple(x.shape[2:]))
        result = image_to_image(
            denoiser, x, sent(noise, denoiser.device), views, settings, config.steps, config.strength, keep_latents
        )
    return painter.decode(result)


def latent_mask(keep: Tensor, size: tuple[int, int]) -> Tensor:
    """(b, 1, *size): the smallest `keep` (b, H, W) among the pixels of each latent."""
    factor = keep.shape[1] // size[0]
    return -torch.nn.functional.max_pool2d(-keep[:, None], factor)
