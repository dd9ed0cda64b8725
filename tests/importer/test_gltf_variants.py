"""glTF in its less usual forms: files beside it, several buffers, extensions, and what is refused."""

import base64
import json

import numpy as np
import pytest
from support.mesh_files import (
    BODY,
    BOX,
    Glb,
    atlas_uv,
    box,
    encoded,
    glb_file,
    image_of,
    mug,
    parts_of,
    picture,
    read,
    rewritten,
    textured_glb,
    values_of,
)

from dreamfusion_ngp.base.errors import MeshError
from dreamfusion_ngp.importer.write import write_mesh


def test_quantised_and_interleaved_values(tmp_path):
    """KHR_mesh_quantization: shorts and bytes, of which those that are normalized stand for [-1, 1]; with a stride."""
    glb = Glb()
    rows = np.zeros(8, [("p", "<i2", 3), ("pad", "<i2"), ("uv", "<u2", 2)])
    rows["p"] = (CORNERS_OF_CUBE := np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])) * 32767
    rows["uv"] = 65535 * CORNERS_OF_CUBE[:, :2]
    view = glb.view(rows.tobytes(), byteStride=12)
    common = {"bufferView": view, "count": 8, "normalized": True}
    position = glb.add("accessors", common | {"componentType": 5122, "type": "VEC3"})
    uv = glb.add("accessors", common | {"componentType": 5123, "type": "VEC2", "byteOffset": 8})
    glb.json["extensionsRequired"] = ["KHR_mesh_quantization"]
    indices = glb.accessor(BOX.ravel())
    glb.node([{"attributes": {"POSITION": position, "TEXCOORD_0": uv}, "indices": indices}], scale=[3, 4, 5])
    mesh = read(tmp_path, glb.bytes())
    assert np.allclose(mesh.to_file(mesh.vertices), CORNERS_OF_CUBE * [3, 4, 5], atol=1e-6)
    assert np.allclose(mesh.uv, CORNERS_OF_CUBE[:, :2] * [1, -1] + [0, 1])


