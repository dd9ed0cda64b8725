"""GLB and glTF: what is read stands in the file, and what is written back differs from it in the images alone."""

import io

import numpy as np
import pytest
import trimesh
from PIL import Image
from support.mesh_files import (
    BODY,
    BOX,
    Glb,
    atlas_uv,
    box,
    encoded,
    image_of,
    mug,
    parts_of,
    picture,
    read,
    rewritten,
    textured_glb,
    values_of,
)


def test_the_arrays_are_those_of_the_file(tmp_path):
    vertices, faces = mug()
    glb = Glb()
    uv = np.random.default_rng(0).random((16, 2), np.float32)
    glb.node([glb.primitive(vertices, faces, uv=uv)])
    mesh = read(tmp_path, glb.bytes())
    assert np.array_equal(mesh.faces, faces) and mesh.faces.dtype == np.int32
    assert np.array_equal(mesh.uv_faces, faces) and np.array_equal(mesh.uv, np.stack([uv[:, 0], 1 - uv[:, 1]], -1))
    assert np.allclose(mesh.to_file(mesh.vertices), vertices, atol=1e-6)
    assert np.ptp(mesh.vertices, axis=0).max() == 1 and np.allclose(mesh.vertices.min(0) + mesh.vertices.max(0), 0)
    assert mesh.textures[0].image is None and mesh.materials[0].color.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_image_is_read_and_replaced(tmp_path, kind):
    glb = textured_glb()
    data = encoded(picture(5), kind)
    if kind == "WEBP":  # as TRELLIS.2 writes it: no other source
        image = glb.add("images", {"bufferView": glb.view(data), "mimeType": "image/webp"})
        glb.json["textures"][0] = {"extensions": {"EXT_texture_webp": {"source": image}}}
        glb.json["extensionsUsed"] = glb.json["extensionsRequired"] = ["EXT_texture_webp"]
    else:
        image = glb.add("images", {"bufferView": glb.view(data)})
        glb.json["textures"][0]["source"] = image
    mesh = read(tmp_path, glb.bytes())
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(mesh.textures[0].image, expected)
    new = rewritten(tmp_path, glb.bytes(), {0: picture(6, 16)})
    document, _ = parts_of(new)
    assert np.array_equal(image_of(new, image), picture(6, 16)) and document["images"][image]["mimeType"] == "image/png"
    assert document["textures"][0] == {"source": image} and "extensionsRequired" not in document
    assert np.array_equal(image_of(new, 1), picture(2)), "the normal map stays"


def test_only_the_image_differs(tmp_path):
    """Every accessor to the byte, and the document but for the place of the new image."""
    glb = textured_glb()
    glb.json["extras"] = {"maker": [1, 2.5, {"x": None}]}
    glb.json["nodes"][0] |= {"translation": [0.1, 1e-7, -3.3], "rotation": [0.1, 0.2, 0.3, 0.927361849], "name": "body"}
    old = glb.bytes()
    new = rewritten(tmp_path, old, {0: picture(6, 64)})
    before, after = parts_of(old)[0], parts_of(new)[0]
    for number in range(len(before["accessors"])):
        assert values_of(new, number) == values_of(old, number)
    assert np.array_equal(image_of(new, 0), picture(6, 64)) and np.array_equal(image_of(new, 1), picture(2))
    views = [after["bufferViews"][accessor["bufferView"]] for accessor in after["accessors"]]
    assert before["bufferViews"][0]["byteLength"] % 4 and not any(view["byteOffset"] % 4 for view in views), (
        "as the standard asks"
    )
    for document in (before, after):
        for key in ("bufferViews", "buffers"):
            del document[key]
    assert before == after
    assert len(new) - len(old) < len(encoded(picture(6, 64))), "the old image has left the file"


def test_the_file_is_one_that_others_read(tmp_path):
    new = rewritten(tmp_path, textured_glb().bytes(), {0: picture(6, 16)})
    scene = trimesh.load(io.BytesIO(new), file_type="glb", process=False)
    (mesh,) = scene.geometry.values()
    assert np.array_equal(mesh.vertices.astype(np.float32), box(*BODY)[BOX.ravel()])
    assert np.array_equal(np.asarray(mesh.visual.material.baseColorTexture), picture(6, 16))


def test_written_twice_it_is_the_same(tmp_path):
    once = rewritten(tmp_path, textured_glb().bytes(), {0: picture(6, 16)})
    assert parts_of(rewritten(tmp_path, once, {0: picture(6, 16)}))[0]["accessors"] == parts_of(once)[0]["accessors"]
    assert len(rewritten(tmp_path, once, {0: picture(6, 16)})) <= len(once) + 16


