"""Files of weights: which of those that lie side by side are a model's, and whether they are whole.

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

NAMES = ("diffusion_pytorch_model", "model", "pytorch_model")  # of whole models, before adapters and the like
FULL_FIRST = ("", "fp32", "fp16", "bf16", "ema")  # variants in order of preference; "" is none, full precision
HALF_FIRST = ("fp16", "", "fp32", "bf16", "ema")  # for downloads: half the bytes
FILE = re.compile(
    r"(?P<name>[^.]+?)(?:\.(?P<variant>.+?))?(?:-(?P<shard>\d+)-of-(?P<total>\d+))?"
    r"(?:\.(?P<late>.+))?\.safetensors"
)
UNREAD = (".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".h5", ".onnx", ".gguf")  # formats that are never read
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
    """The sets that files of weights in one folder form, complete or not."""
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
    """The set to use of the files in one folder: a complete one, the first variant of `order` that is there, else
    another, weights that are no moving average last."""

    def rank(found: WeightSet):
        known = order.index(found.variant) if found.variant in order else len(order) + ("non_ema" in found.variant)
        name = NAMES.index(found.name) if found.name in NAMES else len(NAMES)
        return bool(found.missing), name, known, found.variant, len(found.paths)

    return min(weight_sets(paths), key=rank, default=None)


def choose_weights(paths: Iterable[str], order: Sequence[str] = HALF_FIRST) -> list[str]:
    """The files of the set to use of those that lie side by side; by default the one to fetch."""
    found = best_weights(paths, order)
    return list(found.paths) if found else []


def unread_weights(names: Iterable[str]) -> str:
    """What to say of a place without weights in safetensors format, by the names of its files."""
    others = sorted(os.path.basename(name) for name in names if name.endswith(UNREAD))
    if not others:
        return "has no weights in safetensors format, nor in another"
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    return (
        f"has no weights in safetensors format, only {others[0]}{more}, a format that is not read (it may run code "
        "or belongs to other programs); save them with safe_serialization=True"
    )


def part_weights(part: Path) -> WeightSet:
    """The weights to load of a folder that holds one model. Raises PriorError if there are none, shards are missing, or
    a file is not what its name says."""
    names = sorted(os.listdir(part))
    found = best_weights(str(part / name) for name in names)
    if found is None:
        raise PriorError(f"{part} {unread_weights(names)}")
    if found.missing:
        raise PriorError(
            f"{part} is incomplete: of the weights {found} shards are missing: {', '.join(map(str, found.missing))}"
        )
    for path in found.paths:
        if reason := fault(Path(path)):
            raise PriorError(f"{path} {reason}")
    return found


def fault(path: Path) -> str:
    """What is visibly wrong with a file of a model, as the end of a sentence; "" if nothing: git-lfs pointers, and
    safetensors files whose header is damaged or tells another length."""
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
    """Whether a file is the few lines that git checks out instead of a large one where git-lfs is missing."""
    try:
        with open(path, "rb") as file:
            return file.read(len(LFS_START)) == LFS_START
    except OSError:
        return False


@contextmanager
def loadable(part: Path, found: WeightSet, name: str) -> Iterator[tuple[Path, str | None]]:
    """A folder and a variant from which a library that calls its weights `name` loads `found`: `part` itself, or one of
    links where the files are named otherwise or have no index. Raises PriorError if that cannot be made."""
    if has_standard_names(part, found, name):
        yield part, found.variant or None
        return
    with ExitStack() as stack:
        try:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dreamfusion_ngp-")))
            link_standard_names(part, found, name, folder)
        except OSError as error:
            raise PriorError(
                f"{found.paths[0]}: a folder of links to it cannot be made ({error}); TMPDIR names another place"
            ) from error
        yield folder, None


def has_standard_names(part: Path, found: WeightSet, name: str) -> bool:
    """Whether the libraries find the files by themselves. An index decides over a single file, so one that lists
    anything else is in the way."""
    suffix = f".{found.variant}" if found.variant else ""
    index = part / f"{name}.safetensors.index{suffix}.json"
    files = [os.path.basename(path) for path in found.paths]
    if files == [f"{name}{suffix}.safetensors"]:
        return not index.exists()
    try:
        listed = set(json.loads(index.read_text(encoding="utf-8-sig"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return listed == set(files) and all(file.startswith(f"{name}{suffix}-") for file in files)


def link_standard_names(part: Path, found: WeightSet, name: str, folder: Path) -> None:
    """Fill `folder` with links to the files of `part`, the weights under the names of `name`, with an index if they are
    several."""
    from safetensors import safe_open

    for path in part.iterdir():
        if path.is_file() and not path.name.endswith((".safetensors", ".index.json", *UNREAD)):
            (folder / path.name).symlink_to(path.resolve())
    if len(found.paths) == 1:
        (folder / f"{name}.safetensors").symlink_to(Path(found.paths[0]).resolve())
        return
    where = {}
    for number, path in enumerate(found.paths, 1):
        shard = f"{name}-{number:05d}-of-{len(found.paths):05d}.safetensors"
        (folder / shard).symlink_to(Path(path).resolve())
        with safe_open(path, "np") as file:
            where |= dict.fromkeys(file.keys(), shard)
    size = sum(os.path.getsize(path) for path in found.paths)
    (folder / f"{name}.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": size}, "weight_map": where}), encoding="utf-8"
    )
