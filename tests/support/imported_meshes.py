"""Imported meshes of arrays, without a file."""

import numpy as np

from dreamfusion_ngp.scene.imported import ImportedMesh, Material, Part, Texture


def mesh(vertices, faces) -> ImportedMesh:
    """One part with one white material and no UVs. vertices: (V, 3), world units. faces: (F, 3)."""
    vertices, faces = np.asarray(vertices, np.float32), np.asarray(faces, np.int32).reshape(-1, 3)
    zeros = np.zeros(len(faces), np.int32)
    return ImportedMesh(
        "test",
        vertices,
        faces,
        np.zeros((0, 2), np.float32),
        np.full_like(faces, -1),
        None,
        (Material("one", 0, np.ones(4, np.float32)),),
        zeros,
        (Texture("one"),),
        (Part("one"),),
        zeros,
        np.eye(4),
        None,
    )
