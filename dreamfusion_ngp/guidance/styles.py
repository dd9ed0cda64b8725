"""LoRAs (Hu et al., ICLR 2022) of the user, read by diffusers' loaders and fused into a model's weights: afterwards the
model costs the same as before, and there is no LoRA left to train or switch off.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..base.errors import PriorError, UsageError
from ..hub.fetch import locate
from ..hub.names import ALIASES, on_the_hub
from ..hub.weights import fault, is_lfs_pointer, style_files, unread_weights
from .pipeline_folder import fitting, installed, no_progress_bar

ENTRY = re.compile(r"(?P<path>.+?)(?::(?P<weight>[-+]?(?:\d+\.?\d*|\.\d+)))?(?::(?P<digest>[0-9a-f]{64}))?", re.DOTALL)
FIRST = re.compile(r"[._]lora(?:_A|\.down|_down|_linear_layer\.down|_?\.down)\b")  # of the two matrices of a layer
MATRIX = re.compile(r"(?<=[._])(lora[._](?:linear_layer\.)?)(A|B|down|up)(?=(?:\.\w+)?\.weight$)")
OTHER = {"A": "B", "B": "A", "down": "up", "up": "down"}


@dataclass(frozen=True)
class Lora:
    """path: of a safetensors file. weight: factor of its contribution. digest: SHA-256 of the file, in hex. name: where
    it is, whatever the working directory: its path, or a hub id with its revision."""

    path: Path
    weight: float
    digest: str
    name: str

    def __str__(self) -> str:
        return f"{self.name}:{self.weight:g}:{self.digest}"


def read_entry(text: str) -> Lora:
    """The LoRA of an entry of `guidance.loras`, "FILE_FOLDER_OR_ID[:WEIGHT[:SHA-256]]". Raises UsageError and
    PriorError: no such file, another format, other contents than the digest says."""
    match = ENTRY.fullmatch(text)
    if match is None:
        raise UsageError("--lora wants FILE_FOLDER_OR_ID[:WEIGHT]; the path is empty")
    weight = float(match["weight"] or 1.0)
    if not math.isfinite(weight):
        raise UsageError(f"--lora: the weight of {match['path']} must be finite, got {weight}")
    path, digest, name = pinned_file(match["path"], match["digest"], "--lora", "LoRA")
    return Lora(path, weight, digest, name)


def pinned_file(place: str, expected: str | None, flag: str, what: str) -> tuple[Path, str, str]:
    """The safetensors file at a place, a path or a hub id, its SHA-256 in hex, and the place as a name that stays valid
    (`Lora.name`). expected: the SHA-256 of what a run was started with. Raises UsageError and PriorError."""
    folder, name = on_disk(place, flag)
    path = file_in(folder, flag, pinned=expected is not None).absolute()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if expected not in (None, digest):
        raise PriorError(
            f"{path} is another {what} than the run was started with (its SHA-256 is {digest[:12]}, not "
            f"{expected[:12]}); put that one back, or start a new run"
        )
    return path, digest, name or str(path)


def on_disk(place: str, flag: str) -> tuple[Path, str]:
    """The path that a place stands for, and "owner/name@revision" if it is on the hub, whence it is fetched if it is
    not on this machine; "" for a path."""
    path = Path(place).expanduser()
    if path.exists() or place in ALIASES:
        return path, ""
    try:
        if not on_the_hub(place):
            return path, ""
    except PriorError:  # an address, but not of a repository
        raise UsageError(
            f"{flag}: {place} is no page of a repository; give owner/name, or download the file and give its path"
        ) from None
    try:
        snapshot = locate(place)
    except PriorError as error:
        raise PriorError(f"{flag}: {place} is no file or folder here, and on the hub: {error}") from None
    return snapshot.folder, snapshot.name


def file_in(path: Path, flag: str, pinned: bool = False) -> Path:
    """The safetensors file at a path: the path itself, or the single one in a folder. pinned: a run was started with
    it. Raises UsageError that names the flag, PriorError for git-lfs pointers and if a pinned one is gone."""
    if path.is_dir():
        files = style_files(os.listdir(path))
        if not files:
            raise UsageError(f"{flag}: {path} {unread_weights(os.listdir(path))}")
        if len(files) != 1:
            raise UsageError(f"{flag}: {path} holds {len(files)} files *.safetensors; name the one that is meant")
        path = path / files[0]
    if not path.is_file():
        if pinned:
            raise PriorError(f"{path}, with which the run was started, is not there; put it back, or start a new run")
        raise UsageError(f"{flag}: {path} is not there")
    if path.suffix != ".safetensors":
        raise UsageError(f"{flag}: {path} is no safetensors file; other formats can run code and are never read")
    if is_lfs_pointer(path):
        raise PriorError(f"{path} {fault(path)}")
    return path


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file. Raises PriorError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if reason := fault(path):
        raise PriorError(f"{path} {reason}")
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise PriorError(f"{path} cannot be read: {error}") from None


def check_pairs(path: Path, state: dict) -> None:
    """Raise PriorError unless the tensors of a file have both matrices of every layer, in any of the spellings."""
    for key in sorted(state):
        other = MATRIX.sub(lambda match: match[1] + OTHER[match[2]], key)
        if other != key and other not in state:
            raise PriorError(f"{path} is damaged: it holds {key} without {other}, the other matrix of its layer")


def check_layers(path: Path, state: dict, name: str, model: torch.nn.Module) -> None:
    """Raise PriorError unless the LoRA that `model`, the component `name`, has taken has all the layers that `state`
    has for it: the libraries leave the others out."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    taken = {layer for layer, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    given = [FIRST.split(key)[0] for key in sorted(state) if key.startswith(f"{name}.") and FIRST.search(key)]
    if len(taken) < len(given):
        bare = [re.sub(r"\.processor\b", "", key.removeprefix(f"{name}.")) for key in given]
        foreign = [layer for layer in bare if not taken & {layer, f"{layer}.0", layer.removeprefix("text_model.")}]
        first = f", the first is {foreign[0]}" if foreign else ""
        raise PriorError(
            f"{path} does not fit this model, is it for another one?: its {name} lacks {len(given) - len(taken)} of "
            f"{len(given)} layers{first}"
        )