def test_nothing_new_changes_nothing(tmp_path):
    old = textured_glb().bytes()
    new = rewritten(tmp_path, old, {})
    assert parts_of(new)[0] == parts_of(old)[0] and parts_of(new)[1].startswith(parts_of(old)[1].rstrip(b"\0"))


def two_materials(shared: bool) -> Glb:
    """Two boxes under one node, each with a material; with one image for both, or with an image each."""
    glb = Glb()
    first = glb.image(encoded(picture(1)))
    second = glb.add("textures", {"source": 0}) if shared else glb.image(encoded(picture(2)))
    primitives = []
    for k, texture in enumerate((first, second)):
        vertices, faces = box(*BODY)[BOX.ravel()] + 6 * k, np.arange(36, dtype=np.uint16)
        primitives.append(glb.primitive(vertices, faces, uv=atlas_uv(12), material=glb.material(texture)))
    glb.node(primitives)
    return glb


def test_materials_keep_images_of_their_own(tmp_path):
    old = two_materials(False).bytes()
    mesh = read(tmp_path, old)
    assert len(mesh.textures) == 2 and mesh.face_texture().tolist() == [0] * 12 + [1] * 12
    assert [part.name for part in mesh.parts] == ["node 0.0", "node 0.1"] and mesh.face_part[12] == 1
    new = rewritten(tmp_path, old, {1: picture(7)})
    assert np.array_equal(image_of(new, 0), picture(1)) and np.array_equal(image_of(new, 1), picture(7))
    again = read(tmp_path, new)
    assert len(again.parts) == len(again.materials) == 2 and np.array_equal(again.vertices, mesh.vertices)


def test_materials_that_share_an_image_still_do(tmp_path):
    mesh = read(tmp_path, two_materials(True).bytes())
    assert len(mesh.textures) == 1 and len(mesh.materials) == 2
    new = rewritten(tmp_path, two_materials(True).bytes(), {0: picture(7)})
    assert len(parts_of(new)[0]["images"]) == 1 and np.array_equal(image_of(new, 0), picture(7))


def test_an_image_that_something_else_shows_stays_for_that(tmp_path):
    glb = textured_glb()
    glb.json["materials"][0]["occlusionTexture"] = {"index": 0}
    new = rewritten(tmp_path, glb.bytes(), {0: picture(7)})
    document, _ = parts_of(new)
    material = document["materials"][0]
    base = document["textures"][material["pbrMetallicRoughness"]["baseColorTexture"]["index"]]
    assert np.array_equal(image_of(new, base["source"]), picture(7))
    assert material["occlusionTexture"] == {"index": 0} and np.array_equal(image_of(new, 0), picture(1))


def test_a_glow_that_shows_the_image_follows_it(tmp_path):
    glb = textured_glb()
    glb.json["materials"][0]["emissiveTexture"] = {"index": 0}
    new = rewritten(tmp_path, glb.bytes(), {0: picture(7)})
    assert np.array_equal(image_of(new, 0), picture(7)) and len(parts_of(new)[0]["images"]) == 2


def test_colours_are_read_and_give_way_to_an_image(tmp_path):
    glb = Glb()
    colors = np.random.default_rng(0).integers(0, 256, (16, 4), np.uint8)
    vertices, faces = mug()
    primitive = glb.primitive(vertices, faces, uv=np.zeros((16, 2), np.float32), material=glb.material())
    primitive["attributes"]["COLOR_0"] = glb.accessor(colors, normalized=True)
    glb.json["materials"][0]["pbrMetallicRoughness"]["baseColorFactor"] = [0.5, 0.25, 1.0, 0.75]
    glb.node([primitive])
    mesh = read(tmp_path, glb.bytes())
    assert np.allclose(mesh.colors, colors / 255) and mesh.materials[0].color.tolist() == [0.5, 0.25, 1.0, 0.75]
    new = rewritten(tmp_path, glb.bytes(), {0: picture(7)})
    document, _ = parts_of(new)
    pbr = document["materials"][0]["pbrMetallicRoughness"]
    assert pbr["baseColorFactor"] == [1, 1, 1, 0.75] and np.array_equal(image_of(new, 0), picture(7))
    assert "COLOR_0" not in document["meshes"][0]["primitives"][0]["attributes"]


