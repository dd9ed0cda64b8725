"""The components of a pipeline folder in diffusers format, loaded one by one: from local files, safetensors only, never
remote code."""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import os
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..base.errors import DreamfusionError, PriorError, UsageError
from ..hub.fetch import model_path
from ..hub.names import check_folder
from ..hub.weights import NAMES, WeightSet, fault, is_lfs_pointer, loadable, part_weights
from .checks import check_steps, checked_abar
from .schedule import Schedule, abar_of_flow, flow_abar

log = logging.getLogger(__name__)
BIG = 2 << 30  # bytes of weights on disk above which a component is kept in bfloat16 (T5-XXL), else in float32
LONG = 200  # characters of another library's message above which only its first sentence is shown
BASES = {
    "unet": ("diffusers", "ModelMixin"),
    "vae": ("diffusers", "ModelMixin"),
    "scheduler": ("diffusers", "SchedulerMixin"),
    "transformer": ("diffusers", "ModelMixin"),
    "text_encoder": ("transformers", "PreTrainedModel"),
    "text_encoder_2": ("transformers", "PreTrainedModel"),
    "text_encoder_3": ("transformers", "PreTrainedModel"),
    "tokenizer": ("transformers", "PreTrainedTokenizerBase"),
    "tokenizer_2": ("transformers", "PreTrainedTokenizerBase"),
    "tokenizer_3": ("transformers", "PreTrainedTokenizerBase"),
}
STANDARD_NAMES = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}  # of weights, in these libraries
WEIGHTED = ("unet", "camera_proj", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")


def read_index(folder: Path) -> dict:
    """model_index.json of a pipeline folder. Raises PriorError that says what to give instead."""
    check_folder(folder)
    path = folder / "model_index.json"
    if not path.is_file() and (folder.parent / "model_index.json").is_file():
        raise PriorError(f"{folder} is one part of a pipeline; give the whole: {folder.parent}")
    if not path.is_file():
        single = sorted(p.name for p in folder.iterdir() if p.suffix in (".safetensors", ".ckpt"))
        only = f", only {single[0]}" if single else ""
        raise PriorError(
            f"{folder} has no model_index.json{only}: it is no pipeline folder in diffusers format, as "
            "save_pretrained of a whole pipeline writes it"
        )
    return read_object(path)


def read_config(folder: Path, name: str) -> dict:
    """config.json of a component."""
    return read_object(folder / name / "config.json")


def read_object(path: Path) -> dict:
    """A JSON object in a file. Raises PriorError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        if is_lfs_pointer(path):
            raise PriorError(f"{path} {fault(path)}") from None
        raise PriorError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise PriorError(f"{path} is damaged: expected an object, got {type(data).__name__}")
    return data


def part_class(folder: Path, index: dict, name: str) -> type:
    """The class that model_index.json names for a component; it must be one of diffusers' or transformers' own and of
    the right kind."""
    entry = index.get(name)
    library, base = BASES[name]
    if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(e, str) for e in entry)):
        raise PriorError(f"{folder} has no {name} in its model_index.json; expected one of {library}")
    if entry[0] != library or not entry[1].isidentifier():
        raise PriorError(
            f"{folder}: its {name} is {'.'.join(entry)}, not a class of {library}; "
            "code from a model folder is never run"
        )
    module = importlib.import_module(library)
    cls, base_class = getattr(module, entry[1], None), getattr(module, base)
    if not (isinstance(cls, type) and issubclass(cls, base_class)):
        raise PriorError(
            f"{folder}: its {name} is {'.'.join(entry)}, which this version of {library} does not have as a {name}"
        )
    return cls


def load_model(
    folder: Path, index: dict, name: str, dtype: torch.dtype | None = None, *, kind: str | None = None
) -> Any:
    """The component `name` with its weights, a torch.nn.Module: frozen, in eval mode, on the CPU, in `dtype` (default:
    float32, or bfloat16 if it is BIG). kind: the kind of component, if its folder has another name."""
    part, kind = folder / name, kind or name
    cls, weights = part_class(folder, index, kind), find_weights(folder, name)
    if weights.variant not in ("", "fp16") or weights.name not in NAMES:
        log.warning("%s: the weights are %s", part, weights)
    dtype = dtype or (torch.bfloat16 if sum(map(os.path.getsize, weights.paths)) > BIG else torch.float32)
    # Low-memory loading in diffusers needs accelerate, which is no dependency, and prints so on the terminal.
    # transformers names tensors of the wrong shape only if it is told to go on without them.
    more = {"low_cpu_mem_usage": False} if BASES[kind][0] == "diffusers" else {"ignore_mismatched_sizes": True}
    with loadable(part, weights, STANDARD_NAMES[BASES[kind][0]]) as (source, variant):
        model, info = _load(
            cls, part, source, dtype=dtype, variant=variant, use_safetensors=True, output_loading_info=True, **more
        )
    check_complete(part, info)
    # The libraries may keep the dtype of the file. torch's own method, as that of diffusers warns about missing layers.
    torch.nn.Module.to(model, dtype=dtype)
    return model.eval().requires_grad_(False)


def check_complete(place: Path, info: dict) -> None:
    """Raise PriorError for weights that the library's `info` of a loaded model reports as missing or misshapen: in
    their place the model has random numbers."""
    wrong = [key if isinstance(key, str) else key[0] for key in (*info["missing_keys"], *info["mismatched_keys"])]
    if wrong:
        raise PriorError(
            f"{place}: {len(wrong)} weights are missing or have the wrong shape, the first is {min(wrong)}"
        )


def load_blank(folder: Path, index: dict, name: str) -> Any:
    """A text encoder, a torch.nn.Module, made from its config without weights, on the meta device."""
    cls = part_class(folder, index, name)
    with fitting(f"{folder / name} cannot be loaded as {cls.__name__}"), torch.device("meta"):
        return cls(cls.config_class.from_pretrained(folder / name, local_files_only=True))


def load_vae(model: str) -> Any:
    """A VAE, a torch.nn.Module, from a folder or hub repository of its own (an AutoencoderTiny, say) or from a whole
    pipeline: frozen, in eval mode, on the CPU, float32."""
    path = model_path(model)
    if (path / "model_index.json").is_file():
        return load_model(path, read_index(path), "vae", torch.float32)
    name = read_object(path / "config.json").get("_class_name")
    if not isinstance(name, str):
        raise PriorError(f"{path / 'config.json'} names no class; wanted is the folder of a VAE in diffusers format")
    index = {"vae": ["diffusers", name]}
    return load_model(path.parent, index, path.name, torch.float32, kind="vae")


def find_weights(folder: Path, name: str) -> WeightSet:
    """The weights of a component. Raises PriorError if there are none, or a file is incomplete."""
    if not (folder / name).is_dir():
        raise PriorError(f"{folder} is incomplete: {name}/ is missing")
    return part_weights(folder / name)


def load_tokenizer(folder: Path, index: dict, name: str = "tokenizer"):
    """A tokenizer of a pipeline folder."""
    return with_words(_load(part_class(folder, index, name), folder / name), folder / name)


def with_words(tokenizer, place: Path):
    """The tokenizer. Raises PriorError if it knows no word: transformers makes such a one where its files are
    missing."""
    if set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens) <= {"▁"}:
        raise PriorError(
            f"{place} has a tokenizer without words: tokenizer.json, or the vocabulary (vocab.json and merges.txt, "
            "vocab.txt, spiece.model), is missing or empty"
        )
    return tokenizer


def check_parts(folder: Path, index: dict, names: Sequence[str]) -> None:
    """Raise PriorError unless the components `names` of a pipeline folder are there, with complete weights, and of
    supported classes."""
    for name in names:
        if name in WEIGHTED:
            find_weights(folder, name)
        elif not (folder / name).is_dir():
            raise PriorError(f"{folder} is incomplete: {name}/ is missing")
        elif pointer := next(filter(is_lfs_pointer, sorted((folder / name).iterdir())), None):
            raise PriorError(f"{pointer} {fault(pointer)}")
        elif (folder / name / "spiece.model").exists() and not (folder / name / "tokenizer.json").exists():
            missing = [module for module in ("sentencepiece", "google.protobuf") if not installed(module)]
            if missing:  # transformers would fall back to a reader that cannot read it
                raise PriorError(
                    f"{folder}/{name} is a SentencePiece model, which takes two more packages to read: "
                    "pip install sentencepiece protobuf"
                )
    for name in names:
        part_class(folder, index, name)


def installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False


def load_schedule(folder: Path, index: dict, override: str | None = None, shifted: bool = False) -> Schedule:
    """The noise schedule of the folder's scheduler. override: prediction type instead of the scheduler's. shifted: a
    flow has the shifted noise levels of its scheduler (Esser et al. 2024), not evenly spaced ones."""
    path = folder / "scheduler" / "scheduler_config.json"
    check_steps(read_object(path), path)
    scheduler = _load(part_class(folder, index, "scheduler"), folder / "scheduler")
    if type(scheduler).__name__ == "FlowMatchEulerDiscreteScheduler":
        if override:
            raise PriorError(f"{folder}: a rectified flow predicts a velocity; prediction_type cannot be {override}")
        if shifted:
            s, times = (x.double().numpy()[::-1].copy() for x in (scheduler.sigmas, scheduler.timesteps))
            return Schedule(checked_abar(abar_of_flow(s), path), "flow", times.astype(np.float32))
        length = scheduler.config.num_train_timesteps
        return Schedule(checked_abar(flow_abar(length), path), "flow", np.arange(1, length + 1))
    if shifted:
        raise UsageError(
            f"guidance.t_shifted is for models of a rectified flow; {folder} has a {type(scheduler).__name__}"
        )
    abar = getattr(scheduler, "alphas_cumprod", None)
    prediction = override or scheduler.config.get("prediction_type", "epsilon")
    if abar is None or prediction not in ("epsilon", "v_prediction", "sample"):
        raise PriorError(
            f"{folder}: {type(scheduler).__name__} with prediction type {prediction!r} is not understood; "
            "wanted is a variance-preserving one that predicts epsilon, v or the sample"
        )
    abar = checked_abar(abar, path)
    return Schedule(abar, prediction)


@contextmanager
def no_progress_bar():
    """Turn off transformers' progress bars for loading models, and its table of weights that do not fit, which our own
    error is about."""
    from transformers.utils import logging as transformers_logging

    enabled, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if enabled:
            transformers_logging.enable_progress_bar()


@contextmanager
def fitting(problem: str):
    """Turn any exception in the block into a PriorError of one line that begins with `problem`: diffusers, transformers
    and torch raise anything from OSError to their own errors for a damaged folder or components that do not fit."""
    try:
        yield
    except (DreamfusionError, MemoryError):
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        if "out of memory" in lines[0] or "allocate memory" in lines[0]:
            raise
        reason = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
        reason = reason if len(reason) < LONG else reason.partition(". ")[0][:LONG]
        raise PriorError(f"{problem}: {reason}") from error


def _load(cls: type, part: Path, source: Path | None = None, **options):
    """An object of the class from `source`, by default the component's folder, which messages name."""
    if not part.is_dir():
        raise PriorError(f"{part.parent} is incomplete: {part.name}/ is missing")
    with fitting(f"{part} cannot be loaded as {cls.__name__}"), no_progress_bar():
        return cls.from_pretrained(source or part, local_files_only=True, **options)
