"""Which UVs a mesh is refined by, and the colours that its texture starts from."""

import io

import numpy as np
import pytest
import trimesh
from support.mesh_files import (
    BODY,
    BOX,
    HANDLE,
    Glb,
    atlas_uv,
    box,
    encoded,
    parts_of,
    picture,
    textured_glb,
    values_of,
    write_obj,
)

from dreamfusion_ngp.base.errors import MeshError, UsageError
from dreamfusion_ngp.export.atlas import AtlasError
from dreamfusion_ngp.importer.bake import start_image
from dreamfusion_ngp.importer.read import read_mesh
from dreamfusion_ngp.importer.unwrap import choose_uvs
from dreamfusion_ngp.importer.write import write_mesh
from dreamfusion_ngp.scene.uvs import examine_uvs


def read(folder, glb: Glb):
    (folder / "mug.glb").write_bytes(glb.bytes())
    return read_mesh(folder / "mug.glb")


def plain_box(uv=None, **material) -> Glb:
    glb = Glb()
    options = {} if uv is None else {"uv": uv}
    normals = np.tile(np.float32([0, 1, 0]), (8, 1))
    glb.node([glb.primitive(box(*BODY), BOX, normals=normals, material=glb.material(**material), **options)])
    return glb


def test_good_uvs_are_kept(tmp_path):
    mesh = read(tmp_path, textured_glb())
    for uv in ("auto", "keep"):
        assert choose_uvs(mesh, uv) is mesh
    chosen = choose_uvs(mesh, "unwrap", size=128)
    assert chosen.textures[0].unwrapped and not np.array_equal(chosen.uv[chosen.uv_faces], mesh.uv[mesh.uv_faces])


@pytest.mark.parametrize("fault", ["missing", "overlapping", "tiled", "clamped outside"])
def test_bad_uvs_are_replaced(tmp_path, fault):
    glb = textured_glb()
    uv = atlas_uv(12)
    if fault == "overlapping":
        uv[:3] = uv[3:6]
    if fault == "tiled":
        uv *= 9
    if fault == "clamped outside":
        uv += 0.5
        glb.json["samplers"] = [{"wrapS": 33071, "wrapT": 33071}]
        glb.json["textures"][0]["sampler"] = 0
    attributes = glb.json["meshes"][0]["primitives"][0]["attributes"]
    if fault == "missing":
        del attributes["TEXCOORD_0"]
    else:
        attributes["TEXCOORD_0"] = glb.accessor(uv)
    mesh = read(tmp_path, glb)
    chosen = choose_uvs(mesh, size=128)
    report = examine_uvs(chosen, 0)
    assert (
        chosen.textures[0].unwrapped and report.missing == report.outside == report.tiled == 0 and report.overlap == 0
    )
    assert np.array_equal(chosen.vertices, mesh.vertices) and np.array_equal(chosen.faces, mesh.faces)
    if fault == "missing":
        with pytest.raises(MeshError, match="mug: 12 of 12 triangles of 'material 0' have no UVs to keep"):
            choose_uvs(mesh, "keep")
    else:
        assert choose_uvs(mesh, "keep") is mesh


def test_new_uvs_are_one_more_set_and_nothing_else(tmp_path):
    """The old set stays for the normal map; what each corner had, it has."""
    old = textured_glb().bytes()
    mesh = read(tmp_path, textured_glb())
    chosen = choose_uvs(mesh, "unwrap", size=128)
    write_mesh(chosen, tmp_path / "new.glb", {0: picture(7)})
    new = (tmp_path / "new.glb").read_bytes()
    document, _ = parts_of(new)
    material, primitive = document["materials"][0], document["meshes"][0]["primitives"][0]
    assert material["pbrMetallicRoughness"]["baseColorTexture"] == {"index": 0, "texCoord": 1}
    assert material["normalTexture"] == {"index": 1}
    before = parts_of(old)[0]["meshes"][0]["primitives"][0]

    def corners(data, one, name, width):
        index = np.frombuffer(values_of(data, one["indices"]), np.uint16)
        return np.frombuffer(values_of(data, one["attributes"][name]), np.float32).reshape(-1, width)[index]

    for name, width in (("POSITION", 3), ("NORMAL", 3), ("TEXCOORD_0", 2)):
        assert np.array_equal(corners(new, primitive, name, width), corners(old, before, name, width)), name
    again = read_mesh(tmp_path / "new.glb")
    assert np.allclose(again.uv[again.uv_faces], chosen.uv[chosen.uv_faces], atol=1e-7)
    assert np.array_equal(again.vertices[again.faces], mesh.vertices[mesh.faces]) and len(again.faces) == len(
        mesh.faces
    )
    seen = trimesh.load(io.BytesIO(new), file_type="glb", force="mesh", process=False)
    assert np.array_equal(seen.triangles.astype(np.float32), box(*BODY)[BOX])


