"""Small mesh files by hand: what is in them is known to the byte, and they need no library that might change it."""

import io
import json
import struct

import numpy as np
from PIL import Image

from dreamfusion_ngp.base.errors import MeshError
from dreamfusion_ngp.importer.read import read_mesh
from dreamfusion_ngp.importer.write import write_mesh

# A mug: a box that stands on +Y, with a handle on its left, which is +X as it faces +Z. Every extent differs, so that a
# swap, a turn or a mirror image shows.
CORNERS = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32)
SIDES = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
BOX = np.array([[[a, b, c], [a, c, d]] for a, b, c, d in SIDES], np.uint16).reshape(-1, 3)
BODY, HANDLE = (np.array(box, np.float32) for box in ([[-2, 0, -1.5], [2, 5, 1.5]], [[2.0, 2, -0.25], [3, 4, 0.25]]))


def box(low, high) -> np.ndarray:
    """(8, 3) float32 corners."""
    return np.asarray(low, np.float32) + CORNERS * (np.asarray(high, np.float32) - np.asarray(low, np.float32))


def mug() -> tuple[np.ndarray, np.ndarray]:
    """(16, 3) float32 vertices, (24, 3) uint16 triangles."""
    return np.concatenate([box(*BODY), box(*HANDLE)]), np.concatenate([BOX, BOX + 8]).astype(np.uint16)


def picture(seed: int, size: int = 8, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, channels), np.uint8)


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, lossless=True) if kind == "WEBP" else Image.fromarray(image).save(
        buffer, kind
    )
    return buffer.getvalue()


def atlas_uv(faces: int) -> np.ndarray:
    """(3 faces, 2) float32: a right triangle of its own in a grid for each face, counter-clockwise, origin at the top
    left (as in glTF, where that is clockwise to the eye)."""
    side = int(np.ceil(np.sqrt(faces)))
    cell = np.stack([np.arange(faces) % side, np.arange(faces) // side], -1)[:, None] + 0.1
    return ((cell + np.array([[0, 0], [0, 0.8], [0.8, 0]])) / side).astype(np.float32).reshape(-1, 2)


class Glb:
    """A GLB that grows by accessors and views. `json` is the document, `bin` its buffer."""

    def __init__(self):
        self.json = {"asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": []}]}
        self.bin = b""

    def add(self, kind: str, entry: dict) -> int:
        self.json.setdefault(kind, []).append(entry)
        return len(self.json[kind]) - 1

    def view(self, data: bytes, **fields) -> int:
        self.bin += b"\0" * (-len(self.bin) % 4)
        number = self.add("bufferViews", {"buffer": 0, "byteOffset": len(self.bin), "byteLength": len(data)} | fields)
        self.bin += data
        return number

    def accessor(self, values, **fields) -> int:
        values = np.ascontiguousarray(values)
        kinds = {"f4": 5126, "u4": 5125, "u2": 5123, "u1": 5121, "i2": 5122, "i1": 5120}
        width = 1 if values.ndim == 1 else values.shape[1]
        entry = {
            "bufferView": self.view(values.tobytes()),
            "componentType": kinds[values.dtype.str[1:]],
            "count": len(values),
            "type": "SCALAR" if width == 1 else f"VEC{width}",
        }
        return self.add("accessors", entry | fields)

    def image(self, data: bytes, mime: str = "image/png", **texture) -> int:
        """A texture that shows an image; its number."""
        number = self.add("images", {"bufferView": self.view(data), "mimeType": mime})
        return self.add("textures", {"source": number} | texture)

    def material(self, texture: int | None = None, **fields) -> int:
        pbr = {} if texture is None else {"baseColorTexture": {"index": texture}}
        return self.add("materials", {"pbrMetallicRoughness": pbr | fields})

    def primitive(self, vertices, faces=None, **fields) -> dict:
        """fields: uv, colors, material, mode, attributes."""
        attributes = {"POSITION": self.accessor(vertices, min=vertices.min(0).tolist(), max=vertices.max(0).tolist())}
        for name, key in (("TEXCOORD_0", "uv"), ("COLOR_0", "colors"), ("NORMAL", "normals"), ("TEXCOORD_1", "uv1")):
            if key in fields:
                attributes[name] = self.accessor(fields.pop(key))
        found = {"attributes": attributes} | fields
        if faces is not None:
            found["indices"] = self.accessor(np.asarray(faces).ravel())
        return found

    def node(self, primitives: list | int, root: bool = True, **fields) -> int:
        """A node with a mesh of these primitives, or of a number; its number."""
        mesh = primitives if isinstance(primitives, int) else self.add("meshes", {"primitives": primitives})
        number = self.add("nodes", {"mesh": mesh} | fields)
        if root:
            self.json["scenes"][0]["nodes"].append(number)
        return number

    def bytes(self) -> bytes:
        self.json["buffers"] = [{"byteLength": len(self.bin)}]
        return glb_file(self.json, self.bin)


