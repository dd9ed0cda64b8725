"""Writes a glTF mesh back: images replaced, new UVs added, everything else as it was."""

from __future__ import annotations

import numpy as np

from ..scene.imported import ImportedMesh
from .document import ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER, flipped, surface_material
from .gltf import COMPONENTS, Document, accessor
from .gltf_edit import WEBP, Edit, source_of, texture_uses
from .gltf_read import Piece, primitive_of
from .gltf_scene import base_holder
from .images import png_bytes, with_alpha

# Other textures of a material that may share the image of its base colour, and then get the new one too: emission, and
# the base colour in the other of two notations.
SHARED_WITH = ("emissiveTexture", "diffuseTexture", "baseColorTexture")
KINDS = {kind.lstrip("<"): number for number, kind in COMPONENTS.items()}


def glb_bytes(mesh: ImportedMesh, images: dict[int, np.ndarray]) -> bytes:
    """A GLB file with images (H, W, 3 or 4) uint8, by texture number. Their materials show them unchanged: colour
    factors and vertex colours that would be multiplied with them are removed. Other textures stay as they are."""
    source, edit = mesh.source, Edit(mesh.source.document)
    give_materials(edit, mesh, images)
    for texture, image in images.items():
        members = members_of(mesh, texture, edit)
        texcoord = add_uvs(edit, mesh, texture) if mesh.textures[texture].unwrapped else None
        set_image(edit, members, with_alpha(image, mesh.textures[texture].next_alpha()), texcoord)
        for piece in pieces_of(mesh, texture):
            drop_colors(primitive_of(edit.json, piece), source.document)
    return edit.glb()


def pieces_of(mesh: ImportedMesh, texture: int) -> list[Piece]:
    """The primitives with a texture, each once."""
    place = dict(zip(mesh.source.layout.bases, mesh.materials, strict=True))
    return [p for p in mesh.source.layout.pieces if p.first is None and place[p.material].texture == texture]


def give_materials(edit: Edit, mesh: ImportedMesh, images: dict[int, np.ndarray]) -> None:
    """Add a material, rough and no metal, to the primitives without one that get an image."""
    plain = [piece for texture in images for piece in pieces_of(mesh, texture) if piece.material is None]
    if plain:
        number = edit.append("materials", surface_material())
        for piece in plain:
            primitive_of(edit.json, piece)["material"] = number


def members_of(mesh: ImportedMesh, texture: int, edit: Edit) -> list[int]:
    """The numbers of the materials that show a texture, in the edited document."""
    numbers = {primitive_of(edit.json, piece)["material"] for piece in pieces_of(mesh, texture)}
    return sorted(numbers)


def set_image(edit: Edit, members: list[int], image: np.ndarray, texcoord: int | None) -> None:
    """Let the materials `members` show an image, which replaces their own where nothing else uses that. texcoord: the
    number of the UV set, or None for the one that each has."""
    textures = edit.json.setdefault("textures", [])
    allowed = SHARED_WITH if texcoord is None else ()
    uses = texture_uses(edit.json)
    holders = [base_holder(edit.json["materials"][number]) for number in members]
    used = {holder[key]["index"] for holder, key, _ in holders if key in holder}
    base = {key for _, key, _ in holders}
    foreign = {t for material, key, t in uses if material not in members or (key not in base and key not in allowed)}
    used_images = {source for t in used if (source := source_of(textures[t])) is not None}
    foreign_images = {source_of(one) for t, one in enumerate(textures) if t not in used or t in foreign}
    number = next(iter(sorted(used_images - foreign_images)), None)
    if number is None:
        number = edit.append("images", {})
    entry = edit.json["images"][number]
    entry["mimeType"] = "image/png"
    edit.attach(entry, png_bytes(image))
    for t in used - foreign:
        show(textures[t], number)
    for unseen in used_images - foreign_images - {number}:
        edit.alias(edit.json["images"][unseen], entry)
    added = None
    for material, (holder, key, factor) in zip(members, holders, strict=True):
        if key not in holder:
            holder[key] = {}
        if holder[key].get("index") not in used - foreign:
            sampler = {k: v for k, v in textures[holder[key]["index"]].items() if k == "sampler"} if holder[key] else {}
            added = edit.append("textures", {"source": number} | sampler) if added is None else added
            holder[key]["index"] = added
        place_material(edit.json["materials"][material], holder, key)
        whiten(holder, factor)
        if texcoord is not None:
            move_uvs(holder[key], texcoord)


def place_material(material: dict, holder: dict, key: str) -> None:
    """`holder` may be a new object: put it into its material."""
    if key == "baseColorTexture":
        material["pbrMetallicRoughness"] = holder


def show(texture: dict, image: int) -> None:
    """Let a texture show an image that every reader reads."""
    texture["source"] = image
    if WEBP in texture.get("extensions", {}):
        del texture["extensions"][WEBP]
        if not texture["extensions"]:
            del texture["extensions"]


def whiten(holder: dict, factor: str) -> None:
    """Reset the colour factor that the image would be multiplied by; its alpha stays."""
    if factor in holder and holder[factor][:3] != [1, 1, 1]:
        holder[factor] = [1.0, 1.0, 1.0, holder[factor][3]]


