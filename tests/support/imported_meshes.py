"""Imported meshes of arrays, without a file, and a file of a box."""

import numpy as np
import trimesh
from PIL import Image

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


def gray_box(path):
    """A GLB of a box of 3 x 2 x 1 away from the origin, six squares of one image in six grays."""
    made = trimesh.creation.box(extents=(3.0, 2.0, 1.0))
    corners = made.vertices[made.faces.reshape(-1)]
    side = np.repeat(np.abs(made.face_normals).argmax(1) * 2 + (made.face_normals.max(1) > 0.5), 3)
    plane = np.stack([np.delete(c, s // 2) for c, s in zip(corners, side, strict=True)])
    unit = (plane - plane.min(0)) / np.ptp(plane, axis=0)
    low = np.stack([plane[side == s].min(0) for s in range(6)])[side]
    high = np.stack([plane[side == s].max(0) for s in range(6)])[side]
    unit = (plane - low) / (high - low)
    uv = np.stack([(side % 3 + 0.1 + 0.8 * unit[:, 0]) / 3, (side // 3 + 0.1 + 0.8 * unit[:, 1]) / 2], -1)
    image = np.repeat(np.repeat(np.array([[40, 80, 120], [160, 200, 240]], np.uint8)[::-1], 48, 0), 32, 1)
    texture = Image.fromarray(np.stack([image] * 3, -1))
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=texture)
    mesh = trimesh.Trimesh(
        corners + np.array([10.0, -4.0, 2.0]),
        np.arange(len(corners)).reshape(-1, 3),
        process=False,
        visual=trimesh.visual.TextureVisuals(uv=uv, material=material),
    )
    path.write_bytes(trimesh.Scene(mesh).export(file_type="glb"))
    return path
