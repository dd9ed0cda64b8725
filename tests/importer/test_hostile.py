"""Damaged and hostile files: one line, no other exception, nothing outside of the folder, no large allocation."""

import json
import os
import random
from dataclasses import replace

import numpy as np
import pytest
from support.mesh_files import (
    BODY,
    BOX,
    box,
    glb_file,
    outcome,
    picture,
    ply_bytes,
    stl_bytes,
    stl_text,
    textured_glb,
    write_obj,
)

from dreamfusion_ngp.base.errors import DreamfusionError, MeshError, UsageError
from dreamfusion_ngp.importer.read import read_mesh
from dreamfusion_ngp.importer.write import mesh_files

FILES = {
    "glb": lambda: textured_glb().bytes(),
    "binary.ply": lambda: ply_bytes(box(*BODY), BOX.tolist()),
    "ragged.ply": lambda: ply_bytes(box(*BODY), [[0, 1, 3, 2], *BOX.tolist()]),
    "text.ply": lambda: ply_bytes(box(*BODY), BOX.tolist(), "ascii"),
    "binary.stl": lambda: stl_bytes(box(*BODY), BOX),
    "text.stl": lambda: stl_text(box(*BODY), BOX).encode(),
}
TEXTS = {"obj": "mug.obj", "mtl": "mug.mtl"}  # of which a prefix may be whole


@pytest.mark.parametrize("name", FILES)
def test_every_prefix_is_refused(tmp_path, name):
    data = FILES[name]()
    path = tmp_path / f"mug.{name.rsplit('.', 1)[-1]}"
    path.write_bytes(data)
    assert outcome(path) == "read"
    # The name of the solid may be cut short unseen.
    whole_from = data.index(b"endsolid") + len(b"endsolid") if name == "text.stl" else len(data)
    for length in range(len(data.rstrip(b"\0 \n"))):
        path.write_bytes(data[:length])
        assert outcome(path) != "read" or length >= whole_from, f"{length} of {len(data)} bytes"


def test_prefixes_of_an_obj_are_read_or_refused(tmp_path):
    """A text without an end: a prefix with whole faces is a smaller mesh."""
    path = write_obj(tmp_path)
    data = path.read_bytes()
    for length in range(0, len(data), 3):
        path.write_bytes(data[:length])
        outcome(path)


@pytest.mark.parametrize("name", [*FILES, *TEXTS])
def test_damaged_bytes(tmp_path, name):
    """300 files with some bytes changed, cut out or doubled: read, or refused with one line."""
    rng = random.Random(name)
    mesh = write_obj(tmp_path) if name in TEXTS else tmp_path / f"mug.{name.rsplit('.', 1)[-1]}"
    path = tmp_path / TEXTS[name] if name in TEXTS else mesh
    whole = path.read_bytes() if name in TEXTS else FILES[name]()
    found = set()
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(len(data))
            change = rng.randrange(4)
            if change == 0:
                data[at] ^= 1 << rng.randrange(8)
            elif change == 1:
                data[at : at + 4] = rng.choice(
                    (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"9999", b"-1e9")
                )
            elif change == 2:
                del data[at : at + rng.randrange(1, 20)]
            else:
                data[at:at] = data[at : at + rng.randrange(1, 20)]
        path.write_bytes(bytes(data))
        found.add(outcome(mesh) == "read")
    assert False in found


def every_value(holder, path=()):
    """The places of all values in a document."""
    for key, one in holder.items() if isinstance(holder, dict) else enumerate(holder):
        yield (*path, key)
        if isinstance(one, (dict, list)):
            yield from every_value(one, (*path, key))


def written_back(path) -> None:
    """What is read can be written, with its UVs and with others, and has its triangles then."""
    mesh = read_mesh(path)
    uv = np.random.default_rng(0).random((mesh.faces.size, 2), np.float32)
    index = np.arange(mesh.faces.size, dtype=np.int32).reshape(-1, 3)
    textures = tuple(replace(texture, unwrapped=True) for texture in mesh.textures)
    for one in (mesh, replace(mesh, uv=uv, uv_faces=index, textures=textures)):
        images = {number: picture(number) for number in range(len(mesh.textures))}
        (path.parent / "new.glb").write_bytes(mesh_files(one, images, "new")["new.glb"])
        again = read_mesh(path.parent / "new.glb")
        assert np.array_equal(again.vertices[again.faces], mesh.vertices[mesh.faces])
        assert np.array_equal(again.textures[0].image[..., :3], picture(0))


