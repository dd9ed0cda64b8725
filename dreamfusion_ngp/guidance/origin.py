"""Identifies the weights that a run was started with by their content, so that it can go on when its model has
moved."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from ..base.errors import PriorError
from ..config.schema import RunConfig
from ..hub.fetch import model_path, pinned
from ..hub.names import EMBEDDED, folder_of, on_the_hub
from ..hub.weights import FULL_FIRST, choose_weights
from .pipeline_folder import WEIGHTED

BLOCK, BLOCKS = 1 << 16, 64  # bytes read of a file of weights, including its first and last block
# Flags of resume for the fields of GuidanceConfig that name models, and what a run without one lacks, in words.
FLAGS = {"model": "--guidance", "vae": "--vae", "control": "--depth-control"}
WITHOUT = {"vae": "a VAE of its own", "control": "a model of depth of its own"}


def moved(config: RunConfig, model: str | None, vae: str | None, control: str | None = None) -> RunConfig:
    """The config of a run whose models are now at `model`, `vae` and `control`; None: unchanged. Raises PriorError if
    there is nothing, and if an embedded prior would be replaced by another model or vice versa."""
    changes = {}
    for field, value in {"model": model, "vae": vae, "control": control}.items():
        old = getattr(config.guidance, field)
        if value is not None:
            if value != old and (old in EMBEDDED or value in EMBEDDED):
                was = f"with {old}" if old else f"without {WITHOUT[field]}"
                raise PriorError(f"the run was started {was}; it cannot go on with {value!r}")
            changes[field] = pinned(value)
        elif old not in EMBEDDED and not on_the_hub(old) and not folder_of(old).is_dir():
            raise PriorError(
                f"{old}, with which the run was started, is not there; if the model has moved, add "
                f"{FLAGS[field]} and the folder where it is"
            )
    return replace(config, guidance=replace(config.guidance, **changes))


def check_weights(config: RunConfig, expected: dict[str, str]) -> dict[str, str]:
    """`weights_of(config)`. Raises PriorError unless they agree with `expected`, those that a run was started with."""
    digests = weights_of(config)
    for field, digest in expected.items():
        if digests.get(field) != digest:
            raise PriorError(
                f"{getattr(config.guidance, field) or 'nothing'} is another model than the run was started "
                f"with (the digest of its weights is {digests.get(field, 'missing')[:12]}, not "
                f"{str(digest)[:12]}); give that one with {FLAGS.get(field, '--guidance')}, or start a "
                "new run"
            )
    return digests


def weights_of(config: RunConfig) -> dict[str, str]:
    """The digests of the weights of a run's models, by field of GuidanceConfig. Embedded priors, which come with the
    package, have no entry."""
    names = {field: getattr(config.guidance, field) for field in FLAGS}
    return {field: weights_digest(model_path(name)) for field, name in names.items() if name not in EMBEDDED}


def weights_digest(folder: Path) -> str:
    """SHA-256, in hex, of the weights of a pipeline's folder or of a single model's: of sizes and at most BLOCKS blocks
    of each file, so that large files take milliseconds, but not of file names."""
    total = hashlib.sha256()
    for part in ("", *WEIGHTED):
        files = {path.name: path for path in (folder / part).glob("*.safetensors")}
        for name in choose_weights(sorted(files), FULL_FIRST):
            total.update(f"{part} {files[name].stat().st_size}\n".encode())
            add_blocks(total, files[name])
    return total.hexdigest()


def add_blocks(total, path: Path) -> None:
    """Update the hash `total` with evenly spaced blocks of a file, or with all of a small one."""
    size = path.stat().st_size
    starts = (
        range(0, size, BLOCK)
        if size <= BLOCK * BLOCKS
        else (round(k * (size - BLOCK) / (BLOCKS - 1)) for k in range(BLOCKS))
    )
    try:
        with open(path, "rb") as file:
            for start in starts:
                file.seek(start)
                total.update(file.read(BLOCK))
    except OSError as error:
        raise PriorError(f"{path} cannot be read: {error.strerror or error}") from None
