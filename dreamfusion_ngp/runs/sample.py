"""The verb `sample`: pictures of a guidance model, the quickest way to see whether it knows a prompt."""

from __future__ import annotations

import logging
import tempfile
import time
from dataclasses import dataclass, replace
from errno import EISDIR
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..base.devices import choose_device
from ..base.errors import UsageError, writing
from ..base.rng import Stream, generator
from ..base.slots import sent
from ..config.schema import GuidanceConfig, RunConfig
from ..export.video import contact_sheet
from ..guidance.denoisers.diffusion import DiffusionDenoiser
from ..guidance.load import load_guidance, model_folder
from ..guidance.sampling import ddim, decoder
from ..guidance.score_distillation import ScoreDistillation, Sliced
from ..scene.cameras import orbit
from ..scene.lights import ALBEDO
from ..scene.views import Views
from .generate import check_prompt

SIDES = 4  # pictures of a row: front, right, back, left
MOST_SCALE = 7.5  # of samples: the higher scales of distillation oversaturate pictures

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Samples:
    """path: of the sheet, absolute. pictures: (rows, sides, H, H, 3) float32 in [0, 1]. scale: guidance scale."""

    path: Path
    pictures: Tensor
    scale: float
    seconds: float


def sample(
    config: RunConfig,
    path: str | Path = "samples.png",
    *,
    rows: int = 2,
    steps: int = 30,
    elevation: float = 15.0,
    scale: float | None = None,
    device: str = "auto",
) -> Samples:
    """Draw `rows` rows of pictures of the config's prompt from its guidance model, by DDIM in `steps` steps, and write
    them as one PNG.

    A row is four sides at `elevation` (degrees): of one object, where the model sees several views at once, else four
    pictures with the view words of the config. Rows differ by their noise, a function of the config's seed. scale:
    guidance scale, by default the model's own, at most MOST_SCALE.

    Raises UsageError, PromptError for a prompt that an embedded prior does not know, PriorError for a model that is not
    there or not understood, OutputError (before anything is drawn) or ExportError where the sheet cannot be written.
    """
    for name, value, low, high in (("rows", rows, 1, 64), ("steps", steps, 1, 1000), ("elevation", elevation, -90, 90)):
        if not low <= value <= high:
            raise UsageError(f"sample: {name} must be from {low} to {high}, got {value}")
    with writing(path):
        if Path(path).is_dir():
            raise IsADirectoryError(EISDIR, "it is a folder; name a PNG file in it")
        if Path(path).suffix.lower() != ".png":
            raise UsageError(f"sample: the sheet is a PNG, and {path} does not end in .png")
        place = Path(path).absolute().parent
        place.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place).close()
    began, config = time.monotonic(), check_prompt(config)
    guidance = load_guidance(config, choose_device(device))
    if not isinstance(guidance, ScoreDistillation):
        raise UsageError(f"sample: {config.guidance.model} is a CLIP, which draws no pictures")
    settings = sample_settings(config.guidance, guidance, scale)
    log.info("samples     %d rows at guidance scale %g", rows, settings.scale)
    with guidance.resident():
        decode = decoder(guidance.denoiser, model_folder(config))
        pictures = [decode(draw_row(guidance, settings, config, row, steps, elevation)) for row in range(rows)]
    flat = [picture.numpy() for picture in torch.cat(pictures)]
    written = contact_sheet(path, flat, columns=len(pictures[0]))
    return Samples(written, torch.stack(pictures), float(settings.scale or 0.0), time.monotonic() - began)


def sample_settings(
    config: GuidanceConfig, guidance: ScoreDistillation[DiffusionDenoiser], scale: float | None
) -> GuidanceConfig:
    """Guidance settings for sampling pictures: a lower scale, clean pictures within their range, no rescaling."""
    return replace(
        config,
        scale=min(guidance.denoiser.scale, MOST_SCALE) if scale is None else scale,
        clip_clean=guidance.denoiser.ends.vae is None,
        rescale=0.0,
    )


def draw_row(
    guidance: ScoreDistillation[DiffusionDenoiser],
    settings: GuidanceConfig,
    config: RunConfig,
    row: int,
    steps: int,
    elevation: float,
) -> Tensor:
    """x (sides, C, h, w) of one row."""
    denoiser = guidance.denoiser
    sides = denoiser.ends.views if denoiser.ends.views > 1 else SIDES
    views = side_views(config, sides, elevation)
    noise = generator(config.seed, row, Stream.GUIDANCE).standard_normal((sides, *denoiser.shape), dtype=np.float32)
    if settings.slice and not denoiser.views_together:
        cuts = [slice(i, i + settings.slice) for i in range(0, sides, settings.slice)]
        return ddim(Sliced(denoiser, cuts), sent(noise, denoiser.device), views, settings, steps)
    return ddim(denoiser, sent(noise, denoiser.device), views, settings, steps)


def side_views(config: RunConfig, sides: int, elevation: float) -> Views:
    """Unlit views evenly around the object, from the front on, at the mean focal length and distance of the config."""
    camera = config.camera
    focal, distance = float(np.mean(camera.focal)), float(np.mean(camera.distance))
    cameras = orbit(
        np.arange(sides) * 360 / sides, elevation, distance * (focal if camera.distance_per_focal else 1.0), focal
    )
    return Views(cameras, torch.zeros(sides, 6), np.full(sides, ALBEDO))