HOSTILE = [None, True, -1, 0, 3, 1 << 31, 1 << 62, 10**400, 0.5, -1e308, "", "x", "../x", [], {}, [1], [None], {"a": 1}]


def test_every_value_of_the_document_replaced_by_every_hostile_one(tmp_path):
    glb = textured_glb()
    glb.json["nodes"][0] |= {"translation": [1, 2, 3], "rotation": [0, 0, 0, 1], "scale": [1, 1, 1], "children": []}
    glb.json["samplers"] = [{"wrapS": 33071}]
    glb.json["textures"][0]["sampler"] = 0
    glb.bytes()
    text = json.dumps(glb.json)
    path = tmp_path / "mug.glb"
    refused = 0
    for place in list(every_value(glb.json)):
        for value in HOSTILE:
            document = json.loads(text)
            holder = document
            for key in place[:-1]:
                holder = holder[key]
            holder[place[-1]] = value
            if value == 10**400:
                continue
            path.write_bytes(glb_file(document, glb.bin))
            if outcome(path) != "read":
                refused += 1
            else:
                written_back(path)
    path.write_bytes(glb_file(text.replace('"count": 36', '"count": 1' + "0" * 5000).encode(), glb.bin))
    assert "JSON that cannot be read" in outcome(path) and refused > 500


@pytest.mark.parametrize(
    "uri, said",
    [
        ("../secret.bin", "outside of its folder"),
        ("a/../../secret.bin", "outside of its folder"),
        ("%2e%2e/secret.bin", "outside of its folder"),
        ("..%5csecret.bin", "outside of its folder"),
        ("/etc/passwd", "outside of its folder"),
        ("//host/share", "outside of its folder"),
        ("file:///etc/passwd", "only files beside it"),
        ("http://127.0.0.1/x.bin", "only files beside it"),
        ("C:/x.bin", "only files beside it"),
        ("link.bin", "leads out of its folder"),
        ("gone.bin", "which is not there"),
        ("folder", "which is not there"),
        ("pipe", "which is not there"),
        ("x\0.bin", "only files beside it"),
        ("", "only files beside it"),
        ("a" * 5000, "only files beside it"),
        ("short.bin", "has 3 of"),
        ("data:;base64,!!!", "damaged data URI"),
        ("data:", "damaged data URI"),
        (7, "has the URI 7"),
    ],
)
@pytest.mark.parametrize("place", ["buffers", "images"])
def test_files_that_are_not_beside_it(tmp_path, place, uri, said):
    folder = tmp_path / "home"
    (folder / "folder").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(bytes(100_000))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "short.bin").write_bytes(b"abc")
    os.mkfifo(folder / "pipe")
    glb = textured_glb()
    glb.bytes()
    glb.json["buffers"][0]["uri"] = "good.bin"
    (folder / "good.bin").write_bytes(glb.bin)
    if place == "buffers":
        glb.json["buffers"][0]["uri"] = uri
    else:
        glb.json["images"][0] = {"uri": uri}
    path = folder / "mug.gltf"
    path.write_text(json.dumps(glb.json))
    if place == "images" and uri == "short.bin":
        said = "is damaged or is no image"
    assert said in outcome(path)


def test_paths_that_are_no_mesh(tmp_path):
    os.mkfifo(tmp_path / "pipe.glb")
    (tmp_path / "folder.obj").mkdir()
    assert "is not a file" in outcome(tmp_path / "pipe.glb")
    assert "pipe.glb" not in outcome(tmp_path / "folder.obj") and outcome(tmp_path / "folder.obj") != "read"
    assert "No such file" in outcome(tmp_path / "gone.glb")
    for name in ("mug.fbx", "mug", "mug.glb.zip"):
        with pytest.raises(UsageError, match="unknown kind of mesh; .glb, .gltf, .obj, .ply, .stl are read"):
            read_mesh(tmp_path / name)


def test_wrong_axes(tmp_path):
    (tmp_path / "mug.stl").write_bytes(stl_bytes(box(*BODY), BOX))
    for axes, said in (
        (("w", "x"), "up must be an axis"),
        (("+y", "-y"), "must be different axes"),
        (("y", "Y"), "different"),
    ):
        with pytest.raises(UsageError, match=said):
            read_mesh(tmp_path / "mug.stl", *axes)
    with pytest.raises(UsageError, match="side must be a length above 0"):
        read_mesh(tmp_path / "mug.stl", side=0)


def test_all_errors_are_the_package_s(tmp_path):
    assert issubclass(MeshError, DreamfusionError)