def fuse(model: torch.nn.Module) -> None:
    """Merge every adapter of a transformers model, which has no method for it, into the weights, and remove the adapter
    layers."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BaseTunerLayer):
                child.merge(safe_merge=True)
                setattr(parent, name, child.get_base_layer())


class Styles:
    """The LoRAs of a run. loader: the class in diffusers.loaders that reads them for a family of models."""

    def __init__(self, entries: tuple[str, ...], loader: str, model: str):
        self.loras, self.loader = [read_entry(entry) for entry in entries], loader
        if self.loras and not loader:
            raise UsageError(f"--lora is for Stable Diffusion 1, 2 and 3 and SDXL, and {model} is none of them")
        if self.loras and not installed("peft"):
            raise UsageError('--lora takes one more package: pip install "dreamfusion_ngp[lora]"')

    def key(self) -> str:
        """The part of a cache key that depends on the LoRAs, "" for none."""
        return " ".join(f"{lora.weight:g}:{lora.digest}" for lora in self.loras)

    def into_network(self, network: Any, name: str, encoders: Sequence[str]) -> None:
        """Fuse them into the component `name`, "unet" or "transformer", a model of diffusers. encoders: names of the
        model's text encoders. Raises PriorError for one that does not fit."""
        parts = tuple(f"{part}." for part in (name, *encoders))
        for lora in self.loras:
            with fitting(f"{lora.path} does not fit this model, is it for another one?"):
                state, alphas = self._read(lora, network)
                if not any(key.startswith(parts) for key in state):
                    raise PriorError(f"{lora.path} holds no LoRA of a {name} or a text encoder of this model")
                if not any(key.startswith(f"{name}.") for key in state):
                    continue
                network.load_lora_adapter(state, prefix=name, network_alphas=alphas, adapter_name="style")
                check_layers(lora.path, state, name, network)
                network.set_adapters(["style"], [lora.weight])
                network.fuse_lora(safe_fusing=True)
                network.unload_lora()
        network.requires_grad_(False)

    def into_encoders(self, encoders: dict[str, Any]) -> None:
        """Fuse them into text encoders, models of transformers, by component name. Raises PriorError for one that does
        not fit."""
        for lora in self.loras:
            for name, encoder in encoders.items():
                problem = f"{lora.path} does not fit this model's {name}, is it for another one?"
                with fitting(problem), no_progress_bar():
                    state, alphas = self._read(lora, None)
                    if not any(key.startswith(f"{name}.") for key in state):
                        continue
                    self._class().load_lora_into_text_encoder(
                        state,
                        network_alphas=alphas,
                        text_encoder=encoder,
                        prefix=name,
                        lora_scale=lora.weight,
                        adapter_name="style",
                    )
                    check_layers(lora.path, state, name, encoder)
                    fuse(encoder)
                    encoder.delete_adapter("style")
                encoder.requires_grad_(False)

    def _class(self):
        import diffusers.loaders

        return getattr(diffusers.loaders, self.loader)

    def _read(self, lora: Lora, network: Any) -> tuple[dict, dict | None]:
        """A LoRA's tensors by diffusers' names, and kohya's alphas."""
        more = {} if network is None or "SD3" in self.loader else {"unet_config": network.config}
        tensors = read(lora.path)
        check_pairs(lora.path, tensors)
        state = self._class().lora_state_dict(tensors, **more)
        return state if isinstance(state, tuple) else (state, None)
