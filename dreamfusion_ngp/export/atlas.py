"""UV atlases by xatlas, in a separate process: xatlas can crash on a dense mesh, and would take a run with it. The mesh
and the atlas go through pipes, which need no folder to write to."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import numpy as np

PADDING = 4  # texels between charts


class AtlasError(Exception):
    """xatlas made no atlas; the message says why."""


def make_atlas(vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray, size: int):
    """(source vertex of every new vertex (W,), faces (F, 3), uv (W, 2) in [0, 1], number of textures) for a mesh of
    float32 vertices and normals (V, 3) and uint32 faces (F, 3), for textures of size x size texels. Raises
    AtlasError."""
    buffer = io.BytesIO()
    np.savez(buffer, vertices=vertices, faces=faces, normals=normals, size=size)
    try:  # in its own session: closing the terminal ends its programs, but not this one
        child = subprocess.run(
            [sys.executable, "-P", __file__], input=buffer.getvalue(), capture_output=True, start_new_session=True
        )
    except OSError as error:
        raise AtlasError(f"{sys.executable} cannot be started: {error.strerror or error}") from None
    if child.returncode:
        lines = child.stderr.decode(errors="replace").strip().splitlines()
        raise AtlasError(lines[-1] if lines else f"it stopped with exit status {child.returncode}")
    with np.load(io.BytesIO(child.stdout)) as atlas:
        return atlas["source"], atlas["faces"], atlas["uv"], int(atlas["count"])


def main() -> None:
    """The child: a mesh on standard input, its atlas on standard output."""
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # keeps what xatlas prints out of the answer
    import xatlas

    with np.load(io.BytesIO(sys.stdin.buffer.read())) as mesh:
        atlas, options = xatlas.Atlas(), xatlas.PackOptions()
        atlas.add_mesh(mesh["vertices"], mesh["faces"], mesh["normals"])
        options.resolution, options.padding = int(mesh["size"]), PADDING
    atlas.generate(pack_options=options)
    source, faces, uv = atlas[0]
    buffer = io.BytesIO()
    np.savez(buffer, source=source, faces=faces, uv=uv, count=atlas.atlas_count)
    with answer:
        answer.write(buffer.getvalue())


if __name__ == "__main__":
    main()
    os._exit(0)  # the atlas is written: a crash while xatlas unloads must not lose it