def test_alpha_of_the_old_image_stays(tmp_path):
    glb = textured_glb()
    glb.json["textures"][0]["source"] = glb.add("images", {"bufferView": glb.view(encoded(picture(8, 8, 4)))})
    new = rewritten(tmp_path, glb.bytes(), {0: picture(7)})
    assert np.array_equal(image_of(new, 2), np.concatenate([picture(7), picture(8, 8, 4)[..., 3:]], -1))


def test_nodes_place_their_meshes(tmp_path):
    """Matrices, scales, rotations and translations down the tree; instances; a mirrored one stays right side out."""
    glb = Glb()
    vertices, faces = box([0, 0, 0], [1, 2, 3]), BOX
    child = glb.node([glb.primitive(vertices, faces)], root=False, translation=[1, 0, 0], scale=[2, 2, 2])
    half = np.sqrt(0.5)
    glb.node(0, rotation=[0, half, 0, half], children=[child])  # 90 degrees about +Y: +X to -Z
    mirror = np.diag([-1.0, 1, 1, 1])
    mirror[:3, 3] = 10, 0, 0
    glb.node(0, matrix=mirror.T.ravel().tolist())
    mesh = read(tmp_path, glb.bytes())
    turned = vertices[:, [2, 1, 0]] * [1, 1, -1]
    inner = (vertices * 2 + [1, 0, 0])[:, [2, 1, 0]] * [1, 1, -1]
    wanted = np.concatenate([turned, inner, vertices * [-1, 1, 1] + [10, 0, 0]])
    assert np.allclose(mesh.to_file(mesh.vertices), wanted, atol=1e-5)
    assert [part.copy_of for part in mesh.parts] == [None, 0, 0] and mesh.originals().tolist() == [True] * 12 + [
        False
    ] * 24
    for part in range(3):
        corners = mesh.vertices[mesh.faces[mesh.face_part == part]].astype(np.float64)
        volume = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum()
        assert volume > 0, f"part {part} is inside out"
    new = rewritten(tmp_path, glb.bytes(), {})
    assert parts_of(new)[0]["nodes"] == glb.json["nodes"]


def test_a_mesh_without_material_does_not_become_metal(tmp_path):
    """As TripoSR writes its meshes: vertex colours alone. Metal is what glTF takes a new material for otherwise."""
    glb = Glb()
    vertices, faces = mug()
    glb.node([glb.primitive(vertices, faces, uv=np.zeros((16, 2), np.float32), colors=np.ones((16, 3), np.float32))])
    (material,) = parts_of(rewritten(tmp_path, glb.bytes(), {0: picture(7)}))[0]["materials"]
    numbers = {"baseColorTexture": {"index": 0}, "metallicFactor": 0, "roughnessFactor": 1}
    assert material["pbrMetallicRoughness"] == numbers


def test_vertices_that_primitives_share_stay_shared(tmp_path):
    glb = Glb()
    vertices, faces = mug()
    first = glb.primitive(vertices, faces[:12])
    second = {"attributes": dict(first["attributes"]), "indices": glb.accessor(faces[12:].ravel())}
    glb.node([first, second])
    mesh = read(tmp_path, glb.bytes())
    assert len(mesh.vertices) == 16 and np.array_equal(mesh.faces, faces) and len(mesh.parts) == 2


def test_strips_fans_and_meshes_without_indices(tmp_path):
    glb = Glb()
    square = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], np.float32)
    glb.node(
        [glb.primitive(square, mode=5), glb.primitive(square[[0, 1, 3, 2]], mode=6), glb.primitive(square, mode=0)]
    )
    glb.node([glb.primitive(square[[0, 1, 3]])])
    mesh = read(tmp_path, glb.bytes())
    assert mesh.faces.tolist() == [[0, 1, 2], [1, 3, 2], [5, 6, 4], [6, 7, 4], [8, 9, 10]]
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    assert (np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, 2] > 0).all()


def test_other_scenes_points_and_what_is_unknown_is_kept(tmp_path):
    glb = textured_glb()
    glb.json["scenes"].append({"nodes": [1]})
    glb.node([glb.primitive(box(*BODY) * 9, BOX)], root=False)
    glb.json["cameras"] = [{"type": "perspective", "perspective": {"yfov": 1, "znear": 0.1}}]
    glb.json["extensionsUsed"] = ["ACME_thing"]
    mesh = read(tmp_path, glb.bytes())
    assert len(mesh.faces) == 12
    after = parts_of(rewritten(tmp_path, glb.bytes(), {0: picture(7)}))[0]
    assert after["cameras"] == glb.json["cameras"] and after["scenes"] == glb.json["scenes"]
    assert after["extensionsUsed"] == ["ACME_thing"]
