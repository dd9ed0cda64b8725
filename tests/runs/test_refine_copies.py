"""Meshes with instanced parts, which share the texels of one: what guidance sees is what is written."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.mesh_files import BOX, Glb, atlas_uv, box

from dreamfusion_ngp.config.presets import preset
from dreamfusion_ngp.config.schema import MeshConfig
from dreamfusion_ngp.runs.texture import TextureStage

SIZE = 64


def two_boxes(tmp_path, mirrored: bool, turned: bool = False):
    """A box before another one that is the same mesh, perhaps a mirror image, perhaps with its back to the front."""
    glb = Glb()
    corner = box([0, 0, 0], [1, 2, 0.5])[BOX.astype(np.int64).ravel()]
    uv, index = atlas_uv(12), np.arange(36, dtype=np.uint16).reshape(-1, 3)
    glb.node([glb.primitive(corner, index, uv=uv, material=glb.material())])
    glb.json["materials"][0]["pbrMetallicRoughness"] = {"baseColorFactor": [0.2, 0.2, 0.2, 1]}
    scale = [-1 if mirrored else 1, 1, 1]
    glb.node(0, translation=[2.5, 0, 0], scale=scale, rotation=[0, 1, 0, 0] if turned else [0, 0, 0, 1])
    path = tmp_path / "two.glb"
    path.write_bytes(glb.bytes())
    return path


def stage_of(path, **texture):
    config = preset("refine")
    mesh = MeshConfig(detail_levels=3, detail_finest=48, detail_log2_table=11)
    source = replace(config.texture, source=str(path), size=SIZE, **texture)
    return TextureStage.start(replace(config, prompt="a red cube", mesh=mesh, texture=source), "cpu")


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_copy_is_seen_in_the_colours_that_are_written(tmp_path, mirrored):
    stage = stage_of(two_boxes(tmp_path, mirrored))
    surface = stage.surface
    with torch.no_grad():
        for parameter in surface.parameters():
            parameter.normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
    surface.refresh()
    written = torch.from_numpy(stage.images()[0]).float() / 255
    face, place = (torch.from_numpy(v) for v in stage.texels[0])
    row, column = (face >= 0).nonzero().T
    face, place = face[row, column].long(), place[row, column].float()
    assert written[row, column].std() > 0.02
    for k in range(2):
        copy, order = face + 12 * k, [0, 2, 1] if mirrored and k else [0, 1, 2]
        x = (surface.vertices[surface.faces[copy].long()] * place[:, order, None]).sum(1)
        seen = surface.paint(x, copy.int(), place[:, order])
        assert (seen - written[row, column]).abs().max() < 0.004, k


@pytest.mark.parametrize("mirrored", [False, True])
def test_texels_that_are_seen_on_a_copy_alone_are_kept(tmp_path, mirrored):
    """Of a box and a copy with its back to the front, the front shows both sides."""
    stage = stage_of(two_boxes(tmp_path, mirrored, turned=True), keep="front")
    corner = stage.mesh.vertices[stage.mesh.faces[:12]]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    kept, face = stage.surface.kept[0].numpy(), stage.texels[0][0]
    assert ((face >= 0) & (face < 12)).any() and face.max() < 12
    share = np.array([kept[face == k].mean() for k in range(12)])
    across = np.abs(normal[:, 2]) > 0.9 * np.linalg.norm(normal, axis=1)
    assert across.sum() == 4 and (share[across] > 0.7).all() and not share[~across].any()
