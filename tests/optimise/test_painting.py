"""The stage of painted views: the colours of the views come onto the surface, what is kept stays, a run resumes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from support.imported_meshes import gray_box

from dreamfusion_ngp.config.presets import preset
from dreamfusion_ngp.config.schema import MeshConfig, OptimConfig, PaintConfig
from dreamfusion_ngp.guidance.protocol import GuidanceOutput
from dreamfusion_ngp.optimise import painting
from dreamfusion_ngp.optimise.loop import train
from dreamfusion_ngp.optimise.painted_views import match_colors
from dreamfusion_ngp.optimise.painting import render_sides
from dreamfusion_ngp.render.sides import rasterise_sides, view_weights
from dreamfusion_ngp.runs.checkpoint import load_checkpoint, save_checkpoint
from dreamfusion_ngp.runs.texture import TextureStage
from dreamfusion_ngp.scene.cameras import orbit

SIZE, SIDE = 64, 64
COLORS = torch.tensor(
    [[0.8, 0.2, 0.2], [0.2, 0.7, 0.3], [0.2, 0.3, 0.8], [0.7, 0.7, 0.2]]
)  # of front, left, back, right
RED = torch.tensor([0.9, 0.1, 0.1])


class Red:
    """A guidance that wants every picture red."""

    calls = 0

    def tensors(self):
        return {}

    def __call__(self, image, views, part, progress):
        Red.calls += 1
        return GuidanceOutput((image - RED) / image[0].numel(), (image - RED).square().mean(), {})


@pytest.fixture
def painter(monkeypatch):
    """A painter that gives every side a colour of its own; what it was shown."""
    seen = []

    def paint(painter, pictures, depth, config, seed, known=None):
        seen.append((pictures, depth, known))
        if not config.together:
            return COLORS[len(seen) - 1].expand(pictures.shape).clone()
        columns = pictures.shape[2] // SIDE
        sides = COLORS[[0, 1, 2, 3, 0, 1][: 2 * columns]][:, None, None].expand(-1, SIDE, SIDE, -1)
        made = painting.tiled(sides, columns)
        return made if known is None else torch.where(known[..., None] > 0.5, pictures, made)

    monkeypatch.setattr(painting, "repaint", paint)
    monkeypatch.setattr(painting, "match_colors", lambda views, *rest: views)
    monkeypatch.setattr(TextureStage, "load", lambda stage, config, device: None)
    return seen


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    return gray_box(tmp_path_factory.mktemp("box") / "a box.glb")


def stage_of(box, steps=120, keep="", **paint):
    config = preset("refine")
    return TextureStage.start(
        replace(
            config,
            prompt="a red cube",
            steps=steps,
            views=1,
            render=replace(config.render, resolution=20),
            mesh=MeshConfig(detail_levels=3, detail_finest=48, detail_log2_table=11),
            optim=OptimConfig(lr_grid=0.05, lr_mlp=0.02),
            paint=replace(PaintConfig(views=4, resolution=SIDE, batch=512, sds=0.0), **paint),
            texture=replace(config.texture, source=str(box), size=SIZE, keep=keep),
        ),
        "cpu",
    )


def trained(stage, until=None):
    losses = []
    train(stage, Red(), lambda r: losses.append(float(r.terms["views"])) or stage.step == until)
    return losses


def side_texels(stage, axis):
    face, place = stage.texels[0]
    a, b, c = np.moveaxis(stage.mesh.vertices[stage.mesh.faces[face.clip(min=0)]], 2, 0)
    normal = np.cross(b - a, c - a)
    normal = normal / np.linalg.norm(normal, axis=-1, keepdims=True)
    return (face >= 0) & (normal @ np.array(axis) > 0.9)


def test_the_colours_of_the_views_come_onto_the_surface(box, painter):
    stage = stage_of(box)
    losses = trained(stage)
    assert losses[-1] < 0.02 * losses[0] and len(painter) == 1
    image = stage.images()[0] / 255
    for color, axis in zip(COLORS, ([0, 0, 1], [1, 0, 0], [0, 0, -1], [-1, 0, 0]), strict=True):
        assert np.abs(np.median(image[side_texels(stage, axis)], 0) - color.numpy()).max() < 0.05


def test_the_painter_sees_one_picture_of_all_sides_and_its_depth(box, painter):
    """Over one flat colour that is not black; white is near, black where nothing is."""
    stage = stage_of(box)
    stage.paint(None)
    (picture, depth, known), sides = painter[0], stage.sides()
    assert picture.shape == (1, 2 * SIDE, 2 * SIDE, 3) and depth.shape == (1, 2 * SIDE, 2 * SIDE) and known is None
    assert torch.equal(depth > 0, painting.tiled(sides.seen)) and depth.max() == 1
    corner = picture[0, 0, 0]
    assert (picture[0][depth[0] == 0] - corner).abs().median() < 1e-6 and corner.min() >= painting.DARKEST
    alone = stage_of(box, together=False)
    painter.clear()
    alone.paint(None)
    assert len(painter) == 4 and painter[0][0].shape == (1, SIDE, SIDE, 3)


def test_six_sides_are_in_a_picture_that_is_not_square(box, painter):
    """Top and bottom, which four sides leave to their neighbours, get colours of their own."""
    stage = stage_of(box, views=6)
    trained(stage)
    assert painter[0][0].shape == (1, 2 * SIDE, 3 * SIDE, 3)
    image = stage.images()[0] / 255
    for color, axis in ((COLORS[0], [0, 1, 0]), (COLORS[1], [0, -1, 0]), (COLORS[3], [-1, 0, 0])):
        assert np.abs(np.median(image[side_texels(stage, axis)], 0) - color.numpy()).max() < 0.05


def test_what_no_side_sees_takes_its_neighbours_colours(box, painter):
    """The top of a box, next to each of four sides, has the colour of that side."""
    stage = stage_of(box, steps=200)
    trained(stage)
    image, top = stage.images()[0] / 255, side_texels(stage, [0, 1, 0])
    face, place = stage.texels[0]
    corners = stage.mesh.vertices[stage.mesh.faces[face[top]]]
    x, _, z = np.moveaxis((corners * place[top][..., None]).sum(1), 1, 0)
    half = np.abs(stage.mesh.vertices).max(0)
    for color, towards, across in ((0, z / half[2], x / half[0]), (1, x / half[0], z / half[2])):
        near = (towards > 0.75) & (np.abs(across) < 0.6)
        assert near.sum() > 5 and np.abs(np.median(image[top][near], 0) - COLORS[color].numpy()).max() < 0.1


def test_what_is_kept_is_known_to_the_painter_and_stays_to_the_bit(box, painter):
    stage = stage_of(box, keep="front")
    before = stage.images()[0]
    trained(stage)
    known = painter[0][2][0]
    assert known[:SIDE, :SIDE].max() == 1 and not known[SIDE:, :SIDE].any(), "the front and not the back"
    whole = (stage.texels[0][0] >= 0) & (stage.surface.kept[0].numpy() == 1)
    after = stage.images()[0]
    assert whole.sum() > 100 and np.array_equal(after[whole], before[whole])
    back = side_texels(stage, [0, 0, -1])
    assert np.abs(np.median(after[back] / 255, 0) - COLORS[2].numpy()).max() < 0.05


def test_score_distillation_has_its_share(box, painter):
    """None: the guidance is never asked. Much: the painted colours give way."""
    Red.calls = 0
    trained(stage_of(box, steps=3))
    assert Red.calls == 0
    stage = stage_of(box, sds=100.0)
    trained(stage)
    back = np.median(stage.images()[0][side_texels(stage, [0, 0, -1])] / 255, 0)
    assert Red.calls == 120 and back[0] > 0.6


@pytest.mark.parametrize("until", [0, 2])
def test_resumes_bit_exactly_and_is_painted_once(box, painter, tmp_path, until):
    whole = stage_of(box, steps=6, sds=0.5)
    losses = trained(whole)
    part = stage_of(box, steps=6, sds=0.5)
    before = trained(part, until=until) if until else []
    save_checkpoint(tmp_path / "c.safetensors", part)
    painter.clear()
    again = load_checkpoint(tmp_path / "c.safetensors", "cpu")
    assert before + trained(again) == losses and len(painter) == (0 if until else 1)
    assert all(np.array_equal(again.images()[k], v) for k, v in whole.images().items())


def test_views_of_one_ball_are_given_one_another_s_colours():
    """True views, each with a constant of its own: afterwards they agree, and with what stays of one of them they are
    true."""
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.5)
    surface = torch.tensor(ball.vertices, dtype=torch.float32), torch.tensor(ball.faces, dtype=torch.int32)
    sides = rasterise_sides(*surface, orbit([0.0, 90.0, 180.0, 270.0], 0.0, 1.5, 1.2), 96)
    true = (sides.x * 0.5 + 0.5) * sides.seen[..., None]
    offset = torch.tensor([[0.05, 0, 0], [0, 0.06, 0], [0, 0, -0.05], [-0.06, 0, 0.05]])
    weight = view_weights(sides, 0.2, 6.0, 2)
    painted = true + offset[:, None, None]
    found = match_colors(painted, sides, weight, true, torch.zeros_like(weight))
    there = weight > 0
    assert spread(found - true, there) < 0.2 * spread(painted - true, there)
    kept = torch.zeros_like(weight)
    kept[0] = 1
    assert (match_colors(painted, sides, weight, true, kept) - true)[there].abs().max() < 0.02


def spread(difference, there):
    """How far the mean differences of views are from one another."""
    means = torch.stack([difference[i][there[i]].mean(0) for i in range(len(difference))])
    return (means - means.mean(0)).abs().max()


def test_sides_are_shown_unlit_as_they_are(box):
    stage = stage_of(box)
    sides = stage.sides()
    image = render_sides(stage.surface, sides, stage.config)
    middle = image[:, SIDE // 2 - 2 : SIDE // 2 + 2, SIDE // 2 - 2 : SIDE // 2 + 2].mean((1, 2)) * 255
    grays = middle.round().int()
    assert set(grays[:, 0].tolist()) <= {40, 80, 120, 160, 200, 240} and len(set(grays[:, 0].tolist())) == 4
