"""glTF 2.0: the container, its JSON and its buffers; every number is checked before it is used.

Specification: Khronos, glTF 2.0 (ISO/IEC 12113:2022).
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..base.errors import MeshError
from .files import excerpt, read_uri

MAGIC, JSON_CHUNK, BIN_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942
MAX_JSON = 1 << 26  # bytes
COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
# Extensions that a file may require. Any other would change the triangles or the colours that are read.
KNOWN_EXTENSIONS = {"KHR_mesh_quantization", "KHR_texture_transform", "EXT_texture_webp", "KHR_lights_punctual"}
LISTS = (
    "accessors",
    "bufferViews",
    "buffers",
    "images",
    "materials",
    "meshes",
    "nodes",
    "samplers",
    "scenes",
    "textures",
)
KNOWN_PREFIX = "KHR_materials_"
ADVICE = {
    "KHR_draco_mesh_compression": "; export it without compression",
    "EXT_meshopt_compression": "; export it without compression",
    "KHR_texture_basisu": "; export its textures as PNG or JPEG",
}


@dataclass
class Document:
    """json: the document. buffers: its buffers. images: bytes of the images in separate files, by image number."""

    json: dict
    buffers: list[bytes]
    images: dict[int, bytes] = field(default_factory=dict)


def parse_json(data: bytes) -> dict:
    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise MeshError(f"has the number {text[:20]} in its JSON")
        return value

    try:
        document = json.loads(data.decode("utf-8-sig"), parse_constant=number, parse_float=number)
    except (ValueError, RecursionError):
        raise MeshError("has JSON that cannot be read") from None
    if not isinstance(document, dict):
        raise MeshError("has JSON that is no object")
    return document


def read_glb(data: bytes, folder: Path) -> Document:
    """The document of a GLB file. Raises MeshError."""
    if data[:4] != b"glTF"[: len(data[:4])] or not data:
        raise MeshError(f"is not a GLB file: it begins with {excerpt(data[:8])}")
    if len(data) < 20:
        raise MeshError("is cut short")
    _, version, length = struct.unpack_from("<III", data)
    if version != 2:
        raise MeshError(f"is glTF {version}; only glTF 2 is read")
    if length > len(data):
        raise MeshError(f"is cut short: it has {len(data):,} of {length:,} bytes")
    chunks, at = [], 12
    while at + 8 <= length:
        size, kind = struct.unpack_from("<II", data, at)
        if size > length - at - 8:
            raise MeshError("is damaged: a chunk is longer than the file")
        chunks.append((kind, at + 8, size))
        at += 8 + size
    if not chunks or chunks[0][0] != JSON_CHUNK or chunks[0][2] > MAX_JSON:
        raise MeshError("is damaged: it does not begin with JSON, or with too much of it")
    document = parse_json(data[chunks[0][1] :][: chunks[0][2]])
    binary = next((data[start : start + size] for kind, start, size in chunks[1:2] if kind == BIN_CHUNK), None)
    return complete(document, binary, folder)


def read_gltf(data: bytes, folder: Path) -> Document:
    """The document of a .gltf file, whose buffers and images lie in `folder` or inside the file. Raises MeshError."""
    if not data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") or len(data) > MAX_JSON * 8:
        raise MeshError("is not a glTF file: it is no JSON object")
    return complete(parse_json(data), None, folder)


def complete(document: dict, binary: bytes | None, folder: Path) -> Document:
    """The document with the buffers and images that it names loaded. Raises MeshError."""
    check_version(document)
    for kind in LISTS:
        listing(document, kind)
    buffers = []
    for number, buffer in enumerate(listing(document, "buffers")):
        length = integer(buffer, "byteLength", low=1, what="a buffer")
        if "uri" in buffer:
            data = read_uri(folder, buffer["uri"])
        elif number == 0 and binary is not None:
            data = binary
        else:
            raise MeshError(f"is damaged: buffer {number} has no bytes")
        if len(data) < length:
            raise MeshError(f"is cut short: buffer {number} has {len(data):,} of {length:,} bytes")
        buffers.append(data[:length])
    images = {}
    for number, image in enumerate(listing(document, "images")):
        if "bufferView" not in image:
            images[number] = read_uri(folder, image.get("uri"))
    result = Document(document, buffers, images)
    check_references(result)
    return result


def check_references(document: Document) -> None:
    """Raise MeshError for broken references, also in what the scene does not show: it must be written back too."""
    for view in range(len(listing(document.json, "bufferViews"))):
        view_bytes(document, view)
    for holder in listing(document.json, "accessors") + listing(document.json, "images"):
        if "bufferView" in holder:
            view_bytes(document, holder["bufferView"])
    for texture in listing(document.json, "textures"):
        for holder in (texture, find_extension(texture, "EXT_texture_webp")):
            if "source" in holder:
                entry(document.json, "images", holder["source"], "a texture")
    for mesh in listing(document.json, "meshes"):
        for primitive in listing(mesh, "primitives"):
            for number in [*child(primitive, "attributes").values(), primitive.get("indices", 0)]:
                entry(document.json, "accessors", number, "a primitive")


def check_version(document: dict) -> None:
    version = document.get("asset", {}).get("version") if isinstance(document.get("asset"), dict) else None
    if not isinstance(version, str) or not version.startswith("2."):
        raise MeshError(f"has no glTF 2 in it: asset.version is {excerpt(version)}")
    for key in ("extensionsUsed", "extensionsRequired"):
        if not isinstance(document.get(key, []), list):
            raise MeshError(f"is damaged: {key} is no list")
    for name in document.get("extensionsRequired", []):
        if not isinstance(name, str) or (name not in KNOWN_EXTENSIONS and not name.startswith(KNOWN_PREFIX)):
            raise MeshError(f"needs the extension {excerpt(name)}, which is not read{ADVICE.get(str(name), '')}")


def listing(holder: dict, key: str) -> list[dict]:
    """A list of objects of the document, empty where it is missing. Raises MeshError."""
    items = holder.get(key, [])
    if not isinstance(items, list) or not all(isinstance(one, dict) for one in items):
        raise MeshError(f"is damaged: {key} is no list of objects")
    return items


def child(holder: dict, key: str) -> dict:
    """An object within an object, empty where it is missing. Raises MeshError."""
    value = holder.get(key, {})
    if not isinstance(value, dict):
        raise MeshError(f"is damaged: {key} is no object")
    return value


def integer(holder: dict, key: str, default: int | None = None, *, low: int = 0, high: int = 1 << 40, what: str) -> int:
    """A whole number. Raises MeshError."""
    value = holder.get(key, default)
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not low <= value <= high:
        raise MeshError(f"is damaged: {key} of {what} is {excerpt(value)}")
    return value


def entry(document: dict, kind: str, number, what: str) -> dict:
    """document[kind][number], of a list that `complete` has checked. Raises MeshError."""
    entries = document.get(kind, [])
    if type(number) is not int or not 0 <= number < len(entries):
        raise MeshError(f"is damaged: {what} names {kind}[{excerpt(number)}], of which there are {len(entries)}")
    return entries[number]


def name_of(holder: dict, otherwise: str) -> str:
    name = holder.get("name")
    return name if isinstance(name, str) and name else otherwise


def view_bytes(document: Document, number) -> memoryview:
    """The bytes of a buffer view. Raises MeshError."""
    view = entry(document.json, "bufferViews", number, "an accessor or image")
    buffer = integer(view, "buffer", what="a buffer view")
    if buffer >= len(document.buffers):
        raise MeshError(
            f"is damaged: a buffer view names buffers[{buffer}], of which there are {len(document.buffers)}"
        )
    start = integer(view, "byteOffset", 0, what="a buffer view")
    length = integer(view, "byteLength", low=1, what="a buffer view")
    if start + length > len(document.buffers[buffer]):
        raise MeshError("is damaged or cut short: a buffer view ends after its buffer")
    return memoryview(document.buffers[buffer])[start : start + length]


def accessor(document: Document, number, types: tuple[str, ...] = tuple(WIDTHS)) -> np.ndarray:
    """(count, width) elements of an accessor in their stored type, a view of its buffer. Raises MeshError."""
    info = entry(document.json, "accessors", number, "a primitive")
    kind, component = info.get("type"), info.get("componentType")
    if kind not in types or not isinstance(kind, str) or not isinstance(component, int) or component not in COMPONENTS:
        raise MeshError(f"is damaged: accessor {number} is of type {excerpt(kind)}, {excerpt(component)}")
    if "sparse" in info or "bufferView" not in info:
        raise MeshError(f"has a sparse accessor ({number}), which is not read")
    count = integer(info, "count", low=1, what=f"accessor {number}")
    data = view_bytes(document, info["bufferView"])
    scalar, width = np.dtype(COMPONENTS[component]), WIDTHS[kind]
    size = scalar.itemsize * width
    offset = integer(info, "byteOffset", 0, what=f"accessor {number}")
    view = entry(document.json, "bufferViews", info["bufferView"], "an accessor")
    stride = integer(
        view, "byteStride", size, low=size, high=252 if "byteStride" in view else size, what="a buffer view"
    )
    if offset + stride * (count - 1) + size > len(data):
        raise MeshError(f"is damaged or cut short: accessor {number} of {count:,} elements ends after its bytes")
    strides = (stride, scalar.itemsize)
    return np.ndarray((count, width), scalar, buffer=data, offset=offset, strides=strides)


def as_float(document: Document, number, types: tuple[str, ...]) -> np.ndarray:
    """(count, width) float32 values of an accessor; normalized integers are mapped to [-1, 1] or [0, 1]. Raises
    MeshError."""
    raw = accessor(document, number, types)
    values = raw.astype(np.float32)
    if raw.dtype.kind != "f" and entry(document.json, "accessors", number, "a primitive").get("normalized") is True:
        values = np.maximum(values / np.iinfo(raw.dtype).max, -1.0).astype(np.float32)
    return values


def find_extension(holder: dict, name: str) -> dict:
    """An extension of an object, empty where it has none. Raises MeshError."""
    return child(child(holder, "extensions"), name)