def test_a_mesh_without_uvs_comes_back_with_them(tmp_path):
    mesh = read(tmp_path, plain_box())
    chosen = choose_uvs(mesh, size=128)
    write_mesh(chosen, tmp_path / "new.glb", {0: picture(7, 128)})
    again = read_mesh(tmp_path / "new.glb")
    assert examine_uvs(again, 0).overlap == 0 and np.array_equal(again.textures[0].image, picture(7, 128))
    document, _ = parts_of((tmp_path / "new.glb").read_bytes())
    assert (
        "texCoord" not in str(document)
        or document["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]["texCoord"] == 0
    )
    assert len((tmp_path / "new.glb").read_bytes()) < 70_000, "the old vertices have left the file"


def test_sets_of_uvs_have_no_gap_where_only_one_primitive_of_a_material_had_uvs(tmp_path):
    """glTF counts the sets of a primitive from 0, and programs stop at the first that is missing."""
    glb = Glb()
    glb.json["materials"] = [{"name": "clay"}]
    glb.node([glb.primitive(box(*BODY), BOX, material=0)])
    glb.node([glb.primitive(box(*HANDLE), BOX, material=0, uv=np.zeros((8, 2), np.float32))])
    chosen = choose_uvs(read(tmp_path, glb), size=128)
    write_mesh(chosen, tmp_path / "new.glb", {0: picture(7, 128)})
    document, _ = parts_of((tmp_path / "new.glb").read_bytes())
    used = document["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]["texCoord"]
    for mesh in document["meshes"]:
        names = {name for name in mesh["primitives"][0]["attributes"] if name.startswith("TEXCOORD")}
        assert names == {f"TEXCOORD_{k}" for k in range(used + 1)}
    again = read_mesh(tmp_path / "new.glb")
    assert np.allclose(again.uv[again.uv_faces], chosen.uv[chosen.uv_faces], atol=1e-7)


def test_a_primitive_without_a_material_gets_one(tmp_path):
    glb = Glb()
    glb.node([glb.primitive(box(*BODY), BOX)])
    chosen = choose_uvs(read(tmp_path, glb), size=128)
    write_mesh(chosen, tmp_path / "new.glb", {0: picture(7)})
    again = read_mesh(tmp_path / "new.glb")
    assert again.materials[0].name == "surface" and np.array_equal(again.textures[0].image, picture(7))


@pytest.mark.parametrize("mirrored", [False, True])
def test_copies_of_a_part_follow_its_new_uvs(tmp_path, mirrored):
    glb = plain_box()
    glb.node(0, translation=[9, 0, 0], scale=[-1 if mirrored else 1, 1, 1])
    mesh = read(tmp_path, glb)
    chosen = choose_uvs(mesh, size=128)
    write_mesh(chosen, tmp_path / "new.glb", {0: picture(7)})
    again = read_mesh(tmp_path / "new.glb")
    assert len(parts_of((tmp_path / "new.glb").read_bytes())[0]["meshes"]) == 1
    for one in (chosen, again):
        uv = one.uv[one.uv_faces]
        first, second = uv[:12], uv[12:]
        assert np.allclose(second[:, [0, 2, 1]] if mirrored else second, first)
    assert np.allclose(again.uv[again.uv_faces], chosen.uv[chosen.uv_faces], atol=1e-7)
    assert np.array_equal(again.vertices[again.faces], mesh.vertices[mesh.faces])


def test_one_texture_out_of_several(tmp_path):
    glb = textured_glb()
    second = glb.material(glb.image(encoded(picture(9))), baseColorFactor=[0.5, 0.5, 0.5, 1])
    vertices = box(*BODY)[BOX.ravel()] + 6
    glb.node([glb.primitive(vertices, np.arange(36, dtype=np.uint16), uv=atlas_uv(12), material=second)])
    mesh = read(tmp_path, glb)
    assert [t.unwrapped for t in choose_uvs(mesh).textures] == [False, False]
    chosen = choose_uvs(mesh, textures="one", size=128)
    assert len(chosen.textures) == 1 and chosen.textures[0].unwrapped and len(chosen.materials) == 2
    write_mesh(chosen, tmp_path / "new.glb", {0: picture(7, 128)})
    new = (tmp_path / "new.glb").read_bytes()
    again = read_mesh(tmp_path / "new.glb")
    assert len(again.textures) == 1 and len(again.materials) == len(again.parts) == 2
    assert np.array_equal(again.textures[0].image, picture(7, 128)) and examine_uvs(again, 0).overlap == 0
    assert encoded(picture(2)) in new, "the normal map stays"
    assert encoded(picture(1)) not in new and encoded(picture(9)) not in new, "what nothing shows has left the file"
    assert len({image["bufferView"] for image in parts_of(new)[0]["images"]}) == 2


def test_overlap_between_materials_counts_for_one_texture(tmp_path):
    """Kept UVs that only overlap once materials share a texture: the report says so, and auto unwraps."""
    path = write_obj(tmp_path)
    mesh = read_mesh(path)
    assert choose_uvs(mesh, textures="one", size=64).textures[0].unwrapped


@pytest.mark.parametrize("options", [{"uv": "new"}, {"textures": "two"}, {"uv": None}])
def test_other_words_are_refused(tmp_path, options):
    with pytest.raises(UsageError, match="must be one of"):
        choose_uvs(read(tmp_path, textured_glb()), **options)


def test_too_many_triangles_to_unwrap(tmp_path, monkeypatch):
    monkeypatch.setattr("dreamfusion_ngp.importer.unwrap.MAX_FACES", 11)
    with pytest.raises(
        MeshError, match=r"mug: 12 triangles of 'material 0' are too many to be unwrapped \(at most 11\)"
    ):
        choose_uvs(read(tmp_path, plain_box()))


def test_an_atlas_that_fails_is_one_line(tmp_path, monkeypatch):
    mesh = read(tmp_path, plain_box())

    def crash(*_):
        raise AtlasError("it stopped with exit status -11")

    monkeypatch.setattr("dreamfusion_ngp.importer.unwrap.make_atlas", crash)
    with pytest.raises(
        MeshError, match=r"mug: no UV atlas for 12 triangles: it stopped with .* -11; give it UVs or fewer"
    ):
        choose_uvs(mesh)
    monkeypatch.setattr(
        "dreamfusion_ngp.importer.unwrap.make_atlas", lambda v, f, n, size: (np.arange(8), f, np.zeros((8, 2)), 2)
    )
    with pytest.raises(MeshError, match="mug: the UV atlas of 12 triangles does not fit one texture of 1024 texels"):
        choose_uvs(mesh)


def test_uvs_that_materials_share_without_overlap_are_kept_for_one_texture(tmp_path):
    glb, uv = Glb(), atlas_uv(24)
    for k in range(2):
        material = glb.material(glb.image(encoded(picture(k, 64))))
        vertices = box(*BODY)[BOX.ravel()] + 6 * k
        part = uv[36 * k : 36 * k + 36]
        glb.node([glb.primitive(vertices, np.arange(36, dtype=np.uint16), uv=part, material=material)])
    mesh = read(tmp_path, glb)
    chosen = choose_uvs(mesh, textures="one")
    assert not chosen.textures[0].unwrapped and choose_uvs(mesh, "keep", "one").textures == chosen.textures
    start = start_image(mesh, chosen, 0, 64)
    at = np.floor(uv.reshape(-1, 3, 2).mean(1) * 64).astype(int)
    for k in range(2):
        x, y = at[12 * k : 12 * k + 12].T
        assert np.abs(start[y, x].astype(int) - picture(k, 64)[y, x]).max() <= 1
    write_mesh(chosen, tmp_path / "new.glb", {0: start})
    again = read_mesh(tmp_path / "new.glb")
    assert len(again.textures) == 1 and np.array_equal(again.uv, mesh.uv) and np.array_equal(again.faces, mesh.faces)
    old, new = glb.bytes(), (tmp_path / "new.glb").read_bytes()
    assert [values_of(new, k) for k in range(6)] == [values_of(old, k) for k in range(6)]


def test_a_mesh_is_written_back_in_its_own_format(tmp_path):
    mesh = read(tmp_path, textured_glb())
    for name in ("new.obj", "new.gltf", "new"):
        with pytest.raises(UsageError, match="mug is written back as .glb, not as"):
            write_mesh(mesh, tmp_path / name, {})
    with pytest.raises(UsageError, match="written back as .obj, not as .glb"):
        write_mesh(read_mesh(write_obj(tmp_path)), tmp_path / "new.glb", {})


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    from dreamfusion_ngp.base.errors import ExportError

    with pytest.raises(ExportError, match="cannot write to"):
        write_mesh(read(tmp_path, textured_glb()), tmp_path / "file" / "new.glb", {})
