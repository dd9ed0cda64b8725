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
    """The config of a run whose models are now at `model`, `vae` and `control`, also for later stages that share them;
    None: unchanged. Raises PriorError if there is nothing, and if an embedded prior would be replaced by another model
    or vice versa."""
    changes, then = {}, config.then
    for field, value in {"model": model, "vae": vae, "control": control}.items():
        old = getattr(config.guidance, field)
        if value is not None:
            if value != old and (old in EMBEDDED or value in EMBEDDED):
                was = f"with {old}" if old else f"without {WITHOUT[field]}"
                raise PriorError(f"the run was started {was}; it cannot go on with {value!r}")
            changes[field] = pinned(value)
            then = then and with_model(then, field, old, changes[field])
        elif missing(old):
            raise PriorError(
                f"{old}, with which the run was started, is not there; if the model has moved, add "
                f"{FLAGS[field]} and the folder where it is"
            )
    check_later(then)
    return replace(config, guidance=replace(config.guidance, **changes), then=then)


def missing(name: str) -> bool:
    """Whether a model is a folder that is not there."""
    return name not in EMBEDDED and not on_the_hub(name) and not folder_of(name).is_dir()


def with_model(config: RunConfig, field: str, old: str, new: str) -> RunConfig:
    """The config with the model `new` in the place of `old`, in every stage."""
    guidance = config.guidance
    if getattr(guidance, field) == old:
        guidance = replace(guidance, **{field: new})
    return replace(config, guidance=guidance, then=config.then and with_model(config.then, field, old, new))


def check_later(config: RunConfig | None) -> None:
    """Raise PriorError where a model of a later stage is not there, now rather than after the stages before it."""
    while config is not None:
        for name in (getattr(config.guidance, field) for field in FLAGS):
            if missing(name):
                raise PriorError(f"{name}, with which a later stage of the run is to go on, is not there; put it back")
        config = config.then


def check_weights(config: RunConfig, expected: dict[str, str]) -> dict[str, str]:
    """`weights_of(config)`. Raises PriorError unless they agree with `expected`, those that a run was started with."""
    digests = weights_of(config)
    for field, digest in expected.items():
        if digests.get(field) != digest:
            raise PriorError(
                f"{getattr(config.guidance, field, None) or 'nothing'} is another model than the run was started "
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
