"""What a texture starts with: the image that is kept, or the old colours in a new atlas."""

import numpy as np
import pytest
from support.mesh_files import BODY, BOX, Glb, box, encoded, picture, textured_glb

from dreamfusion_ngp.base.errors import UsageError
from dreamfusion_ngp.importer.bake import alpha_at, start_image
from dreamfusion_ngp.importer.read import read_mesh
from dreamfusion_ngp.importer.unwrap import choose_uvs
from dreamfusion_ngp.importer.write import write_mesh


def read(folder, glb: Glb):
    (folder / "mug.glb").write_bytes(glb.bytes())
    return read_mesh(folder / "mug.glb")


def test_the_start_of_a_kept_texture_is_the_image(tmp_path):
    mesh = read(tmp_path, textured_glb())
    assert np.array_equal(start_image(mesh, mesh, 0, 16), np.asarray(trimesh_resize(picture(1), 16)))
    glb = textured_glb()
    glb.json["textures"][0]["source"] = glb.add("images", {"bufferView": glb.view(encoded(picture(1, 64)))})
    mesh = read(tmp_path, glb)
    assert np.array_equal(start_image(mesh, mesh, 0, 64), picture(1, 64))


def trimesh_resize(image, size):
    from PIL import Image

    return Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS)


def test_the_start_of_a_new_atlas_has_the_old_colours(tmp_path):
    """Every face in a colour of its own in the old image: it has that in the new one, times the material's."""
    glb = Glb()
    colors = np.random.default_rng(0).integers(20, 256, (16, 3), np.uint8)
    image = np.repeat(np.repeat(colors.reshape(4, 4, 3), 16, 0), 16, 1)
    material = glb.material(glb.image(encoded(image)), baseColorFactor=[1.0, 0.5, 1.0, 1.0])
    vertices = box(*BODY)[BOX.ravel()]
    uv = np.repeat((np.stack([np.arange(12) % 4, np.arange(12) // 4], -1) + 0.5) / 4, 3, 0)
    uv = (uv + np.tile([[0, 0], [0, 0.05], [0.05, 0]], (12, 1))).astype(np.float32)
    glb.node([glb.primitive(vertices, np.arange(36, dtype=np.uint16), uv=uv, material=material)])
    mesh = read(tmp_path, glb)
    chosen = choose_uvs(mesh, "unwrap", size=256)
    start = start_image(mesh, chosen, 0, 256)
    middle = chosen.uv[chosen.uv_faces].mean(1)
    found = start[((1 - middle[:, 1]) * 256).astype(int), (middle[:, 0] * 256).astype(int)]
    light = lambda c: np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)  # noqa: E731
    wanted = light(colors[:12] / 255) * [1, 0.5, 1]
    assert np.abs(light(found / 255) - wanted).max() < 0.005
    corners = {tuple(one) for one in start.reshape(-1, 3).tolist()}
    assert len(corners) <= 12, "the padding repeats them"


def test_the_start_has_colours_of_vertices(tmp_path):
    glb = Glb()
    colors = np.zeros((8, 4), np.float32)
    colors[:, 3] = 1
    colors[:4, 0] = 1  # the side at -X is red
    colors[4:, 2] = 1
    glb.node([glb.primitive(box(*BODY), BOX, colors=colors)])
    mesh = read(tmp_path, glb)
    chosen = choose_uvs(mesh, size=256)
    start = start_image(mesh, chosen, 0, 256)
    middle = chosen.uv[chosen.uv_faces].mean(1)
    found = start[((1 - middle[:, 1]) * 256).astype(int), (middle[:, 0] * 256).astype(int)]
    assert (found[:2] == [255, 0, 0]).all() and (found[2:4] == [0, 0, 255]).all()


def test_sizes_of_a_start(tmp_path):
    mesh = read(tmp_path, textured_glb())
    for size in (15, 4097, 0):
        with pytest.raises(UsageError, match="texture size must be between 16 and 4096"):
            start_image(mesh, mesh, 0, size)


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), None])
def test_images_of_another_kind_are_refused(tmp_path, bad):
    mesh = read(tmp_path, textured_glb())
    with pytest.raises(ValueError, match="an image must be"):
        write_mesh(mesh, tmp_path / "new.glb", {0: bad})
    with pytest.raises(ValueError, match="the mesh has 1 textures, no number 3"):
        write_mesh(mesh, tmp_path / "new.glb", {3: picture(1)})
    with pytest.raises(ValueError, match="texture 0 has new UVs, which its old image does not fit"):
        write_mesh(choose_uvs(mesh, "unwrap", size=64), tmp_path / "new.glb", {})
    assert not (tmp_path / "new.glb").exists()


