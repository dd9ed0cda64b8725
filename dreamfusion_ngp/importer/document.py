"""Builds a glTF document from arrays. PLY and STL files, which hold no texture, are converted into one."""

from __future__ import annotations

import numpy as np

from .gltf import Document

ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963
TYPES = {"f": 5126, "u": 5125}


class Builder:
    """Builds the JSON and the buffer of a document, one accessor at a time. Every view begins at a multiple of 16
    bytes."""

    def __init__(self, json: dict) -> None:
        self.json, self.chunks, self.length = json, [], 0

    def view(self, data: bytes, **fields) -> int:
        """Add a buffer view. Returns its number."""
        views = self.json.setdefault("bufferViews", [])
        views.append({"buffer": 0, "byteOffset": self.length, "byteLength": len(data)} | fields)
        padded = data + b"\0" * (-len(data) % 16)
        self.chunks.append(padded)
        self.length += len(padded)
        return len(views) - 1

    def accessor(self, values: np.ndarray, kind: str, target: int = ARRAY_BUFFER) -> int:
        """Add an accessor of float32 or uint32 values. Returns its number."""
        accessors = self.json.setdefault("accessors", [])
        view = self.view(np.ascontiguousarray(values).tobytes(), target=target)
        entry = {"bufferView": view, "componentType": TYPES[values.dtype.kind], "count": len(values), "type": kind}
        accessors.append(entry)
        return len(accessors) - 1

    def document(self) -> Document:
        data = b"".join(self.chunks)
        self.json["buffers"] = [{"byteLength": len(data)}]
        return Document(self.json, [data])


def document_of(
    vertices: np.ndarray,
    faces: np.ndarray,
    rotation: np.ndarray,
    name: str,
    *,
    uv: np.ndarray | None = None,
    colors: np.ndarray | None = None,
    image: bytes | None = None,
    mime: str = "image/png",
) -> Document:
    """One mesh under one node. vertices (V, 3) float32, as in their file; rotation (3, 3) turns them to glTF's axes and
    becomes the node's matrix, so that the numbers stay. faces (F, 3); uv (V, 2), origin at the top left; colors (V, 4)
    float32 linear; image: encoded bytes of the texture."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    node = {"mesh": 0, "name": name}
    if not np.array_equal(matrix, np.eye(4)):
        node["matrix"] = matrix.T.ravel().tolist()
    material = surface_material()
    build = Builder({"asset": {"version": "2.0", "generator": "dreamfusion_ngp"}})
    attributes = {"POSITION": build.accessor(vertices, "VEC3")}
    bounds = {"min": vertices.min(0).tolist(), "max": vertices.max(0).tolist()}
    build.json["accessors"][0] |= bounds
    if uv is not None:
        attributes["TEXCOORD_0"] = build.accessor(uv.astype(np.float32), "VEC2")
    if colors is not None:
        attributes["COLOR_0"] = build.accessor(colors.astype(np.float32), "VEC4")
    indices = build.accessor(faces.astype(np.uint32).ravel()[:, None], "SCALAR", ELEMENT_ARRAY_BUFFER)
    primitive = {"attributes": attributes, "indices": indices, "material": 0, "mode": 4}
    if image is not None:
        build.json["images"] = [{"bufferView": build.view(image), "mimeType": mime}]
        build.json["textures"] = [{"source": 0}]
        material["pbrMetallicRoughness"]["baseColorTexture"] = {"index": 0}
    build.json |= {
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [node],
        "meshes": [{"name": name, "primitives": [primitive]}],
        "materials": [material],
    }
    return build.document()


def surface_material() -> dict:
    """A material as guidance sees surfaces: without these numbers a glTF material is of metal."""
    return {"name": "surface", "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0}}


def flipped(uv: np.ndarray) -> np.ndarray:
    """(N, 2) float32 UVs with their origin moved from top left to bottom left, or back."""
    return uv * np.array([1, -1], np.float32) + np.array([0, 1], np.float32)


def linear(srgb) -> np.ndarray:
    """sRGB values in [0, 1] to linear light (IEC 61966-2-1)."""
    srgb = np.asarray(srgb, np.float32)
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(np.float32)


def display(light: np.ndarray) -> np.ndarray:
    """Linear light in [0, 1] to sRGB values."""
    light = np.asarray(light, np.float32).clip(0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055).astype(np.float32)
