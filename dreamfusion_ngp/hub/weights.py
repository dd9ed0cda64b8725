"""Files of weights: which files of a folder are the model's, and whether they are complete.

The names are diffusers' and transformers': NAME[.VARIANT][-00001-of-00002].safetensors, in older folders
NAME-00001-of-00002.VARIANT.safetensors. The same rule chooses what is fetched from a hub and what is loaded.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import PriorError

NAMES = ("diffusion_pytorch_model", "model", "pytorch_model")  # of whole models, preferred to adapters and the like
FULL_FIRST = ("", "fp32", "fp16", "bf16", "ema")  # variants in order of preference; "" is none, full precision
HALF_FIRST = ("fp16", "", "fp32", "bf16", "ema")  # for downloads: half the bytes
FILE = re.compile(
    r"(?P<name>[^.]+?)(?:\.(?P<variant>.+?))?(?:-(?P<shard>\d+)-of-(?P<total>\d+))?"
    r"(?:\.(?P<late>.+))?\.safetensors"
)
UNREAD = (".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".h5", ".onnx", ".gguf")  # formats that are never read
USUAL = ("pytorch_lora_weights.safetensors", "learned_embeds.safetensors")  # as diffusers saves LoRAs and inversions
LFS_START = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True)
class WeightSet:
    """The files of one set of weights.  paths: in order.  variant: "" for none.  missing: numbers of the shards that
    are not there."""

    name: str
    variant: str
    paths: tuple[str, ...]
    missing: tuple[int, ...] = ()

    def __str__(self) -> str:
        first, *others = self.paths
        return os.path.basename(first) + (f" and {len(others)} more" if others else "")


def weight_sets(paths: Iterable[str]) -> list[WeightSet]:
    """The sets of weights in one folder, complete or not."""
    groups: dict[tuple, dict[int, str]] = {}
    for path in paths:
        if match := FILE.fullmatch(os.path.basename(path)):
            variant = ".".join(part for part in (match["variant"], match["late"]) if part)
            key = match["name"], variant, int(match["total"] or 1), bool(match["total"])
            groups.setdefault(key, {})[int(match["shard"] or 1)] = path
    return [
        WeightSet(
            name,
            variant,
            tuple(shards[number] for number in sorted(shards)),
            tuple(number for number in range(1, total + 1) if number not in shards),
        )
        for (name, variant, total, _), shards in groups.items()
    ]


def best_weights(paths: Iterable[str], order: Sequence[str] = FULL_FIRST) -> WeightSet | None:
    """The set of weights to use in a folder. Preferred are complete sets, then standard names (NAMES), then variants in
    the order of `order`; "non_ema", no moving average, comes last."""

    def rank(weights: WeightSet):
        variant = weights.variant
        variant_rank = order.index(variant) if variant in order else len(order) + ("non_ema" in variant)
        name_rank = NAMES.index(weights.name) if weights.name in NAMES else len(NAMES)
        return bool(weights.missing), name_rank, variant_rank, variant, len(weights.paths)

    return min(weight_sets(paths), key=rank, default=None)


def choose_weights(paths: Iterable[str], order: Sequence[str] = HALF_FIRST) -> list[str]:
    """The files of the best set; by default in the order for downloads."""
    best = best_weights(paths, order)
    return list(best.paths) if best else []


def style_files(paths: Iterable[str]) -> list[str]:
    """Those of the paths in one folder that may be its LoRA or textual inversion: the one that diffusers would have
    written, else every safetensors file."""
    files = sorted(path for path in paths if path.endswith(".safetensors"))
    return [path for path in files if os.path.basename(path) in USUAL] or files


def unread_weights(names: Iterable[str]) -> str:
    """The end of an error message about a place without safetensors weights, by the names of its files."""
    others = sorted(os.path.basename(name) for name in names if name.endswith(UNREAD))
    if not others:
        return "has no weights in safetensors format, nor in another"
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    return (
        f"has no weights in safetensors format, only {others[0]}{more}, a format that is not read (it may run code "
        "or belongs to other programs); save them with safe_serialization=True"
    )


def part_weights(part: Path) -> WeightSet:
    """The weights to load from a model's folder. Raises PriorError if there are none, shards are missing, or a file is
    damaged."""
    names = sorted(os.listdir(part))
    weights = best_weights(str(part / name) for name in names)
    if weights is None:
        raise PriorError(f"{part} {unread_weights(names)}")
    if weights.missing:
        raise PriorError(
            f"{part} is incomplete: of the weights {weights} shards are missing: {', '.join(map(str, weights.missing))}"
        )
    for path in weights.paths:
        if reason := fault(Path(path)):
            raise PriorError(f"{path} {reason}")
    return weights


def fault(path: Path) -> str:
    """What is visibly wrong with a file of a model, as the end of a sentence; "" if nothing: git-lfs pointers, and
    safetensors files whose header is damaged or states another length."""
    from safetensors import SafetensorError, safe_open

    if is_lfs_pointer(path):
        return (
            'is a git-lfs pointer, not the file itself: run "git lfs pull" in the clone that it is from, or '
            "fetch the model with dreamfusion-ngp fetch"
        )
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "np"):
                pass
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"
        except SafetensorError as error:
            return f"is damaged: {error}"
    return ""


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is the short pointer that git checks out instead of a large file if git-lfs is missing."""
    try:
        with open(path, "rb") as file:
            return file.read(len(LFS_START)) == LFS_START
    except OSError:
        return False