def move_uvs(info: dict, texcoord: int) -> None:
    """Let a material use another UV set, without a transform."""
    info["texCoord"] = texcoord
    if "KHR_texture_transform" in info.get("extensions", {}):
        del info["extensions"]["KHR_texture_transform"]
        if not info["extensions"]:
            del info["extensions"]


def drop_colors(primitive: dict, document: Document) -> None:
    """Remove vertex colours, unless all are white."""
    number = primitive["attributes"].get("COLOR_0")
    if number is None:
        return
    values = accessor(document, number)[:, :3] if number < len(document.json["accessors"]) else None
    full = None if values is None else (1.0 if values.dtype.kind == "f" else np.iinfo(values.dtype).max)
    if values is None or not (values == full).all():
        del primitive["attributes"]["COLOR_0"]


def add_uvs(edit: Edit, mesh: ImportedMesh, texture: int) -> int:
    """Give the primitives of a texture the mesh's new UVs as an additional set. Returns its number. Vertices with
    several UVs are split, as glTF has one index for both."""
    pieces = pieces_of(mesh, texture)
    names = {name for piece in pieces for name in primitive_of(edit.json, piece)["attributes"]}
    texcoord = 1 + max((int(name[9:]) for name in names if name[:9] == "TEXCOORD_" and name[9:].isdigit()), default=-1)
    layout, owners = mesh.source.layout, accessor_owners(edit.json)
    base = np.cumsum([0] + [len(accessor(edit.document, block.position)) for block in layout.blocks])
    ids = {id(piece) for piece in pieces}
    ends = np.cumsum([piece.count for piece in layout.pieces])
    for piece, end in zip(layout.pieces, ends, strict=True):
        if id(piece) not in ids or not piece.count:
            continue
        rows = slice(end - piece.count, end)
        faces, uv_faces = mesh.faces[rows].astype(np.int64) - base[piece.block], mesh.uv_faces[rows].astype(np.int64)
        if np.linalg.det(piece.matrix[:3, :3]) < 0:
            faces, uv_faces = faces[:, [0, 2, 1]], uv_faces[:, [0, 2, 1]]
        pairs, index = np.unique(faces * len(mesh.uv) + uv_faces, return_inverse=True)
        vertex, uv = np.divmod(pairs, len(mesh.uv))
        primitive = primitive_of(edit.json, piece)
        for name, number in primitive["attributes"].items():
            primitive["attributes"][name] = gathered(edit, number, vertex, len(owners[number]) == 1)
        new = fill(edit, None, {}, flipped(mesh.uv[uv]), ARRAY_BUFFER)
        for k in range(texcoord + 1):  # a set counts only where all before it are there
            primitive["attributes"].setdefault(f"TEXCOORD_{k}", new)
        old = primitive.get("indices")
        old = old if old is not None and len(owners[old]) == 1 else None
        kind = np.uint16 if len(pairs) < 0xFFFF else np.uint32
        primitive["indices"] = fill(edit, old, {}, index.reshape(-1, 1).astype(kind), ELEMENT_ARRAY_BUFFER)
        if "mode" in primitive:
            primitive["mode"] = 4
    return texcoord


def accessor_owners(document: dict) -> dict[int, set]:
    """The primitives that use each accessor."""
    owners: dict[int, set] = {}
    for m, mesh in enumerate(document.get("meshes", [])):
        for p, primitive in enumerate(mesh.get("primitives", [])):
            for number in [*primitive.get("attributes", {}).values(), primitive.get("indices")]:
                owners.setdefault(number, set()).add((m, p))
    return owners


def gathered(edit: Edit, number: int, rows: np.ndarray, alone: bool) -> int:
    """Make an accessor of these rows of accessor `number`, which it replaces if only one primitive uses that (`alone`).
    Returns its number."""
    old = edit.document.json["accessors"][number]
    values = accessor(edit.document, number)[rows]
    fields = {key: old[key] for key in ("normalized", "name") if key in old}
    if "min" in old or "max" in old:
        fields |= {"min": values.min(0).tolist(), "max": values.max(0).tolist()}
    return fill(edit, number if alone else None, fields, values, ARRAY_BUFFER)


def fill(edit: Edit, number: int | None, fields: dict, values: np.ndarray, target: int) -> int:
    """Fill accessor `number`, a new one for None, with these values (N, C). Returns its number. Rows of vertex
    attributes begin at multiples of 4 bytes."""
    number = edit.append("accessors", {}) if number is None else number
    entry = edit.json["accessors"][number]
    entry.clear()
    kind = "SCALAR" if values.shape[1] == 1 else f"VEC{values.shape[1]}"
    entry |= fields | {"componentType": KINDS[values.dtype.str[1:]], "count": len(values), "type": kind}
    rows = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)
    view: dict = {"target": target}
    if target == ARRAY_BUFFER and rows.shape[1] % 4:
        rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
        view["byteStride"] = rows.shape[1]
    edit.attach(entry, rows.tobytes(), **view)
    return number