@pytest.mark.parametrize("options", [{"uv": "unwrap"}, {"textures": "one"}, {"uv": "unwrap", "textures": "one"}])
@pytest.mark.parametrize("kind", ["glb", "obj"])
def test_alpha_follows_new_uvs_and_one_image_for_all(tmp_path, kind, options):
    """Of two materials one has an image that is clear for every other face: each face keeps its own alpha."""
    alpha = np.array([40 if k % 2 else 220 for k in range(16)], np.uint8)
    cells = np.repeat(np.repeat(alpha.reshape(4, 4), 16, 0), 16, 1)
    image = np.concatenate([np.full((64, 64, 3), 90, np.uint8), cells[..., None]], -1)
    made = (cell_box_glb if kind == "glb" else cell_box_obj)(tmp_path, image)
    mesh = read_mesh(made)
    chosen = choose_uvs(mesh, size=256, **options)
    new = {number: np.full((256, 256, 3), 200, np.uint8) for number in range(len(chosen.textures))}
    write_mesh(chosen, tmp_path / "out" / made.name, new)
    again = read_mesh(tmp_path / "out" / made.name)
    middle = alpha_at(again, np.arange(24), np.full((24, 3), 1 / 3, np.float32))
    wanted = np.concatenate([alpha[:12], np.full(12, 255)])
    assert np.abs(middle.astype(int) - wanted).max() <= 2


def cell_uv() -> np.ndarray:
    """(36, 2) float32: each of twelve faces in the middle of a cell of 4 x 4, in reading order."""
    uv = np.repeat((np.stack([np.arange(12) % 4, np.arange(12) // 4], -1) + 0.5) / 4, 3, 0)
    return (uv + np.tile([[0, 0], [0, 0.05], [0.05, 0]], (12, 1))).astype(np.float32)


def cell_box_glb(folder, image):
    glb, uv, index = Glb(), cell_uv(), np.arange(36, dtype=np.uint16)
    glb.node([glb.primitive(box(*BODY)[BOX.ravel()], index, uv=uv, material=glb.material(glb.image(encoded(image))))])
    other = (uv / 4 + [0, 0.76]).astype(np.float32)  # beside the cells, in the last row
    glb.node([glb.primitive(box([9, 0, 0], [10, 1, 1])[BOX.ravel()], index, uv=other, material=glb.material())])
    (folder / "mug.glb").write_bytes(glb.bytes())
    return folder / "mug.glb"


def cell_box_obj(folder, image):
    uv = cell_uv()
    (folder / "skin.png").write_bytes(encoded(image))
    (folder / "mug.mtl").write_text("newmtl skin\nmap_Kd skin.png\nnewmtl plain\nKd 1 0 0\n")
    lines = ["mtllib mug.mtl"]
    for corner, more in ((box(*BODY), uv), (box([9, 0, 0], [10, 1, 1]), uv / 4 + [0, 0.76])):
        lines += ["v {} {} {}".format(*p) for p in corner[BOX.ravel()]] + [f"vt {u} {1 - v}" for u, v in more]
    for k in range(24):
        lines += [f"usemtl {'plain' if k else 'skin'}"] if k % 12 == 0 else []
        lines += ["f " + " ".join(f"{3 * k + c}/{3 * k + c}" for c in (1, 2, 3))]
    (folder / "mug.obj").write_text("\n".join(lines) + "\n")
    return folder / "mug.obj"
