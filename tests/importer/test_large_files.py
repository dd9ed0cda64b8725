"""Files that are large, or say that they are: what is read costs bounded memory and time."""

import subprocess
import sys
import time
import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import pytest
from support.mesh_files import BODY, BOX, Glb, box, encoded, outcome, picture, textured_glb

from dreamfusion_ngp.importer.read import read_mesh
from dreamfusion_ngp.importer.write import write_mesh


def test_counts_are_checked_before_memory_is_taken(tmp_path):
    """A small file that speaks of 10^12 elements."""
    for key, value in (("count", 10**12), ("byteOffset", 10**12), ("bufferView", 10**6), ("count", 1 << 63)):
        glb = textured_glb()
        glb.json["accessors"][0][key] = value
        (tmp_path / "mug.glb").write_bytes(glb.bytes())
        tracemalloc.start()
        assert "is damaged" in outcome(tmp_path / "mug.glb")
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
        tracemalloc.stop()


def test_an_image_that_would_fill_the_memory(tmp_path):
    """20 kB of PNG for 400 million pixels; 8,000 x 8,000 several times."""
    glb = Glb()
    bomb = encoded(np.zeros((1, 20000, 3), np.uint8))
    bomb = bomb[:16] + (20000).to_bytes(4, "big") * 2 + bomb[24:]  # says 20,000 rows
    head = bomb[12:29]
    bomb = bomb[:29] + zlib.crc32(head).to_bytes(4, "big") + bomb[33:]
    uv = np.zeros((8, 2), np.float32)
    glb.node([glb.primitive(box(*BODY), BOX, uv=uv, material=glb.material(glb.image(bomb)))])
    (tmp_path / "mug.glb").write_bytes(glb.bytes())
    tracemalloc.start()
    assert "far more than 8192 x 8192 pixels" in outcome(tmp_path / "mug.glb")
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


def test_images_that_are_too_many_together(tmp_path, monkeypatch):
    monkeypatch.setattr("dreamfusion_ngp.importer.images.MAX_PIXELS", 100)
    glb = Glb()
    uv = np.zeros((8, 2), np.float32)
    for k in range(2):
        material = glb.material(glb.image(encoded(picture(k))))
        glb.node([glb.primitive(box(*BODY), BOX, uv=uv, material=material)])
    (tmp_path / "mug.glb").write_bytes(glb.bytes())
    assert "its images have more than 100 pixels together" in outcome(tmp_path / "mug.glb")


def test_a_file_that_is_too_large(tmp_path):
    with open(tmp_path / "mug.stl", "wb") as file:
        file.truncate((1 << 30) + 1)
    assert "more than 1,073,741,824 are not read" in outcome(tmp_path / "mug.stl")


def test_a_scene_of_many_small_things_takes_its_time_once(tmp_path):
    """4,000 nodes, meshes, accessors and views, read, unwrapped and written in a time that grows with their number."""
    glb = Glb()
    for k in range(4000):
        glb.node([glb.primitive(box([k, 0, 0], [k + 0.5, 1, 1])[:3], np.array([[0, 1, 2]], np.uint16))])
    (tmp_path / "many.glb").write_bytes(glb.bytes())
    began = time.process_time()
    mesh = read_mesh(tmp_path / "many.glb")
    assert len(mesh.parts) == len(mesh.faces) == 4000
    fake = replace(mesh, uv=np.zeros((3, 2), np.float32), uv_faces=np.tile(np.int32([0, 1, 2]), (4000, 1)))
    fake = replace(fake, textures=(replace(mesh.textures[0], unwrapped=True),))
    write_mesh(fake, tmp_path / "new.glb", {0: picture(1)})
    assert time.process_time() - began < 20 and len(read_mesh(tmp_path / "new.glb").faces) == 4000


def test_too_many_materials(tmp_path):
    lines = ["v 0 0 0", "v 1 0 0", "v 0 1 0"] + [f"usemtl m{k}\nf 1 2 3" for k in range(1001)]
    (tmp_path / "many.obj").write_text("\n".join(lines))
    assert "has more than 1,000 materials" in outcome(tmp_path / "many.obj")
    glb = Glb()
    first = glb.primitive(box(*BODY), BOX)
    glb.node([first | {"material": glb.material()} for _ in range(1001)])
    (tmp_path / "many.glb").write_bytes(glb.bytes())
    assert "has more than 1,000 materials" in outcome(tmp_path / "many.glb")


@pytest.mark.slow
def test_a_million_triangles_within_two_gigabytes(tmp_path):
    """In a process of its own; seconds of a core. Its peak is asked of /proc, since getrusage's begins with that of the
    process that forked it."""
    n = 708
    u, v = np.meshgrid(np.linspace(0, 1, n, dtype=np.float32), np.linspace(0, 1, n, dtype=np.float32))
    vertices = np.stack([u, v, np.sin(9 * u) * np.sin(7 * v) / 9], -1).reshape(-1, 3)
    i = np.arange(n * n, dtype=np.uint32).reshape(n, n)
    quads = np.stack([i[:-1, :-1], i[:-1, 1:], i[1:, 1:], i[1:, :-1]], -1).reshape(-1, 4)
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    glb = Glb()
    uv = np.stack([u, v], -1).reshape(-1, 2)
    glb.node([glb.primitive(vertices, faces, uv=uv, material=glb.material(glb.image(encoded(picture(1, 1024)))))])
    (tmp_path / "big.glb").write_bytes(glb.bytes())
    with open(tmp_path / "big.obj", "w") as file:
        np.savetxt(file, vertices, "v %.6f %.6f %.6f")
        np.savetxt(file, uv, "vt %.6f %.6f")
        np.savetxt(file, np.repeat(faces + 1, 2, axis=1), "f %d/%d %d/%d %d/%d")
    code = (
        "import sys, time\n"
        "from dreamfusion_ngp.importer.read import read_mesh\n"
        "from dreamfusion_ngp.importer.unwrap import choose_uvs\n"
        "from dreamfusion_ngp.importer.write import write_mesh\n"
        "from dreamfusion_ngp.importer.bake import start_image\n"
        "from dreamfusion_ngp.scene.topology import examine_topology\n"
        "mesh = read_mesh(sys.argv[1])\n"
        "chosen = choose_uvs(mesh)\n"
        "assert not chosen.textures[0].unwrapped and len(mesh.faces) == 999_698\n"
        "report = examine_topology(mesh)\n"
        "assert report.holes == 1 and report.boundary_edges == 4 * 707, report\n"
        "write_mesh(chosen, sys.argv[2], {0: start_image(mesh, chosen, 0, 1024)})\n"
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(int(peak.split()[1]) / 1e6, time.process_time())\n"
    )
    for name in ("big.glb", "big.obj"):
        command = [sys.executable, "-P", "-c", code, str(tmp_path / name), str(tmp_path / "out" / name)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        gigabytes, seconds = map(float, done.stdout.split())
        assert gigabytes < 2 and seconds < 120, f"{name}: {gigabytes:.2f} GB, {seconds:.0f} s"