def glb_file(document, binary: bytes) -> bytes:
    """A file of a document (a dict, or bytes as they are) and a buffer."""
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    text, binary = text + b" " * (-len(text) % 4), binary + b"\0" * (-len(binary) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def parts_of(data: bytes) -> tuple[dict, bytes]:
    """The document and the buffer of a file."""
    length = struct.unpack_from("<I", data, 12)[0]
    return json.loads(data[20 : 20 + length]), data[28 + length :]


def values_of(data: bytes, accessor: int) -> bytes:
    """The bytes of the elements of an accessor, one after the other."""
    document, binary = parts_of(data)
    entry = document["accessors"][accessor]
    view = document["bufferViews"][entry["bufferView"]]
    size = {5126: 4, 5125: 4, 5123: 2, 5122: 2, 5121: 1, 5120: 1}[entry["componentType"]]
    size *= {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}[entry["type"]]
    start, stride = view.get("byteOffset", 0) + entry.get("byteOffset", 0), view.get("byteStride", size)
    return b"".join(binary[start + k * stride :][:size] for k in range(entry["count"]))


def image_of(data: bytes, image: int) -> np.ndarray:
    document, binary = parts_of(data)
    view = document["bufferViews"][document["images"][image]["bufferView"]]
    start = view.get("byteOffset", 0)
    return np.asarray(Image.open(io.BytesIO(binary[start : start + view["byteLength"]])))


def textured_glb() -> Glb:
    """The mug's body with UVs and an image of an odd length, its vertices split, and a normal map that is to stay."""
    vertices, faces = box(*BODY)[BOX.ravel()], np.arange(36, dtype=np.uint16)
    glb = Glb()
    base, normal = glb.image(encoded(picture(1)) + b"\0"), glb.image(encoded(picture(2)))
    material = glb.material(base, baseColorFactor=[1, 1, 1, 1])
    glb.json["materials"][material]["normalTexture"] = {"index": normal}
    glb.node([glb.primitive(vertices, faces, uv=atlas_uv(12), material=material, normals=vertices)])
    return glb


def obj_text() -> str:
    """A mug of quads and triangles with UVs, two materials, groups, negative numbers, comments and odd spaces."""
    vertices, _ = mug()
    lines = ["# a mug", "mtllib mug.mtl", "o body"]
    lines += [f"v {x:.6f}  {y} {z:e}" for x, y, z in vertices[:8].tolist()]
    lines += ["vt 0 0", "vt 0.45 0", "vt 0.45 0.9 0", "vt 0 0.9", "vn 0 0 1", "usemtl clay", "s 1"]
    lines += ["f 1/1/1 2/2/1 4/3/1 3/4/1", "\tf 5//1 7//1 8//1", "f 5 8 6  # no UVs", "g handle", "usemtl glaze"]
    lines += [f"v {x} {y} {z}" for x, y, z in vertices[8:].tolist()]
    lines += ["vt 0.5 0.1", "vt 0.9 0.1", "vt 0.9 0.5", "vt 0.5 0.5"]
    lines += ["f -8/-4 -7/-3 \\", " -5/-2", "l 1 2", "f 9/5 12/7 11/8"]
    return "\n".join(lines) + "\n"


def write_obj(folder, text: str | None = None):
    """mug.obj of `obj_text`, its library and its image; the path."""
    library = (
        "newmtl clay\nKd 0.5 0.25 0\nNs 10\n\nnewmtl glaze\nKd 0.1 0.1 0.1\nmap_Kd skin/mug.png\nmap_Bump bump.png\n"
    )
    (folder / "skin").mkdir(exist_ok=True)
    (folder / "skin" / "mug.png").write_bytes(encoded(picture(3)))
    (folder / "bump.png").write_bytes(encoded(picture(4)))
    (folder / "mug.mtl").write_text(library)
    (folder / "mug.obj").write_text(obj_text() if text is None else text)
    return folder / "mug.obj"


def ply_bytes(vertices, faces, order: str = "<", extra: str = "", columns=None) -> bytes:
    """A PLY file, binary of either byte order or text (order "ascii"), of polygons given as lists."""
    kinds = {"<": "binary_little_endian", ">": "binary_big_endian", "ascii": "ascii"}
    columns = {} if columns is None else columns
    head = f"ply\nformat {kinds[order]} 1.0\n{extra}element vertex {len(vertices)}\n"
    head += "".join(f"property float {name}\n" for name in "xyz")
    head += "".join(f"property {'uchar' if c.dtype == np.uint8 else 'float'} {name}\n" for name, c in columns.items())
    head += f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    if order == "ascii":
        rows = [
            [*map(repr, v.tolist()), *(repr(c[k].item()) for c in columns.values())] for k, v in enumerate(vertices)
        ]
        rows += [[str(len(face)), *map(str, face)] for face in faces]
        return (head + "\n".join(" ".join(row) for row in rows) + "\n").encode()
    body = b""
    for k, vertex in enumerate(vertices):
        body += vertex.astype(f"{order}f4").tobytes()
        body += b"".join(np.array(c[k], c.dtype.newbyteorder(order)).tobytes() for c in columns.values())
    for face in faces:
        body += bytes([len(face)]) + np.array(face, f"{order}i4").tobytes()
    return head.encode() + body


def stl_bytes(vertices, faces) -> bytes:
    rows = np.zeros(len(faces), "(3,)<f4, (3,3)<f4, <u2")
    rows["f1"] = vertices[faces]
    return b"by hand".ljust(80, b"\0") + struct.pack("<I", len(faces)) + rows.tobytes()


def stl_text(vertices, faces) -> str:
    lines = ["solid mug"]
    for face in faces:
        lines += [
            "facet normal 0 0 0",
            " outer loop",
            *(" vertex {!r} {!r} {!r}".format(*v) for v in vertices[face].tolist()),
        ]
        lines += [" endloop", "endfacet"]
    return "\n".join([*lines, "endsolid mug"]) + "\n"


def read(folder, data: bytes, name: str = "mug.glb", **options):
    (folder / name).write_bytes(data)
    return read_mesh(folder / name, **options)


def outcome(path) -> str:
    """ "read", or the one line that it was refused with."""
    try:
        read_mesh(path)
    except MeshError as error:
        line = str(error)
        assert line.startswith(f"{path.name}: ") and "\n" not in line and len(line) < 300
        return line
    return "read"


def rewritten(folder, data: bytes, images: dict) -> bytes:
    write_mesh(read(folder, data), folder / "out" / "new.glb", images)
    return (folder / "out" / "new.glb").read_bytes()
