"""The scene of a glTF document: the meshes that its nodes place, and the base colours of its materials."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..base.errors import MeshError
from .files import excerpt
from .gltf import Document, child, entry, find_extension, integer, listing, name_of

SPECULAR = "KHR_materials_pbrSpecularGlossiness"
LARGEST = 1e30  # of transforms and colours; products of them stay finite
WRAPS = {10497: "repeat", 33648: "mirror", 33071: "clamp"}


class Placed(NamedTuple):
    """A mesh as placed by a node. matrix: (4, 4) float64."""

    node: int
    mesh: int
    matrix: np.ndarray


class BaseColor(NamedTuple):
    """The base colour of a material. color: (4,) float32 linear. image: its number, or None. texcoord: number of the UV
    set. transform: (2, 3) float64 on the UVs, origin at the top left. wrap: "repeat", "mirror" or "clamp"."""

    color: np.ndarray
    image: int | None
    texcoord: int
    transform: np.ndarray
    wrap: str


def check_still(document: dict) -> None:
    """Raise MeshError for animated meshes, whose animation could not be written back."""
    for kind, what in (("skins", "a skin"), ("animations", "an animation")):
        if listing(document, kind):
            raise MeshError(f"has {what}; apply or remove it where the mesh was made")
    for mesh in listing(document, "meshes"):
        if mesh.get("weights") or any(p.get("targets") for p in listing(mesh, "primitives")):
            raise MeshError("has morph targets; apply or remove them where the mesh was made")
    for node in listing(document, "nodes"):
        if "EXT_mesh_gpu_instancing" in child(node, "extensions"):
            raise MeshError("has instances by EXT_mesh_gpu_instancing, which are not read")


def placed_meshes(document: dict) -> list[Placed]:
    """The meshes of the scene, from the roots downwards, in the order of the file. Raises MeshError."""
    nodes = listing(document, "nodes")
    waiting = [(number, np.eye(4)) for number in reversed(roots(document, len(nodes)))]
    meshes, visited = [], set()
    while waiting:
        number, parent = waiting.pop()
        node = entry(document, "nodes", number, "a node or scene")
        if number in visited:
            raise MeshError(f"is damaged: node {number} stands in its scene twice")
        visited.add(number)
        matrix = parent @ local_matrix(node, number)
        if not np.isfinite(matrix).all():
            raise MeshError(f"has a node ({number}) whose place is not finite")
        if "mesh" in node:
            entry(document, "meshes", node["mesh"], f"node {number}")
            meshes.append(Placed(number, node["mesh"], matrix))
        waiting += [(one, matrix) for one in reversed(numbers(node, "children"))]
    return meshes


def roots(document: dict, nodes: int) -> list[int]:
    """The root nodes of the default scene; without scenes, the nodes without a parent."""
    if scenes := listing(document, "scenes"):
        scene = integer(document, "scene", 0, what="the document")
        return numbers(entry(document, "scenes", scene if scene < len(scenes) else -1, "the document"), "nodes")
    children = {one for node in listing(document, "nodes") for one in numbers(node, "children")}
    return [number for number in range(nodes) if number not in children]


def numbers(holder: dict, key: str) -> list[int]:
    values = holder.get(key, [])
    if not isinstance(values, list) or not all(type(one) is int for one in values):
        raise MeshError(f"is damaged: {key} is no list of numbers")
    return values


def vector(holder: dict, key: str, default) -> np.ndarray:
    """(N,) float64, none of them beyond LARGEST. Raises MeshError."""
    value = holder.get(key, default)
    try:
        values = np.array(value, np.float64)
        if isinstance(value, (list, tuple)) and values.shape == (len(default),) and (np.abs(values) < LARGEST).all():
            return values
    except (TypeError, ValueError, OverflowError):
        pass
    raise MeshError(f"is damaged: {key} is {excerpt(value)}")


def local_matrix(node: dict, number: int) -> np.ndarray:
    """(4, 4) the matrix of a node, or that of its scale, rotation (unit quaternion x, y, z, w) and translation."""
    if "matrix" in node:
        return vector(node, "matrix", np.eye(4).ravel()).reshape(4, 4).T
    x, y, z, w = vector(node, "rotation", (0.0, 0.0, 0.0, 1.0))
    if not 0.25 < x * x + y * y + z * z + w * w < 4:
        raise MeshError(f"is damaged: the rotation of node {number} is no unit quaternion")
    x, y, z, w = np.array([x, y, z, w]) / np.sqrt(x * x + y * y + z * z + w * w)
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * vector(node, "scale", (1.0, 1.0, 1.0))
    matrix[:3, 3] = vector(node, "translation", (0.0, 0.0, 0.0))
    return matrix


def base_holder(material: dict) -> tuple[dict, str, str]:
    """The object of a material that holds its base colour, and the keys of its texture and colour factor there."""
    if "pbrMetallicRoughness" not in material and SPECULAR in child(material, "extensions"):
        return find_extension(material, SPECULAR), "diffuseTexture", "diffuseFactor"
    return child(material, "pbrMetallicRoughness"), "baseColorTexture", "baseColorFactor"


def base_color(document: Document, material: dict) -> BaseColor:
    """The base colour of a material. Raises MeshError."""
    holder, key, factor = base_holder(material)
    color = vector(holder, factor, (1.0, 1.0, 1.0, 1.0)).astype(np.float32)
    identity = np.eye(3)[:2]
    if key not in holder:
        return BaseColor(color, None, 0, identity, "repeat")
    info = child(holder, key)
    texture = entry(document.json, "textures", info.get("index"), "a material")
    transform = find_extension(info, "KHR_texture_transform")
    texcoord = integer(info, "texCoord", 0, high=15, what="a material")
    texcoord = integer(transform, "texCoord", texcoord, high=15, what="a material")
    source = texture_image(document.json, texture)
    return BaseColor(color, source, texcoord, uv_transform(transform), wrap_of(document.json, texture))


def texture_image(document: dict, texture: dict) -> int:
    """The number of a texture's image. Raises MeshError."""
    source = find_extension(texture, "EXT_texture_webp").get("source", texture.get("source"))
    if source is None:
        kind = next(iter(child(texture, "extensions")), "no image")
        raise MeshError(
            f"has a texture of a kind that is not read ({excerpt(kind)}); export its textures as PNG or JPEG"
        )
    entry(document, "images", source, "a texture")
    return source


