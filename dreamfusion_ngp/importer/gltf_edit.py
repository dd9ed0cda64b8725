"""Edits a glTF document, leaving all other bytes as they are, and packs it as one GLB file."""

from __future__ import annotations

import bisect
import copy
import json
import struct

from ..base.errors import ExportError
from .gltf import BIN_CHUNK, JSON_CHUNK, MAGIC, Document, find_extension

ALIGNMENT = 16  # bytes; more than any accessor needs
WEBP = "EXT_texture_webp"


class Edit:
    """An editable copy of a document's JSON. Views, accessors and images keep their numbers, since extensions that are
    not understood may refer to them."""

    def __init__(self, document: Document) -> None:
        self.document, self.json = document, copy.deepcopy(document.json)
        self.pending: dict[int, tuple[dict, bytes, dict]] = {}
        self.aliases: list[tuple[dict, dict]] = []
        self.before = used_views(self.json)

    def append(self, kind: str, entry: dict) -> int:
        """Add an entry to a list of the document. Returns its number."""
        entries = self.json.setdefault(kind, [])
        entries.append(entry)
        return len(entries) - 1

    def attach(self, holder: dict, data: bytes, **fields) -> None:
        """Give an accessor or an image new bytes, in its own view with these fields."""
        for key in ("bufferView", "byteOffset", "uri"):
            holder.pop(key, None)
        self.pending[id(holder)] = holder, data, fields

    def alias(self, holder: dict, other: dict) -> None:
        """Let an image that is no longer used, but keeps its number, share the bytes of another."""
        holder.clear()
        self.aliases.append((holder, other))

    def glb(self) -> bytes:
        """The file, without views that nothing uses any more."""
        for number, data in self.document.images.items():
            if "uri" in self.json["images"][number]:
                kind = {b"\x89P": "image/png", b"\xff\xd8": "image/jpeg"}.get(data[:2], "image/webp")
                self.json["images"][number].setdefault("mimeType", kind)
                self.attach(self.json["images"][number], data)
        self.drop_unused_webp()
        views = self.json.setdefault("bufferViews", [])
        free = sorted(self.before - used_views(self.json))
        reused = free[: len(self.pending)]
        body = joined(self.document.buffers, views, reused)
        for k, (holder, data, fields) in enumerate(self.pending.values()):
            body += b"\0" * (-len(body) % ALIGNMENT)
            view = {"buffer": 0, "byteOffset": len(body), "byteLength": len(data)} | fields
            if k < len(reused):
                holder["bufferView"] = reused[k]
                views[reused[k]] = view
            else:
                holder["bufferView"] = self.append("bufferViews", view)
            body += data
        for holder, other in self.aliases:
            holder |= {"bufferView": other["bufferView"], "mimeType": other["mimeType"]}
        first = {key: one for key, one in self.json["buffers"][0].items() if key != "uri"}
        self.json["buffers"] = [first | {"byteLength": len(body)}]
        return packed(self.json, bytes(body))

    def drop_unused_webp(self) -> None:
        """Remove the WebP extension from the lists of extensions where no texture uses it any more."""
        if any(WEBP in texture.get("extensions", {}) for texture in self.json.get("textures", [])):
            return
        for key in ("extensionsUsed", "extensionsRequired"):
            if WEBP in self.json.get(key, []):
                self.json[key].remove(WEBP)
                if not self.json[key]:
                    del self.json[key]


def used_views(document: dict) -> set[int]:
    """The numbers of the views of accessors and images."""
    holders = document.get("accessors", []) + document.get("images", [])
    return {holder["bufferView"] for holder in holders if "bufferView" in holder}


def joined(buffers: list[bytes], views: list[dict], dropped: list[int]) -> bytearray:
    """All buffers as one, without the bytes that only the views `dropped` use; the offsets in `views` are updated. Cuts
    are multiples of ALIGNMENT bytes, so that alignments stay."""
    body, base = bytearray(), []
    for data in buffers:
        body += b"\0" * (-len(body) % ALIGNMENT)
        base.append(len(body))
        body += data
    for view in views:
        offset = base[int(view["buffer"])] + int(view.get("byteOffset", 0))
        view["buffer"] = 0
        if offset:
            view["byteOffset"] = offset
    ranges = [(v.get("byteOffset", 0), v.get("byteOffset", 0) + int(v["byteLength"])) for v in views]
    gone = set(dropped)
    kept = merged([one for k, one in enumerate(ranges) if k not in gone])
    cuts = []
    for low, high in merged([ranges[k] for k in dropped]):
        at = bisect.bisect_right(kept, (low, low))
        if (at == 0 or kept[at - 1][1] <= low) and (at == len(kept) or kept[at][0] >= high):
            cuts.append((low, low + (high - low) // ALIGNMENT * ALIGNMENT))
    for low, high in reversed(cuts):
        del body[low:high]
    lows = [low for low, _ in cuts]
    removed = [0]
    for low, high in cuts:
        removed.append(removed[-1] + high - low)
    for view, (low, _) in zip(views, ranges, strict=True):
        if low:
            view["byteOffset"] = low - removed[bisect.bisect_right(lows, low)]
    return body


def merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ranges in order, overlapping ones merged."""
    union: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if union and low < union[-1][1]:
            union[-1] = (union[-1][0], max(union[-1][1], high))
        else:
            union.append((low, high))
    return union


def packed(document: dict, body: bytes) -> bytes:
    """A GLB file. Raises ExportError where it would be too large for one."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    body += b"\0" * (-len(body) % 4)
    length = 12 + 8 + len(text) + 8 + len(body)
    if length >= 1 << 32:
        raise ExportError(f"the mesh would take {length:,} bytes, too many for a GLB file; make its textures smaller")
    head = struct.pack("<III", MAGIC, 2, length)
    return b"".join(
        [head, struct.pack("<II", len(text), JSON_CHUNK), text, struct.pack("<II", len(body), BIN_CHUNK), body]
    )


def texture_uses(document: dict) -> list[tuple[int, str, int]]:
    """(material, key, texture) of every texture that a material uses, also in its extensions."""
    uses = []
    for number, material in enumerate(document.get("materials", [])):
        waiting = [material]
        while waiting:
            for key, one in waiting.pop().items():
                if isinstance(one, dict):
                    waiting.append(one)
                    if key.endswith("Texture") and isinstance(one.get("index"), int):
                        uses.append((number, key, one["index"]))
    return uses


def source_of(texture: dict) -> int | None:
    return find_extension(texture, WEBP).get("source", texture.get("source"))