def test_texture_transforms_act_on_the_uvs(tmp_path):
    """KHR_texture_transform: offset + rotation (counter-clockwise in the image) of scaled UVs."""
    glb = textured_glb()
    info = glb.json["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]
    info["extensions"] = {"KHR_texture_transform": {"offset": [0.25, 0.5], "scale": [0.5, 0.25], "rotation": np.pi / 2}}
    mesh = read(tmp_path, glb.bytes())
    u, v = atlas_uv(12).T * [[0.5], [0.25]]
    assert np.allclose(mesh.uv, np.stack([0.25 + v, 1 - (0.5 - u)], -1), atol=1e-6)
    after = parts_of(rewritten(tmp_path, glb.bytes(), {0: picture(7)}))[0]
    assert after["materials"] == glb.json["materials"]


def test_a_gltf_with_files_beside_it_becomes_one_glb(tmp_path):
    glb = textured_glb()
    glb.json["images"][1] = {"uri": "nor%20mal.png"}
    glb.json["buffers"] = [{"byteLength": len(glb.bin), "uri": "mug.bin"}]
    (tmp_path / "mug.bin").write_bytes(glb.bin + b"more")
    (tmp_path / "nor mal.png").write_bytes(encoded(picture(2)))
    mesh = read(tmp_path, json.dumps(glb.json).encode(), "mug.gltf")
    assert np.array_equal(mesh.textures[0].image, picture(1))
    write_mesh(mesh, tmp_path / "out" / "new.glb", {0: picture(7)})
    new = (tmp_path / "out" / "new.glb").read_bytes()
    assert np.array_equal(image_of(new, 0), picture(7)) and np.array_equal(image_of(new, 1), picture(2))
    assert [values_of(new, k) for k in range(4)] == [values_of(textured_glb().bytes(), k) for k in range(4)]
    assert "uri" not in json.dumps(parts_of(new)[0])


def test_data_uris_and_several_buffers(tmp_path):
    glb = textured_glb()
    half = glb.json["bufferViews"][3]["byteOffset"]
    for view in glb.json["bufferViews"][3:]:
        view["buffer"], view["byteOffset"] = 1, view["byteOffset"] - half
    chunks = glb.bin[:half], glb.bin[half:]
    uris = ["data:application/octet-stream;base64," + base64.b64encode(chunk).decode() for chunk in chunks]
    glb.json["buffers"] = [{"byteLength": len(c), "uri": u} for c, u in zip(chunks, uris, strict=True)]
    mesh = read(tmp_path, json.dumps(glb.json).encode(), "mug.gltf")
    assert np.array_equal(mesh.vertices, read(tmp_path, textured_glb().bytes()).vertices)
    write_mesh(mesh, tmp_path / "new.glb", {0: picture(7)})
    new = (tmp_path / "new.glb").read_bytes()
    assert [values_of(new, k) for k in range(4)] == [values_of(textured_glb().bytes(), k) for k in range(4)]


def test_views_that_overlap_lose_nothing(tmp_path):
    """Two views on the same bytes, of which one is an image's that is replaced: what the other has stays."""
    glb = textured_glb()
    image = glb.json["bufferViews"][glb.json["images"][0]["bufferView"]]
    glb.json["images"].append({"bufferView": glb.add("bufferViews", dict(image)), "mimeType": "image/png"})
    glb.json["textures"].append({"source": 2})
    glb.json["materials"][0]["occlusionTexture"] = {"index": 2}
    new = rewritten(tmp_path, glb.bytes(), {0: picture(7)})
    assert np.array_equal(image_of(new, 0), picture(7)) and np.array_equal(image_of(new, 2), picture(1))
    assert [values_of(new, k) for k in range(4)] == [values_of(glb.bytes(), k) for k in range(4)]


def test_specular_glossiness(tmp_path):
    glb = textured_glb()
    glb.json["materials"][0] = {
        "extensions": {
            "KHR_materials_pbrSpecularGlossiness": {"diffuseTexture": {"index": 0}, "diffuseFactor": [0.5, 1, 1, 1]}
        }
    }
    mesh = read(tmp_path, glb.bytes())
    assert np.array_equal(mesh.textures[0].image, picture(1)) and mesh.materials[0].color[0] == 0.5
    new = rewritten(tmp_path, glb.bytes(), {0: picture(7)})
    specular = parts_of(new)[0]["materials"][0]["extensions"]["KHR_materials_pbrSpecularGlossiness"]
    assert specular == {"diffuseTexture": {"index": 0}, "diffuseFactor": [1, 1, 1, 1]}
    assert np.array_equal(image_of(new, 0), picture(7))


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda j: j.update(skins=[{"joints": [0]}]), "has a skin; apply or remove it"),
        (lambda j: j.update(animations=[{}]), "has an animation; apply or remove it"),
        (lambda j: j["meshes"][0]["primitives"][0].update(targets=[{"POSITION": 0}]), "has morph targets"),
        (lambda j: j["meshes"][0]["primitives"][0].update(mode=1), "has no triangles"),
        (lambda j: j["scenes"][0].update(nodes=[]), "has no triangles"),
        (lambda j: j.update(extensionsRequired=["KHR_draco_mesh_compression"]), "export it without compression"),
        (lambda j: j.update(extensionsRequired=["ACME_thing"]), "needs the extension 'ACME_thing'"),
        (lambda j: j["asset"].update(version="1.0"), "has no glTF 2"),
        (lambda j: j["nodes"][0].update(extensions={"EXT_mesh_gpu_instancing": {}}), "has instances"),
        (lambda j: j["nodes"][0].update(children=[0]), "node 0 stands in its scene twice"),
        (lambda j: j["nodes"][0].update(scale=[1, 1, "x"]), "scale is"),
        (lambda j: j["nodes"][0].update(translation=[1e308, 0, 0]), "translation is [1e+308, 0, 0]"),
        (lambda j: j["nodes"][0].update(rotation=[0, 0, 0, 0]), "no unit quaternion"),
        (lambda j: j["nodes"][0].update(scale=[0, 0, 0]), "all triangles lie in one point"),
        (lambda j: j["textures"][0].update(source=9), "images[9], of which there are 2"),
        (lambda j: j["textures"][0].pop("source"), "a texture of a kind that is not read"),
        (lambda j: j["images"][0].update(bufferView=3), "image 0 (material 0) is damaged"),
    ],
)
def test_what_is_refused_is_said(tmp_path, change, said):
    glb = textured_glb()
    change(glb.json)
    with pytest.raises(MeshError) as caught:
        read(tmp_path, glb.bytes())
    assert said in str(caught.value) and str(caught.value).startswith("mug.glb: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(tmp_path, bad):
    for attribute in ("POSITION", "TEXCOORD_0"):
        glb = textured_glb()
        accessor = glb.json["accessors"][glb.json["meshes"][0]["primitives"][0]["attributes"][attribute]]
        at = glb.json["bufferViews"][accessor["bufferView"]]["byteOffset"]
        glb.bin = glb.bin[:at] + np.float32(bad).tobytes() + glb.bin[at + 4 :]
        with pytest.raises(MeshError, match="mug.glb: has numbers that are not finite"):
            read(tmp_path, glb.bytes())


def test_an_index_beyond_the_vertices_is_refused(tmp_path):
    glb = Glb()
    vertices, faces = mug()
    faces[7, 1] = 16
    glb.node([glb.primitive(vertices, faces)], name="handle")
    with pytest.raises(MeshError, match=r"mug.glb: is damaged: 'handle' names vertex 16 of 16"):
        read(tmp_path, glb.bytes())


def test_instances_cannot_make_more_of_a_file_than_is_read(tmp_path, monkeypatch):
    """Counted before anything is allocated: 3,000 nodes that show 12 triangles each."""
    monkeypatch.setattr("dreamfusion_ngp.importer.gltf_read.MAX_FACES", 30_000)
    glb = Glb()
    glb.node([glb.primitive(box(*BODY), BOX)])
    for _ in range(3000):
        glb.node(0)
    with pytest.raises(MeshError, match="has more than 30,000 triangles"):
        read(tmp_path, glb.bytes())


def test_a_file_of_the_wrong_kind(tmp_path):
    with pytest.raises(MeshError, match="is not a GLB file: it begins with b'PK"):
        read(tmp_path, b"PK\3\4" + bytes(100))
    with pytest.raises(MeshError, match="is glTF 1; only glTF 2 is read"):
        read(tmp_path, b"glTF\1\0\0\0" + bytes(100))
    with pytest.raises(MeshError, match="is not a glTF file"):
        read(tmp_path, b"<html>", "mug.gltf")
    with pytest.raises(MeshError, match="JSON that cannot be read"):
        read(tmp_path, glb_file(b"[" * 100_000, b""))
    with pytest.raises(MeshError, match="has the number"):
        read(tmp_path, glb_file(b'{"asset":{"version":"2.0"},"x":1e999}', b""))