def wrap_of(document: dict, texture: dict) -> str:
    """The wrap mode of a texture; where its axes differ, the one that does not repeat."""
    if "sampler" not in texture:
        return "repeat"
    sampler = entry(document, "samplers", texture["sampler"], "a texture")
    wraps = [WRAPS.get(integer(sampler, key, 10497, what="a sampler"), "repeat") for key in ("wrapS", "wrapT")]
    return next((wrap for wrap in wraps if wrap != "repeat"), "repeat")


def uv_transform(transform: dict) -> np.ndarray:
    """(2, 3) of KHR_texture_transform: offset + rotation * scale * uv, origin at the top left."""
    offset, scale = vector(transform, "offset", (0.0, 0.0)), vector(transform, "scale", (1.0, 1.0))
    (angle,) = vector({"rotation": [transform.get("rotation", 0.0)]}, "rotation", (0.0,))
    c, s = np.cos(angle), np.sin(angle)
    return np.column_stack([np.array([[c, s], [-s, c]]) * scale, offset])


def material_of(document: dict, primitive: dict) -> int | None:
    """The number of a primitive's material, or None. Raises MeshError."""
    if "material" not in primitive:
        return None
    entry(document, "materials", primitive["material"], "a primitive")
    return primitive["material"]


def part_name(document: dict, place: Placed, number: int, primitives: int) -> str:
    node, mesh = document["nodes"][place.node], document["meshes"][place.mesh]
    name = name_of(node, name_of(mesh, f"node {place.node}"))
    return name if primitives == 1 else f"{name}.{number}"
