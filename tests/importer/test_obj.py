"""OBJ: polygons as they are indexed, and a text that comes back but for its library."""

import io
import os

import numpy as np
import pytest
import trimesh
from PIL import Image
from support.mesh_files import BODY, BOX, box, encoded, mug, obj_text, picture, write_obj

from dreamfusion_ngp.base.errors import MeshError
from dreamfusion_ngp.importer.read import read_mesh
from dreamfusion_ngp.importer.unwrap import choose_uvs
from dreamfusion_ngp.importer.write import mesh_files, write_mesh


def image_in(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_the_arrays_are_those_of_the_file(tmp_path):
    mesh = read_mesh(write_obj(tmp_path))
    assert mesh.faces.tolist() == [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [8, 9, 11], [8, 11, 10]]
    assert mesh.uv.shape == (8, 2) and np.array_equal(mesh.uv[2], np.float32([0.45, 0.9]))
    no = [-1, -1, -1]
    assert mesh.uv_faces.tolist() == [[0, 1, 2], [0, 2, 3], no, no, [4, 5, 6], [4, 6, 7]]
    assert np.allclose(mesh.to_file(mesh.vertices), mug()[0], atol=1e-6)
    assert [m.name for m in mesh.materials] == ["clay", "glaze"] and mesh.face_material.tolist() == [0] * 4 + [1] * 2
    assert [p.name for p in mesh.parts] == ["body", "handle"] and mesh.face_part.tolist() == [0] * 4 + [1] * 2


def test_a_material_is_its_image_or_its_colour(tmp_path):
    mesh = read_mesh(write_obj(tmp_path))
    clay, glaze = mesh.materials
    assert mesh.textures[clay.texture].image is None
    assert np.allclose(clay.color, [0.2140411, 0.0508761, 0, 1], atol=1e-6), "sRGB .5 and .25 in linear light"
    assert np.array_equal(mesh.textures[glaze.texture].image, picture(3)) and glaze.color.tolist() == [1, 1, 1, 1]


def test_only_the_library_and_the_image_differ(tmp_path):
    mesh = read_mesh(write_obj(tmp_path))
    paths = write_mesh(mesh, tmp_path / "out" / "new.obj", {1: picture(7, 16)})
    assert [p.rsplit("/", 1)[1] for p in paths] == ["new.mtl", "new_map0_bump.png", "new.png", "new.obj"]
    folder = tmp_path / "out"
    assert (folder / "new.obj").read_text() == obj_text().replace("mtllib mug.mtl", "mtllib new.mtl")
    library = (
        "newmtl clay\nKd 0.5 0.25 0\nNs 10\n\nnewmtl glaze\nKd 1 1 1\nmap_Kd new.png\nmap_Bump new_map0_bump.png\n"
    )
    assert (folder / "new.mtl").read_text() == library
    assert np.array_equal(image_in((folder / "new.png").read_bytes()), picture(7, 16))
    assert np.array_equal(image_in((folder / "new_map0_bump.png").read_bytes()), picture(4))
    again = read_mesh(folder / "new.obj")
    for name in ("vertices", "faces", "uv", "uv_faces", "face_material", "face_part", "matrix"):
        assert np.array_equal(getattr(again, name), getattr(mesh, name)), name
    assert np.array_equal(again.textures[1].image, picture(7, 16)) and again.textures[0].image is None


def test_words_of_a_library_may_be_separated_by_tabs(tmp_path):
    path = write_obj(tmp_path)
    plain = read_mesh(path)
    library = (tmp_path / "mug.mtl").read_text()
    (tmp_path / "mug.mtl").write_text(library.replace(" ", "\t"))
    mesh = read_mesh(path)
    for one, other in zip(mesh.materials, plain.materials, strict=True):
        assert one.name == other.name and np.array_equal(one.color, other.color)
    assert np.array_equal(mesh.textures[1].image, picture(3))
    text = mesh_files(mesh, {1: picture(7, 16)}, "new")["new.mtl"].decode()
    assert "map_Kd new.png\n" in text and "skin/mug.png" not in text and "map_Bump\tnew_map0_bump.png" in text


def test_a_name_that_is_not_utf_8_stays_as_it_is(tmp_path):
    mesh, stem = read_mesh(write_obj(tmp_path)), os.fsdecode(b"caf\xe9")
    files = mesh_files(mesh, {1: picture(7, 16)}, stem)
    assert b"\nmtllib caf\xe9.mtl\n" in b"\n" + files[f"{stem}.obj"]
    assert b"map_Kd caf\xe9.png" in files[f"{stem}.mtl"]


def test_every_material_can_have_an_image_of_its_own(tmp_path):
    mesh = read_mesh(write_obj(tmp_path))
    files = mesh_files(mesh, {0: picture(5), 1: picture(6)}, "new")
    assert b"newmtl clay\nKd 1 1 1\nmap_Kd new_0.png\nNs 10\n" in files["new.mtl"]
    assert np.array_equal(image_in(files["new_0.png"]), picture(5)) and np.array_equal(
        image_in(files["new_1.png"]), picture(6)
    )


def test_one_image_for_all_materials(tmp_path):
    mesh = choose_uvs(read_mesh(write_obj(tmp_path)), textures="one")
    paths = write_mesh(mesh, tmp_path / "out" / "new.obj", {0: picture(7, 16)})
    again = read_mesh(paths[-1])
    assert len(again.textures) == 1 and [m.name for m in again.materials] == ["clay", "glaze"]
    assert np.array_equal(again.textures[0].image, picture(7, 16))


def test_unwrapping_changes_uvs_alone(tmp_path):
    """Vertices keep their lines; polygons of the other texture stay polygons and keep their UVs."""
    mesh = read_mesh(write_obj(tmp_path))
    chosen = choose_uvs(mesh, size=64)
    assert [t.unwrapped for t in chosen.textures] == [True, False], "the clay has faces without UVs"
    paths = write_mesh(chosen, tmp_path / "out" / "new.obj", {0: picture(7, 64), 1: picture(8)})
    text = (tmp_path / "out" / "new.obj").read_text()
    wanted = [line for line in obj_text().splitlines() if line.startswith(("v ", "vn", "o", "g", "usemtl", "s", "l"))]
    assert [line for line in text.splitlines() if line.startswith(("v ", "vn", "o", "g", "usemtl", "s", "l"))] == wanted
    again = read_mesh(paths[-1])
    assert np.array_equal(again.vertices, mesh.vertices) and np.array_equal(again.faces, mesh.faces)
    assert np.array_equal(again.uv[again.uv_faces], chosen.uv[chosen.uv_faces])
    assert "f 9/" in text and len([x for x in text.splitlines() if x.strip().startswith("f ")]) == 4 + 2
    assert "f 1/" in text and text.split("f 1/")[1].split()[0].endswith("/1"), "normals stay"


def test_an_obj_that_names_no_material_gets_one(tmp_path):
    (tmp_path / "box.obj").write_text(trimesh.exchange.obj.export_obj(trimesh.Trimesh(box(*BODY), BOX, process=False)))
    mesh = read_mesh(tmp_path / "box.obj")
    assert np.array_equal(mesh.faces, BOX) and mesh.materials[0].name == ""
    chosen = choose_uvs(mesh, size=64)
    paths = write_mesh(chosen, tmp_path / "out" / "new.obj", {0: picture(7, 64)})
    again = read_mesh(paths[-1])
    assert [m.name for m in again.materials] == ["surface"] and np.array_equal(again.textures[0].image, picture(7, 64))
    assert np.array_equal(again.vertices, mesh.vertices) and np.array_equal(again.faces, mesh.faces)
    seen = trimesh.load(paths[-1], process=False, maintain_order=True)
    assert np.array_equal(np.asarray(seen.visual.material.image), picture(7, 64)), "others read it, too"


def test_windows_files_and_continued_lines(tmp_path):
    path = write_obj(tmp_path, obj_text().replace("\n", "\r\n"))
    mesh = read_mesh(path)
    assert mesh.faces.shape == (6, 3)
    text = mesh_files(mesh, {}, "new")["new.obj"].decode()
    assert text == obj_text().replace("\n", "\r\n").replace("mug.mtl", "new.mtl")
    path.write_bytes(obj_text().replace("\\\n", "").replace("\n", "\r").encode())
    assert np.array_equal(read_mesh(path).faces, mesh.faces)


def test_colours_of_vertices(tmp_path):
    lines = ["v 0 0 0 1 0 0", "v 1 0 0 0 1 0", "v 0 2 0 0 0 0.5", "f 1 2 3"]
    (tmp_path / "a.obj").write_text("\n".join(lines))
    mesh = read_mesh(tmp_path / "a.obj")
    assert np.allclose(mesh.colors, [[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0.2140411, 1]], atol=1e-6)


def test_names_with_spaces_backslashes_and_bytes_that_are_no_utf8(tmp_path):
    path = write_obj(tmp_path, obj_text().replace("mug.mtl", "my mug.mtl").replace("usemtl clay", "usemtl clay brown"))
    library = b"\xef\xbb\xbfnewmtl clay brown\nKd 1 0 0\nnewmtl gl\xe4ze\nmap_Kd -blendu on -mm 0 1 skin\\mug.png\n"
    (tmp_path / "my mug.mtl").write_bytes(library)
    path.write_bytes(path.read_bytes().replace(b"glaze", b"gl\xe4ze"))
    mesh = read_mesh(path)
    assert np.array_equal(mesh.textures[1].image, picture(3)) and mesh.materials[0].color.tolist() == [1, 0, 0, 1]
    files = mesh_files(mesh, {1: picture(7)}, "new")
    assert b"newmtl gl\xe4ze\nKd 1 1 1\nmap_Kd new.png" in files["new.mtl"] and b"usemtl gl\xe4ze" in files["new.obj"]


@pytest.mark.parametrize(
    "change, said",
    [
        (("usemtl clay", "f 1 2 17\nusemtl clay"), "a face names v 17 of 16"),
        (("f 5 8 6  # no UVs", "f 5 8 0"), "a face names vertex 0; the first is 1"),
        (("f 5 8 6  # no UVs", "f 5/9 8/1 6/1"), "a face names vt 9 of 8"),
        (("f 5 8 6  # no UVs", "f 5 8 -9"), "counts back beyond the first line of v"),
        (("f 5 8 6  # no UVs", "f 5 8"), "a face has 2 corners"),
        (("f 5 8 6  # no UVs", "f 5 8 x"), "has a face with 'x', which is no number"),
        (("f 5 8 6  # no UVs", "f 5 8 1/2/3/4"), "more than three numbers"),
        (("f 5 8 6  # no UVs", "f 5 8 99999999999999999999999"), "a face names v"),
        (("v -2.000000  0.0 -1.500000e+00", "v -2.0 0.0"), "a vertex has 2 numbers"),
        (("v -2.000000  0.0 -1.500000e+00", "v -2.0 0.0 1,5"), "has a vertex with '1,5', which is no number"),
        (("v -2.000000  0.0 -1.500000e+00", "v -2.0 0.0 nan"), "not finite"),
        (("v -2.000000  0.0 -1.500000e+00", "v -2.0 0.0 1e999"), "not finite"),
        (("vt 0 0\n", "vt 0 inf\n"), "not finite"),
        (("mug.mtl", "gone.mtl"), "names 'gone.mtl', which is not there (its line mtllib"),
        (("mug.mtl", "../mug.mtl"), "outside of its folder"),
        (("mug.mtl", "/etc/passwd"), "outside of its folder"),
        (("mug.mtl", "C:\\\\mug.mtl"), "only files beside it"),
        (("mug.mtl", "http://x/mug.mtl"), "only files beside it"),
    ],
)
def test_what_is_refused_is_said(tmp_path, change, said):
    assert change[0] in obj_text()
    path = write_obj(tmp_path, obj_text().replace(*change))
    with pytest.raises(MeshError) as caught:
        read_mesh(path)
    assert said in str(caught.value) and str(caught.value).startswith("mug.obj: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change, said",
    [
        (("skin/mug.png", "gone.png"), "names 'gone.png', which is not there"),
        (("skin/mug.png", "../../mug.png"), "outside of its folder"),
        (("skin/mug.png", "link.png"), "leads out of its folder"),
        (("skin/mug.png", "skin"), "which is not there"),
        (("skin/mug.png", "mug.mtl"), "image 'mug.mtl' is damaged or is no image"),
        (("skin/mug.png", "-s 2 2 1 skin/mug.png"), "moved or scaled"),
        (("skin/mug.png", "large.png"), "has 9000 x 1 pixels; at most 8192"),
    ],
)
def test_images_that_are_refused(tmp_path, change, said):
    folder = tmp_path / "home"
    folder.mkdir()
    path = write_obj(folder)
    (tmp_path / "secret.png").write_bytes(encoded(picture(1)))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    Image.new("L", (9000, 1)).save(folder / "large.png")
    library = (folder / "mug.mtl").read_text()
    (folder / "mug.mtl").write_text(library.replace(*change))
    with pytest.raises(MeshError) as caught:
        read_mesh(path)
    assert said in str(caught.value) and str(caught.value).startswith("mug.obj: ") and "\n" not in str(caught.value)


def test_a_map_with_neutral_options_is_read(tmp_path):
    path = write_obj(tmp_path)
    library = (tmp_path / "mug.mtl").read_text().replace("skin/mug.png", "-s 1 1 1 -o 0 0 -clamp on skin/mug.png")
    (tmp_path / "mug.mtl").write_text(library)
    mesh = read_mesh(path)
    assert np.array_equal(mesh.textures[1].image, picture(3)) and mesh.textures[1].wrap == "clamp"


def test_a_file_that_is_no_obj(tmp_path):
    for data, said in (
        (b"\x7fELF\0\0", "is no OBJ file"),
        (b"<html>\n</html>", "has no vertices; is it an OBJ file"),
        (b"", "is empty"),
    ):
        (tmp_path / "a.obj").write_bytes(data)
        with pytest.raises(MeshError, match=f"a.obj: {said}"):
            read_mesh(tmp_path / "a.obj")


def test_a_long_indent_takes_no_time(tmp_path):
    path = tmp_path / "a.obj"
    path.write_bytes(b" " * 3_000_000 + b"v 0 0 0\nv 1 0 0\n v 0 1 0\n" + b"\t" * 100 + b"f 1 2 3\n")
    assert read_mesh(path).faces.tolist() == [[0, 1, 2]]