@contextmanager
def loadable(part: Path, weights: WeightSet, name: str) -> Iterator[tuple[Path, str | None]]:
    """A folder and a variant from which a library that expects weights called `name` loads `weights`: `part` itself, or
    a folder of links if the files have other names or no index. Raises PriorError if the links cannot be made."""
    if has_standard_names(part, weights, name):
        yield part, weights.variant or None
        return
    with ExitStack() as stack:
        try:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dreamfusion_ngp-")))
            link_standard_names(part, weights, name, folder)
        except OSError as error:
            raise PriorError(
                f"{weights.paths[0]}: a folder of links to it cannot be made ({error}); TMPDIR names another place"
            ) from error
        yield folder, None


def has_standard_names(part: Path, weights: WeightSet, name: str) -> bool:
    """Whether the libraries find the files without links. They prefer an index to a single file, so an index that lists
    other files is in the way."""
    suffix = f".{weights.variant}" if weights.variant else ""
    index = part / f"{name}.safetensors.index{suffix}.json"
    files = [os.path.basename(path) for path in weights.paths]
    if files == [f"{name}{suffix}.safetensors"]:
        return not index.exists()
    try:
        listed = set(json.loads(index.read_text(encoding="utf-8-sig"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return listed == set(files) and all(file.startswith(f"{name}{suffix}-") for file in files)


def link_standard_names(part: Path, weights: WeightSet, name: str, folder: Path) -> None:
    """Fill `folder` with links to the files of `part`, the weights under names made from `name`, with an index for
    several shards."""
    from safetensors import safe_open

    for path in part.iterdir():
        if path.is_file() and not path.name.endswith((".safetensors", ".index.json", *UNREAD)):
            (folder / path.name).symlink_to(path.resolve())
    if len(weights.paths) == 1:
        (folder / f"{name}.safetensors").symlink_to(Path(weights.paths[0]).resolve())
        return
    where = {}
    for number, path in enumerate(weights.paths, 1):
        shard = f"{name}-{number:05d}-of-{len(weights.paths):05d}.safetensors"
        (folder / shard).symlink_to(Path(path).resolve())
        with safe_open(path, "np") as file:
            where |= dict.fromkeys(file.keys(), shard)
    size = sum(os.path.getsize(path) for path in weights.paths)
    (folder / f"{name}.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": size}, "weight_map": where}), encoding="utf-8"
    )
