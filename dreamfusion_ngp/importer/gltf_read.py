"""The triangles, UVs and colours of a glTF document, in the order of its scene.

Vertices that primitives of one node share stay shared; nothing is merged, split or reordered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..base.errors import MeshError
from ..scene.imported import ImportedMesh, Material, Part, Texture, normalisation, transform_points, used_vertices
from .document import flipped
from .files import excerpt
from .gltf import WIDTHS, Document, accessor, as_float, child, entry, integer, listing, name_of, view_bytes
from .gltf_scene import BaseColor, base_color, check_still, material_of, part_name, placed_meshes
from .images import Decoder

MAX_FACES = 4_000_000
MAX_VERTICES = 3 * MAX_FACES
MAX_MATERIALS = 1000
TRIANGLES, STRIP, FAN = 4, 5, 6


class Piece(NamedTuple):
    """A primitive as placed by a node. block: the number of its vertices' block. count: triangles. first: the earlier
    piece with the same primitive, or None."""

    node: int
    mesh: int
    primitive: int
    name: str
    matrix: np.ndarray
    block: int
    count: int
    material: int | None
    first: int | None


class Block(NamedTuple):
    """Vertices of one node: the accessors of their positions, UVs and colours, and the transform of the UVs."""

    position: int
    texcoord: int | None
    color: int | None
    transform: bytes
    node: int


class Layout(NamedTuple):
    """How the arrays of a mesh are composed: `pieces` and `blocks` in order; `bases`: base colours by material number
    (None: primitives without a material)."""

    pieces: list[Piece]
    blocks: list[Block]
    bases: dict[int | None, BaseColor]


@dataclass
class GltfSource:
    """The document that a mesh was read from, and the layout of its primitives in the mesh."""

    document: Document
    layout: Layout


def primitive_of(document: dict, piece: Piece) -> dict:
    return document["meshes"][piece.mesh]["primitives"][piece.primitive]


def triangle_count(mode: int, corners: int) -> int:
    return corners // 3 if mode == TRIANGLES else max(corners - 2, 0)


def lay_out(document: Document) -> Layout:
    """The primitives that the scene shows and their vertices, counted before anything is allocated. Raises
    MeshError."""
    pieces, blocks, bases, earlier = [], {}, {}, {}
    faces = vertices = 0
    for place in placed_meshes(document.json):
        primitives = listing(document.json["meshes"][place.mesh], "primitives")
        for number, primitive in enumerate(primitives):
            mode = integer(primitive, "mode", TRIANGLES, high=6, what="a primitive")
            if mode < TRIANGLES:
                continue
            material = material_of(document.json, primitive)
            if material not in bases:
                if len(bases) == MAX_MATERIALS:
                    raise MeshError(f"has more than {MAX_MATERIALS:,} materials")
                bases[material] = base_color(document, {} if material is None else document.json["materials"][material])
            block, length = block_of(document, primitive, bases[material], place.node)
            corners = len(accessor(document, primitive["indices"], ("SCALAR",))) if "indices" in primitive else length
            if block not in blocks:
                blocks[block] = len(blocks)
                vertices += length
            count = triangle_count(mode, corners)
            faces += count
            if faces > MAX_FACES or vertices > MAX_VERTICES:
                raise MeshError(f"has more than {MAX_FACES:,} triangles or {MAX_VERTICES:,} vertices")
            first = earlier.setdefault((place.mesh, number), len(pieces))
            name = part_name(document.json, place, number, len(primitives))
            where = (place.node, place.mesh, number, name, place.matrix)
            pieces.append(Piece(*where, blocks[block], count, material, None if first == len(pieces) else first))
    if faces == 0:
        raise MeshError("has no triangles")
    return Layout(pieces, list(blocks), bases)


def block_of(document: Document, primitive: dict, base: BaseColor, node: int) -> tuple[Block, int]:
    """The block of a primitive's vertices and how many they are. Raises MeshError."""
    attributes = child(primitive, "attributes")
    if "POSITION" not in attributes:
        raise MeshError("has a primitive without positions (it may be compressed)")
    length = len(accessor(document, attributes["POSITION"], ("VEC3",)))
    texcoord, color = attributes.get(f"TEXCOORD_{base.texcoord}"), attributes.get("COLOR_0")
    for name, number in attributes.items():
        types = {"TEXCOORD": ("VEC2",), "COLOR": ("VEC3", "VEC4")}.get(name.split("_")[0], tuple(WIDTHS))
        if len(accessor(document, number, types)) != length:
            raise MeshError(f"is damaged: {excerpt(name)} has not as many elements as its positions, {length:,}")
    return Block(attributes["POSITION"], texcoord, color, base.transform.tobytes(), node), length


