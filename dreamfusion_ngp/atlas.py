"""UV atlases by xatlas, in a process of its own: it can crash where a mesh is dense, and would take a run with it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

PADDING = 4  # texels between charts


class AtlasError(Exception):
    """xatlas did not come back with an atlas; says why."""


def make_atlas(vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray, size: int):
    """(source vertex of every new vertex (W,), faces (F, 3), uv (W, 2) in [0, 1], number of textures) for a mesh of
    float32 vertices and normals (V, 3) and uint32 faces (F, 3), for textures of size x size texels. Raises
    AtlasError."""
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "mesh.npz", Path(folder) / "atlas.npz"
        np.savez(given, vertices=vertices, faces=faces, normals=normals, size=size)
        child = subprocess.run([sys.executable, "-P", __file__, str(given), str(found)], capture_output=True, text=True)
        if child.returncode:
            lines = child.stderr.strip().splitlines()
            raise AtlasError(lines[-1] if lines else f"it stopped with exit status {child.returncode}")
        with np.load(found) as atlas:
            return atlas["source"], atlas["faces"], atlas["uv"], int(atlas["count"])


def main(given: str, found: str) -> None:
    import xatlas

    with np.load(given) as mesh:
        atlas, options = xatlas.Atlas(), xatlas.PackOptions()
        atlas.add_mesh(mesh["vertices"], mesh["faces"], mesh["normals"])
        options.resolution, options.padding = int(mesh["size"]), PADDING
    atlas.generate(pack_options=options)
    source, faces, uv = atlas[0]
    np.savez(found, source=source, faces=faces, uv=uv, count=atlas.atlas_count)


if __name__ == "__main__":
    main(*sys.argv[1:])
