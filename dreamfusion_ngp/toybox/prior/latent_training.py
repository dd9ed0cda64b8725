"""The training of the latent prior, toybox-256: the autoencoder, then the UNet on its latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...base.console import silent
from ...base.errors import UsageError
from . import latents, reconstruction
from .latent_model import LatentPrior, load_latent_prior
from .loop import EMPTY_LOG, read_log, read_logs, run_task
from .loss import TrainPriorConfig
from .training import check_request, check_resume

PARTS = {"autoencoder": reconstruction.build_task, "unet": latents.build_task}  # in the order of their training


@dataclass(frozen=True)
class Part:
    """How one part is trained. score: see `training.train_prior`."""

    config: TrainPriorConfig
    score: Callable[[LatentPrior], dict] | None = None


def train_latent_prior(
    parts: dict[str, Part],
    out: Path,
    *,
    resume: Path | None = None,
    processes: int = 1,
    device: str = "cpu",
    show: Callable[[str], None] = silent,
) -> None:
    """Train `parts` ("autoencoder", "unet", or both) and leave a Stable Diffusion folder in `out`, with
    `training.json`, an entry for each part, and `samples.jpg` beside it.

    resume: a folder to start from (weights only). Once its UNet is trained, the encoder is frozen, and training the
    autoencoder trains only its decoder. The rest is as in `training.train_prior`. Raises UsageError or PriorError
    before anything is written where that cannot be done.
    """
    out = Path(out)
    for part in parts.values():
        check_request(part.config, out, device)
    if resume is not None:
        for name in PARTS:
            read_log(resume, name)
        check_resume(resume, check)
    if "autoencoder" not in parts and (resume is None or not read_log(resume, "autoencoder")["images"]):
        raise UsageError("train-prior: the unet learns latents of a trained autoencoder; train that first, or resume")
    source = resume
    for name in (name for name in PARTS if name in parts):
        config, score = parts[name].config, parts[name].score
        log = EMPTY_LOG if source is None else read_logs(source)
        show(f"training of the {name}")
        run_task(PARTS[name], (config, source, device), config, out, log, processes, device, score, show)
        source = out


def check(folder: Path) -> None:
    """Raise for a folder that is no latent prior."""
    target = load_latent_prior(folder).scheduler.config.prediction_type
    if target != "epsilon":
        raise ValueError(f"it predicts {target}, not the noise")