def triangles(document: Document, primitive: dict, vertices: int, what: str) -> np.ndarray:
    """(F, 3) int64 indices of a primitive's triangles among its own vertices. Raises MeshError."""
    if "indices" in primitive:
        index = accessor(document, primitive["indices"], ("SCALAR",))[:, 0]
        if index.dtype.kind != "u":
            raise MeshError(f"is damaged: the indices of {what} are no unsigned whole numbers")
        if index.size and int(index.max()) >= vertices:
            raise MeshError(f"is damaged: {what} names vertex {int(index.max()):,} of {vertices:,}")
        index = index.astype(np.int64)
    else:
        index = np.arange(vertices)
    mode = primitive.get("mode", TRIANGLES)
    if mode == TRIANGLES:
        return index[: len(index) // 3 * 3].reshape(-1, 3)
    first = np.arange(max(len(index) - 2, 0))
    if mode == FAN:
        return np.stack([index[first + 1], index[first + 2], index[np.zeros_like(first)]], -1)
    odd = first % 2  # every second triangle of a strip runs the other way
    return np.stack([index[first], index[first + 1 + odd], index[first + 2 - odd]], -1)


def block_arrays(
    document: Document, block: Block, matrix: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Positions (V, 3) float64 in the file's coordinates, UVs (V or 0, 2) float32 with their origin at the bottom left,
    colours (V, 4) float32 or None. Raises MeshError."""
    uv, colors = np.zeros((0, 2), np.float32), None
    with np.errstate(over="ignore", invalid="ignore"):
        points = transform_points(as_float(document, block.position, ("VEC3",)), matrix)
        if block.texcoord is not None:
            transform = np.frombuffer(block.transform).reshape(2, 3)
            uv = as_float(document, block.texcoord, ("VEC2",))
            if not np.array_equal(transform, np.eye(3)[:2]):
                uv = (uv @ transform[:, :2].T + transform[:, 2]).astype(np.float32)
            uv = flipped(uv)
        if block.color is not None:
            colors = as_float(document, block.color, ("VEC3", "VEC4"))
            colors = np.concatenate([colors, np.ones((len(colors), 4 - colors.shape[1]), np.float32)], 1)
    if not all(np.isfinite(array).all() for array in (points, uv) + (() if colors is None else (colors,))):
        raise MeshError("has numbers that are not finite")
    return points, uv, colors


def gather(document: Document, layout: Layout):
    """(vertices (V, 3) float64 in the file's coordinates, uv, colors, faces, uv_faces) of all pieces. Raises
    MeshError."""
    matrices = {piece.block: piece.matrix for piece in layout.pieces}
    blocks = [block_arrays(document, block, matrices[k]) for k, block in enumerate(layout.blocks)]
    base = np.cumsum([0] + [len(points) for points, _, _ in blocks])
    uv_base = np.cumsum([0] + [len(uv) for _, uv, _ in blocks])
    faces, uv_faces = [], []
    for piece in layout.pieces:
        k = piece.block
        corners = triangles(document, primitive_of(document.json, piece), len(blocks[k][0]), excerpt(piece.name))
        if np.linalg.det(piece.matrix[:3, :3]) < 0:
            corners = corners[:, [0, 2, 1]]
        faces.append((corners + base[k]).astype(np.int32))
        uv_faces.append((corners + uv_base[k] if len(blocks[k][1]) else np.full_like(corners, -1)).astype(np.int32))
    colors = None
    if any(color is not None for _, _, color in blocks):
        colors = np.concatenate([np.ones((len(p), 4), np.float32) if c is None else c for p, _, c in blocks])
    vertices = np.concatenate([points for points, _, _ in blocks])
    uv = np.concatenate([uv for _, uv, _ in blocks])
    return vertices, uv, colors, np.concatenate(faces), np.concatenate(uv_faces)


def image_bytes(document: Document, number: int) -> bytes | memoryview:
    """The encoded bytes of an image. Raises MeshError."""
    if number in document.images:
        return document.images[number]
    return view_bytes(document, entry(document.json, "images", number, "a texture")["bufferView"])


def colouring(document: Document, layout: Layout) -> tuple[tuple[Material, ...], tuple[Texture, ...], dict]:
    """The materials in the order of their first use, their textures, and each material's index by its number in the
    document. Materials with the same image share a texture. Raises MeshError."""
    decode, textures, materials, slots, place = Decoder(), [], [], {}, {}
    for number, base in layout.bases.items():
        name = "no material" if number is None else name_of(document.json["materials"][number], f"material {number}")
        key = ("image", base.image) if base.image is not None else ("material", number)
        if key not in slots:
            slots[key] = len(textures)
            image = None
            if base.image is not None:
                what = f"image {base.image} ({name_of(document.json['images'][base.image], name)[:40]})"
                image = decode(bytes(image_bytes(document, base.image)), what)
            textures.append(Texture(name, image, base.wrap))
        place[number] = len(materials)
        materials.append(Material(name, slots[key], base.color))
    return tuple(materials), tuple(textures), place


def mesh_of(document: Document, name: str, up: str, front: str, side: float) -> ImportedMesh:
    """The mesh that a document shows. Raises MeshError."""
    check_still(document.json)
    layout = lay_out(document)
    points, uv, colors, faces, uv_faces = gather(document, layout)
    materials, textures, place = colouring(document, layout)
    matrix = normalisation(points[used_vertices(len(points), faces)], up, front, side)
    counts = [piece.count for piece in layout.pieces]
    kinds = np.array([place[piece.material] for piece in layout.pieces], np.int32)
    return ImportedMesh(
        name=name,
        vertices=transform_points(points, matrix).astype(np.float32),
        faces=faces,
        uv=uv,
        uv_faces=uv_faces,
        colors=colors,
        materials=materials,
        face_material=np.repeat(kinds, counts),
        textures=textures,
        parts=tuple(Part(piece.name, piece.matrix, piece.first) for piece in layout.pieces),
        face_part=np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        matrix=matrix,
        source=GltfSource(document, layout),
    )


def glowing(mesh: ImportedMesh) -> list[str]:
    """The names of the materials of a mesh from a glTF that emit light."""
    if not isinstance(mesh.source, GltfSource):
        return []
    numbered = ((n, mesh.source.document.json["materials"][n]) for n in mesh.source.layout.bases if n is not None)
    factors = ((name_of(one, f"material {n}"), one.get("emissiveFactor")) for n, one in numbered)
    return [name for name, factor in factors if isinstance(factor, list) and any(factor)]
